"""What a person sees on the terminal: progress bars, tables, warnings."""

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pneumonia.errors import printable

T = TypeVar("T")
CONSOLE: Final = Console(stderr=True)  # people read this; stdout is for what a command was asked for


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Passes items on under a progress bar that goes away at the end; where no one watches, one line says what is done."""
    what = escape(printable(what))
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
        yield from progress.track(items, total=total, description=what)


def say(text: str) -> None:
    """One line of news, with rich markup."""
    CONSOLE.print(printable(text, lines=True), highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """One line that a person must not miss; plain text."""
    CONSOLE.print(f"[bold yellow]Warning[/] {escape(printable(text, lines=True))}", highlight=False, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table whose first column holds names and whose other columns hold figures; the title is plain text."""
    CONSOLE.print(
        f"[bold]{escape(printable(title))}[/]", highlight=False, soft_wrap=True
    )  # a Table's own title is cut to its width
    grid = Table()
    for number, column in enumerate(columns):
        grid.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        grid.add_row(*map(printable, row))
    CONSOLE.print(grid)


def figure(value: float | None, digits: int = 4) -> str:
    """A number for a table; what is undefined says so."""
    return "undefined" if value is None else f"{value:.{digits}f}"


def announce_loading() -> None:
    """Says why nothing happens for the seconds that the first import of torch and Lightning takes."""
    if "torch" not in sys.modules:
        print("Loading torch and Lightning", file=sys.stderr, flush=True)


def quiet() -> None:
    """Silences advice that does not apply here; what our users must know we say ourselves."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*srun.*")
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # our figures are those of all processes already
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # frozen stages
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="(lightning|torch)")
    warnings.filterwarnings("ignore", category=FutureWarning, module="(lightning|torch)")
