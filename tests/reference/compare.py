"""What differs between recorded values and those of now."""

import math
from typing import Any

TOLERANCE = 1e-3  # relative and absolute, where another processor or package rounds in another way


def differences(recorded: Any, now: Any, tolerance: float = 0.0, place: str = "") -> list[str]:
    """List what differs, by place; 0.0 asks for the same digits. What is new beside the recorded values is no difference."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        missing = [f"{place}/{name}: recorded, and missing now" for name in recorded if name not in now]
        shared = [name for name in recorded if name in now]
        return missing + [
            line for name in shared for line in differences(recorded[name], now[name], tolerance, f"{place}/{name}")
        ]
    if isinstance(recorded, list) and isinstance(now, list):
        if len(recorded) != len(now):
            return [f"{place}: {len(recorded)} values recorded, {len(now)} now"]
        return [
            line
            for number, (one, other) in enumerate(zip(recorded, now, strict=True))
            for line in differences(one, other, tolerance, f"{place}[{number}]")
        ]
    if recorded == now and isinstance(recorded, bool) == isinstance(now, bool):
        return []
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (recorded, now))
    if tolerance and numbers and math.isclose(recorded, now, rel_tol=tolerance, abs_tol=tolerance):
        return []
    return [f"{place}: {recorded!r} recorded, {now!r} now"]
