"""Print tables by class in a form that fits the terminal, for two classes as for twenty."""

from collections.abc import Mapping, Sequence

from pneumonia.system.console import CONSOLE, table

BORDER = 3  # characters beside the text of each column
Rows = Sequence[Sequence[str]]


def print_class_counts(title: str, classes: Sequence[str], rows: Rows, others: Sequence[str] = ()) -> None:
    """Print counts of images: a row for each subset, and a column for each class; the other way round where that is too wide.

    Args:
        title: Of the table.
        classes: Their names.
        rows: The name of the subset, its counts by class, and the values of ``others``.
        others: Headings of more columns.
    """
    lines: Rows = [("subset", *classes, *others), *rows]
    if not _fits(lines):
        lines = list(zip(*lines, strict=True))
    table(title, lines[0], lines[1:])


def print_confusion(
    title: str, classes: Sequence[str], counts: Sequence[Sequence[int]], rates: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Print counts by true class (rows) and predicted class (columns), which have numbers where names are too wide.

    Of more classes than fit by number, print how many are correct and the most frequent error.

    Args:
        title: Of the table.
        classes: Their names.
        counts: ``(K, K)`` counts.
        rates: Values by class of more columns, by heading.
    """
    rates = rates or {}
    cells = [[str(count) for count in row] for row in counts]
    numbered = [f"{number} {name}" for number, name in enumerate(classes, 1)]
    by_name = _joined(classes, rates, [f"as {name}" for name in classes], cells)
    by_number = _joined(numbered, rates, [f"as {number}" for number in range(1, len(classes) + 1)], cells)
    errors = [_correct_and_most(number, row, classes) for number, row in enumerate(counts)]
    in_short = _joined(classes, rates, ["images", "correct", "most frequent error"], errors)
    chosen = next((lines for lines in (by_name, by_number) if _fits(lines)), in_short)
    table(title, chosen[0], chosen[1:])


def _joined(names: Sequence[str], rates: Mapping[str, Sequence[str]], headings: Sequence[str], cells: Rows) -> Rows:
    beside = list(zip(*rates.values(), strict=True)) or [()] * len(names)
    rows = [(name, *values, *row) for name, values, row in zip(names, beside, cells, strict=True)]
    return [("class", *rates, *headings), *rows]


def _correct_and_most(number: int, row: Sequence[int], classes: Sequence[str]) -> list[str]:
    wrong = [0 if place == number else count for place, count in enumerate(row)]
    most = max(wrong)
    return [str(sum(row)), str(row[number]), f"as {classes[wrong.index(most)]}: {most}" if most else ""]


def _fits(lines: Rows) -> bool:
    widths = (max(map(len, column)) + BORDER for column in zip(*lines, strict=True))
    return sum(widths) < CONSOLE.width
