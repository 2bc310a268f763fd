"""Tell how the trainer's settings shorten a run."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from pneumonia.config.nodes import TIME_PARTS, TrainerConfig

LIMITS: Final = ("limit_train_batches", "limit_val_batches")


def shortening(trainer: TrainerConfig) -> list[str]:
    """Return the overrides that leave batches out of every epoch; none for a full training.

    ``trainer.max_steps`` is not among them: whether it shortens a run is known at its end.
    """
    limits = {key: getattr(trainer, key) for key in LIMITS}
    # 1.0 is all batches, 1 is one batch
    found = [f"trainer.{key}={value}" for key, value in limits.items() if isinstance(value, int) or value != 1]
    debugging = {key: getattr(trainer, key) for key in ("overfit_batches", "fast_dev_run")}
    return [*found, *(f"trainer.{key}={value}" for key, value in debugging.items() if value)]


def max_time_s(max_time: str | Mapping[str, float]) -> float:
    """Return the seconds of ``trainer.max_time``: ``DD:HH:MM:SS``, or days, hours, minutes and seconds by name."""
    parts = dict(zip(TIME_PARTS, map(int, max_time.split(":")), strict=True)) if isinstance(max_time, str) else max_time
    return timedelta(**parts).total_seconds()
