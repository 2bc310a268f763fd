"""Estimate how long the unfinished jobs of a sweep take."""

from pneumonia.sweep.plan import Job
from pneumonia.sweep.state import OVER, JobStatus

Statuses = list[tuple[Job, JobStatus]]


def expected_s(statuses: Statuses) -> float | None:
    """Estimate the seconds of the unfinished epochs, one after the other, from the mean epoch of the finished jobs."""
    finished = [status.result for _, status in statuses if status.result is not None]
    epochs = sum(result.epochs for result in finished)
    if not epochs:
        return None
    epoch_s = sum(result.cost.fit_s for result in finished) / epochs
    left = [job.config.max_epochs - status.epochs for job, status in statuses if status.state not in OVER]
    return float(epoch_s * sum(left))


def duration(seconds: float) -> str:
    """Format seconds as ``3 h 20 min``, ``12 min`` or ``40 s``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes >= 10 else f"{minutes} min {rest} s" if minutes else f"{rest} s"
