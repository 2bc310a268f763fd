"""Format numbers, intervals and lists."""

import math
from collections.abc import Sequence
from typing import Final

NO_DIFFERENCE: Final = "no significant difference"


def number(value: float | None, digits: int = 3) -> str:
    """Format a number; a dash if it is undefined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def bounded(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """``0.812 (0.780 to 0.841)``; without bounds where there are none."""
    if value is None or not math.isfinite(value):
        return "–"
    if low is None or high is None or not math.isfinite(low + high):
        return f"{number(value, digits)} (no interval)"
    return f"{number(value, digits)} ({number(low, digits)} to {number(high, digits)})"


def describe_intervals(bounds: Sequence[tuple[float, float, float]]) -> str:
    """Describe the intervals of a drawing, for its caption."""
    drawn = sum(math.isfinite(low + high) for _, low, high in bounds)
    if not drawn:
        return "without intervals, which are undefined here"
    return "with 95% intervals" + ("" if drawn == len(bounds) else f" ({drawn} of {len(bounds)} have one)")


def p_value(p: float) -> str:
    """Format a p-value."""
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 run``, ``3 runs``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def seconds(value: float) -> str:
    """``4.1 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if 0 < value < 0.05:
        return "< 0.1 s"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def sentence(text: str) -> str:
    """Capitalize the first letter."""
    return text[:1].upper() + text[1:]
