"""Read a table of labels (CSV) and match its rows to image files, one row an image."""

import csv
import errno
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Final

from pneumonia.data.images.limits import read_regular_file
from pneumonia.data.sources.class_names import ClassNames
from pneumonia.data.sources.file_names import SUBSET_FOLDERS, bare_name, subset_of
from pneumonia.errors import LabelError, some
from pneumonia.tasks import BACTERIA, NORMAL, UNKNOWN_KIND, VIRUS, folded

FILE_COLUMNS: Final = ("path", "file", "filename", "file_name", "image", "image_id", "id")  # the first that exists
LABEL_COLUMNS: Final = ("label", "class")
YES_NO_COLUMNS: Final = ("pneumonia", "is_pneumonia")  # 0 or 1; the column's name gives their meaning
PATIENT_COLUMNS: Final = ("patient_id", "patient", "patientid")
SUBSET_COLUMNS: Final = ("split", "subset", "part", "source_split")
LABELS: Final = {
    "normal": NORMAL,
    **dict.fromkeys(("virus", "viral", "viral pneumonia"), VIRUS),
    **dict.fromkeys(("bacteria", "bacterial", "bacterial pneumonia"), BACTERIA),
    "pneumonia": UNKNOWN_KIND,
}
CODED: Final = re.compile(r"(label|class)\s*[(\[:](.*?)[)\]]?\s*", re.IGNORECASE)  # label (0=normal, ...)
CODE: Final = re.compile(r"(\d+)\s*=\s*([a-z][\w .-]*?)\s*(?=[^\w .-]|\d+\s*=|$)", re.IGNORECASE)
MAX_BYTES: Final = 100 * 2**20  # a table of 5,856 rows has half a megabyte
ADVICE: Final = (
    "Numbers mean other classes in other tables: write words, or name the column so that it gives their meaning, "
    "for example 'label (0=normal; 1=virus; 2=bacteria)', or 'pneumonia' for 0 and 1."
)

OTHER_CLASSES: Final = "Other classes need a task of their own: task=NAME for `train`, --task FILE for other commands."
Names = Callable[[Path, Path, Path], set[str]]  # the texts that may name a file, below a folder or beside the table
Spelling = Callable[[str], str]


@dataclass(frozen=True)
class Row:
    """A row of the table; ``""`` for what it does not give."""

    line: int
    file: str
    label: str
    patient_id: str
    subset: str


@dataclass(frozen=True)
class Columns:
    """Names of the columns as in the header, ``""`` for a missing one, and the label of each value of the label column."""

    file: str
    label: str
    patient: str
    subset: str
    labels: dict[str, str]


def read_table(path: Path, names: ClassNames | None = None) -> list[Row]:
    """Read all rows of a table of labels.

    Columns are found by name in any case: the image (``path``, ``file``, ``filename``, ``image``, ``image_id``, ``id``), its
    ``label`` or ``class``, and optionally ``patient_id`` or ``patient`` and ``split`` or ``subset``. Labels are
    normal, virus (viral), bacteria (bacterial) and pneumonia, and the classes and synonyms of a task of the user's own; numbers
    only if the header gives their meaning. Separators are commas, semicolons or tabs; the encoding is UTF-8.

    Args:
        path: The file.
        names: Of the classes; ``None`` for those of the releases.

    Raises:
        LabelError: No table, empty, columns missing or duplicate, or invalid cells; all of them are counted.
    """
    header, lines = _cells(path)
    columns = _columns(path, header, LABELS | dict(names.own if names else {}))
    rows, odd_labels, odd_subsets, nameless = [], Counter[str](), Counter[str](), []
    for line, cells in lines:
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        label, name, subset = folded(row[columns.label]), row[columns.file], row.get(columns.subset, "")
        if label not in columns.labels:
            odd_labels[row[columns.label]] += 1
        elif subset and not subset_of(subset):
            odd_subsets[subset] += 1
        elif not name:
            nameless.append(line)
        else:
            patient = row.get(columns.patient, "")
            rows.append(Row(line, name, columns.labels[label], patient, subset_of(subset)))
    if odd_labels:
        advice = "" if names and names.own else f" {OTHER_CLASSES}"
        advice = f" {ADVICE}" if any(word.replace(".", "").isdigit() for word in odd_labels) else advice
        raise LabelError(
            f"{path}: {odd_labels.total()} rows have unknown labels in the column '{columns.label}': "
            f"{some(map(repr, odd_labels))}. Known are {', '.join(columns.labels)}.{advice}"
        )
    if odd_subsets:
        raise LabelError(
            f"{path}: {odd_subsets.total()} rows have unknown subsets in the column '{columns.subset}': "
            f"{some(map(repr, odd_subsets))}. Known are {', '.join(SUBSET_FOLDERS)}, or nothing."
        )
    if nameless:
        raise LabelError(f"{path}: {len(nameless)} rows name no image, for example line {nameless[0]}. Fill them in.")
    if not rows:
        raise LabelError(f"{path} has a header and no row, so no image has a label. Check that the copy is complete.")
    return rows


def match(rows: list[Row], files: Iterable[Path], top: Path, table: Path) -> dict[Path, Row]:
    """Return the row of each file.

    A row names its image by the path below ``top`` or beside the table, by the file name, or by either without suffix; the
    first of these that fits any file counts. Within each, exact spelling comes first, then Windows' separators, then
    composed and decomposed Unicode alike, and last any case.

    Raises:
        LabelError: Rows without a file, files without a row, a name that fits several files, two rows of one file.
    """
    found = list(files)

    @cache
    def index(names: Names, spelling: Spelling) -> dict[str, list[Path]]:
        known: dict[str, list[Path]] = {}
        for file in found:
            for name in {spelling(name) for name in names(file, top, table.parent)}:
                known.setdefault(name, []).append(file)
        return known

    matched: dict[Path, Row] = {}
    missing, ambiguous, twice = [], [], []
    for row in rows:
        ways = product((_paths, _name, _bare_paths, _bare_name), (_exact, _slashed, _composed, _folded))
        fits: list[Path] = next(filter(None, (index(names, spelling).get(spelling(row.file)) for names, spelling in ways)), [])
        if not fits:
            missing.append(f"'{row.file}' (line {row.line})")
        elif len(fits) > 1:
            places = some((file.relative_to(top) if file.is_relative_to(top) else file for file in fits), 3)
            ambiguous.append(f"'{row.file}' (line {row.line}): {places}")
        elif fits[0] in matched:
            twice.append(f"'{row.file}' (lines {matched[fits[0]].line} and {row.line})")
        else:
            matched[fits[0]] = row
    if ambiguous:
        raise LabelError(
            f"{table}: {len(ambiguous)} rows name an image that exists in more than one place, for example "
            f"{some(ambiguous, 3)}. Name it by its path below {top}."
        )
    if twice:
        raise LabelError(f"{table}: {len(twice)} images have more than one row, for example {some(twice, 3)}. Remove the copies.")
    without = [str(file.relative_to(top)) for file in found if file not in matched]
    problems = [
        f"{len(names)} of {total} {what}, for example {some(names, 3)}"
        for names, total, what in (
            (missing, len(rows), f"rows name no file under {top}"),
            (without, len(found), "images have no row"),
        )
        if names
    ]
    if problems:
        raise LabelError(
            f"{table} does not match the images: {'; '.join(problems)}. Labels would be guesses. Complete the table or the "
            "folder, or move away what does not belong."
        )
    return matched


def _paths(file: Path, top: Path, beside: Path) -> set[str]:
    relative = (file.relative_to(base).as_posix() for base in (top, beside) if file.is_relative_to(base))
    return {file.as_posix(), *relative}


def _name(file: Path, top: Path, beside: Path) -> set[str]:
    return {file.name}


def _bare_paths(file: Path, top: Path, beside: Path) -> set[str]:
    return _paths(file.with_name(bare_name(file)), top, beside)


def _bare_name(file: Path, top: Path, beside: Path) -> set[str]:
    return {bare_name(file)}


def _exact(text: str) -> str:
    return str(PurePosixPath(text))


def _slashed(text: str) -> str:
    return _exact(text.replace("\\", "/"))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", _slashed(text))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", _composed(text).casefold())


def _cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and the rows with their line numbers, without empty lines."""
    save_as = "Save it as 'CSV UTF-8' in your spreadsheet."
    try:
        raw = read_regular_file(path, MAX_BYTES)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise LabelError(f"{path} has more than {MAX_BYTES // 2**20} MB, so it is no table of labels.") from error
        raise LabelError(f"The table of labels {path} can't be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is {raw[error.start]:#04x}"
        raise LabelError(f"{path} is not UTF-8 text ({byte}). {save_as}") from error
    if "\0" in text:
        raise LabelError(f"{path} holds zero bytes, so it is no CSV in UTF-8. {save_as}")
    first = re.sub(r"\([^)]*\)|\[[^]]*\]|\"[^\"]*\"", "", text.lstrip().partition("\n")[0])  # not inside of brackets
    separator = max((",", ";", "\t"), key=first.count)
    reader = csv.reader(text.splitlines(), delimiter=separator, strict=True)
    try:
        rows = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise LabelError(f"{path}, line {reader.line_num}: {error}. Correct the quotation marks there.") from error
    if not rows:
        raise LabelError(f"{path} is empty, so no image has a label. Check that the copy is complete.")
    header = [cell.strip() for cell in rows[0][1]]
    ragged = [str(line) for line, cells in rows[1:] if len(cells) != len(header)]
    if ragged:
        raise LabelError(
            f"{path}: {len(ragged)} rows do not have the {len(header)} cells of the header, for example line {ragged[0]}. "
            "Correct them, or put a name that holds a separator into quotation marks."
        )
    return header, rows[1:]


def _columns(path: Path, header: list[str], words: dict[str, str]) -> Columns:
    def only(choices: tuple[str, ...]) -> str:
        fits = [name for name in header if name.lower() in choices]
        if len(fits) > 1:
            raise LabelError(f"{path} has several columns for one quantity: {', '.join(fits)}. Keep one of them.")
        return fits[0] if fits else ""

    twice = [name for name, count in Counter(name.lower() for name in header).items() if count > 1 and name]
    if twice:
        raise LabelError(f"{path} has more than one column '{twice[0]}'. Keep one of them.")
    file = next((name for choice in FILE_COLUMNS for name in header if name.lower() == choice), "")
    label, labels = only(LABEL_COLUMNS), words
    if not label:
        coded = [name for name in header if CODED.fullmatch(name)]
        if coded:
            label, labels = coded[0], _codes(path, coded[0], words)
        elif only(YES_NO_COLUMNS):
            label, labels = only(YES_NO_COLUMNS), {"0": words["normal"], "1": words["pneumonia"]}
    wanted = (("image", FILE_COLUMNS, file), ("label", LABEL_COLUMNS, label))
    missing = [f"the {what} ({', '.join(names)})" for what, names, column in wanted if not column]
    if missing:
        raise LabelError(
            f"{path} has no column for {' and none for '.join(missing)}; it has {some(map(repr, header), 8)}. Rename the "
            "column that holds it."
        )
    return Columns(file, label, only(PATIENT_COLUMNS), only(SUBSET_COLUMNS), labels)


def _codes(path: Path, header: str, words: dict[str, str]) -> dict[str, str]:
    """Return the meaning of numbers, from a header such as ``label (0=normal; 1=virus; 2=bacteria)``."""
    codes: dict[str, str] = {}
    for number, word in CODE.findall(header):
        if folded(word) not in words:
            raise LabelError(f"{path}: the header '{header}' has {number}={word}, and '{word}' is none of {', '.join(words)}.")
        codes[number] = words[folded(word)]
    if not codes:
        raise LabelError(f"{path}: the header '{header}' does not give the meaning of its numbers. {ADVICE}")
    return codes | words
