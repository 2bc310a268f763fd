"""Profile a training with Lightning's profilers; the report is printed and kept in the run folder."""

import warnings
from collections.abc import Callable
from typing import Any, Final

from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from rich.markup import escape
from torch.profiler import schedule

from pneumonia.runs.folder import RunFolder
from pneumonia.system.console import say

STEPS: Final = 3  # that the profiler of torch records: the first ones, so that short trainings have some too


def _pytorch(**arguments: Any) -> Profiler:
    # About the missing warm-up, and about epochs with fewer steps than are recorded.
    warnings.filterwarnings("ignore", category=UserWarning, message=".*(warmup|clears events|RECORD followed by NONE)")
    return PyTorchProfiler(schedule=schedule(wait=0, warmup=0, active=STEPS, repeat=1), **arguments)


PROFILERS: Final[dict[str, Callable[..., Profiler]]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": _pytorch,
}
LINES: Final = 40  # of a report that are printed
COLUMNS: Final = 5  # of the simple report
WIDTH: Final = 110  # of a printed line
NAME: Final = WIDTH - 15 * (COLUMNS - 1)  # of a hook


def build_profiler(name: str | None, folder: RunFolder | None) -> Profiler | None:
    """Build a profiler that writes its report into ``profile/`` of a run folder; ``None`` for none.

    Args:
        name: ``simple`` (time of each hook), ``advanced`` (by cProfile) or ``pytorch`` (operators of the first steps).
        folder: Of the run; ``None`` where nothing is kept.
    """
    if name is None or folder is None:
        return None
    folder.profile.mkdir(parents=True, exist_ok=True)
    return PROFILERS[name](dirpath=folder.profile, filename=name)


def show_profile(folder: RunFolder) -> None:
    """Print the beginning of each report in a run folder, and its path."""
    for path in sorted(folder.profile.glob("*.txt")):
        lines = path.read_text(encoding="utf-8").splitlines()
        say(escape("\n".join(map(_narrowed, lines[:LINES]))))
        more = f" ({len(lines) - LINES} more lines)" if len(lines) > LINES else ""
        say(escape(f"Profile: {path}{more}"))


def _narrowed(line: str) -> str:
    """Return a line of the simple report with short names; other lines are cut where a terminal would break them."""
    cells = [cell.strip() for cell in line.split("|") if cell.strip()]
    if len(cells) != COLUMNS:
        return line[:WIDTH]
    name, *values = cells
    return f"{name[:NAME]:<{NAME}}" + "".join(f"{value:>15}" for value in values)
