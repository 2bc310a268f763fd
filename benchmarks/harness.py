"""Arms that do the same work, timed in turns in one process; a ratio counts only where their results are the same."""

import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import torch

from pneumonia.system.console import CONSOLE, say

PACKAGES: Final = (
    "torch",
    "lightning",
    "torchvision",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "pillow",
    "onnxruntime",
)


class Differs(Exception):
    """The arms do not do the same work, so no ratio of theirs means anything."""


@dataclass(frozen=True)
class Goal:
    """What a ratio should reach.

    Attributes:
        arm: That ours is compared with.
        kind: ``faster`` divides the arm's seconds by ours; ``cost`` divides ours by the arm's.
        value: To be reached, from below for ``faster``, from above for ``cost``.
    """

    arm: str
    kind: Literal["faster", "cost"]
    value: float

    def ratios(self, seconds: dict[str, list[float]]) -> list[float]:
        """The ratio of each round."""
        pairs = zip(seconds["ours"], seconds[self.arm], strict=True)
        return [theirs / ours if self.kind == "faster" else ours / theirs for ours, theirs in pairs]

    def reached(self, ratio: float) -> bool:
        """Whether a ratio is as good as it should be."""
        return ratio >= self.value if self.kind == "faster" else ratio <= self.value


@dataclass(frozen=True)
class Arm:
    """One way to do the work.

    Attributes:
        work: Does it once. What it returns is timed by the clock, unless it returns seconds of its own.
        share: Of the work that it does; seconds are divided by it. Smaller than 1 where the whole would take minutes.
        timed: Whether ``work`` returns its own seconds, because it has to prepare what should not count.
    """

    work: Callable[[], Any]
    share: float = 1.0
    timed: bool = False

    def seconds(self) -> float:
        """How long the whole work takes this way."""
        settle()
        start = time.perf_counter()
        said = self.work()
        settle()
        spent = said if self.timed else time.perf_counter() - start
        return float(spent) / self.share


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        key: Its short name.
        what: In words.
        items: How many of ``unit`` an arm does in one round.
        unit: For example ``images``.
        arms: By name; ``ours`` is one of them.
        goals: The ratios, and what they should reach.
        guard: Compares what the arms give, and returns what it found in words.
        rounds: How often all arms are run.
        note: What must be known of the figures.
    """

    key: str
    what: str
    items: int
    unit: str
    arms: dict[str, Arm]
    goals: tuple[Goal, ...]
    guard: Callable[[], str]
    rounds: int = 5
    note: str = ""


@dataclass(frozen=True)
class Found:
    """What a row gave; ``ratios`` has the median, lowest and highest ratio to each arm that has a goal."""

    row: Row
    seconds: dict[str, list[float]]
    guard: str
    ratios: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        row = self.row
        return {
            "what": row.what,
            "items": row.items,
            "unit": row.unit,
            "guard": self.guard,
            "note": row.note,
            "per_s": {arm: round(row.items / statistics.median(spent), 3) for arm, spent in self.seconds.items()},
            "seconds": {arm: [round(value, 6) for value in spent] for arm, spent in self.seconds.items()},
            "ratios": {
                goal.arm: {
                    "kind": goal.kind,
                    "median": round(self.ratios[goal.arm][0], 3),
                    "low": round(self.ratios[goal.arm][1], 3),
                    "high": round(self.ratios[goal.arm][2], 3),
                    "goal": goal.value,
                    "reached": goal.reached(self.ratios[goal.arm][0]),
                }
                for goal in row.goals
            },
        }


def measure(row: Row) -> Found:
    """Guards a row, warms its arms up, and runs them in turns.

    Raises:
        Differs: The guard found the arms to do different work.
    """
    guard = row.guard()
    say(f"  same work: {guard}")
    seconds: dict[str, list[float]] = {arm: [] for arm in row.arms}
    for number in range(row.rounds):
        for name, arm in row.arms.items():
            seconds[name].append(arm.seconds())
        rates = ", ".join(f"{name} {row.items / spent[-1]:,.1f}" for name, spent in seconds.items())
        say(f"  round {number + 1} of {row.rounds}: {rates} {row.unit}/s")
    ratios = {}
    for goal in row.goals:
        every = goal.ratios(seconds)
        ratios[goal.arm] = (statistics.median(every), min(every), max(every))
    return Found(row, seconds, guard, ratios)


def settle() -> None:
    """Waits for what a GPU still has to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> str:
    """The card's name, else the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def slug(device: str) -> str:
    """A device's name as a part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def conditions() -> dict[str, Any]:
    """What a figure depends on beside the code."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "device": device(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "commit": commit.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def words(found: Sequence[Found]) -> list[tuple[str, ...]]:
    """One line of a table for each ratio."""
    lines = []
    for one in found:
        for goal in one.row.goals:
            median, low, high = one.ratios[goal.arm]
            sign = ">=" if goal.kind == "faster" else "<="
            lines.append(
                (
                    one.row.key,
                    goal.arm,
                    f"{median:.3g} ({low:.3g} to {high:.3g})",
                    f"{sign} {goal.value:g}",
                    "yes" if goal.reached(median) else "NO",
                )
            )
    return lines


@contextmanager
def unheard() -> Iterator[None]:
    """Silence console messages in the block."""
    before, CONSOLE.quiet = CONSOLE.quiet, True
    try:
        yield
    finally:
        CONSOLE.quiet = before
