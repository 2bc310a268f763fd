"""Terminal output: progress bars, tables, messages and warnings, on stderr."""

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from time import monotonic
from typing import Final, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pneumonia.errors import printable

T = TypeVar("T")
CONSOLE: Final = Console(stderr=True)  # stdout is for the result of a command


def track(items: Iterable[T], total: int, what: str, after_s: float = 0.0) -> Iterator[T]:
    """Yield items under a transient progress bar, or after one line where stderr is no terminal.

    Args:
        items: To yield.
        total: Number of items.
        what: Description of the work.
        after_s: Show nothing for so many seconds, so that quick work is silent.
    """
    what = escape(printable(what))
    items, done, start = iter(items), 0, monotonic()
    while monotonic() - start < after_s and done < total:
        yield from islice(items, 1)
        done += 1
    if after_s and done == total:
        return
    if not CONSOLE.is_terminal:
        say(f"{what} ({total})")
        yield from items
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=CONSOLE, transient=True) as progress:
        task = progress.add_task(what, total=total, completed=done)
        for item in items:
            yield item
            progress.advance(task)


def say(text: str) -> None:
    """Print a message with rich markup."""
    CONSOLE.print(printable(text, lines=True), highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning; plain text."""
    CONSOLE.print(f"[bold yellow]Warning[/] {escape(printable(text, lines=True))}", highlight=False, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: names in the first column, right-aligned values in the others; the title is plain text."""
    CONSOLE.print(
        f"[bold]{escape(printable(title))}[/]", highlight=False, soft_wrap=True
    )  # a Table's own title is cut to its width
    grid = Table()
    for number, column in enumerate(columns):
        grid.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        grid.add_row(*map(printable, row))
    CONSOLE.print(grid)


def fitting_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    values: Sequence[str],
    optional: Sequence[str],
) -> Table:
    """Build a table without as many of the optional columns as the terminal is too narrow for.

    Args:
        console: Where it will be printed.
        title: Rich markup.
        columns: Names in order.
        rows: Cells by column, in rich markup.
        values: Columns that are right-aligned and never folded.
        optional: Columns that may be left out, the first of them first.
    """
    for dropped in range(len(optional) + 1):
        names = [name for name in columns if name not in optional[:dropped]]
        table = Table(title=title, title_justify="left")
        for name in names:
            if name in values:
                width = max(len(cell) for cell in (name, *(row.get(name, "") for row in rows)))
                table.add_column(name, justify="right", no_wrap=True, min_width=width)
            else:
                table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(row.get(name, "") for name in names))
        wide = console.options.update(max_width=10_000)
        if console.measure(table, options=wide).minimum <= console.width:
            break
    return table


def format_value(value: float | None, digits: int = 4) -> str:
    """Format a value for a table; ``None`` becomes ``undefined``."""
    return "undefined" if value is None else f"{value:.{digits}f}"


def announce_loading() -> None:
    """Announce the import of torch and Lightning, which takes seconds."""
    if "torch" not in sys.modules:
        print("Loading torch and Lightning", file=sys.stderr, flush=True)


def quiet() -> None:
    """Silence warnings of Lightning and torch that do not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*srun.*")
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # our metrics are reduced over all processes already
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # frozen stages
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="(lightning|torch)")
    warnings.filterwarnings("ignore", category=FutureWarning, module="(lightning|torch)")
