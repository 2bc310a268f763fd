"""The callbacks that record a run in its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from lightning.pytorch.callbacks import Callback

from pneumonia.errors import CheckpointError
from pneumonia.runs.folder import RunFolder
from pneumonia.training.checkpointing import BestCheckpoint, LastCheckpoint
from pneumonia.training.metrics_csv import MetricsCsv
from pneumonia.training.termination import Termination
from pneumonia.training.throughput import Throughput


@dataclass(frozen=True)
class RunCallbacks:
    """The callbacks that write a run folder, and what they know of the run."""

    throughput: Throughput
    metrics: MetricsCsv
    best: BestCheckpoint
    termination: Termination
    last: LastCheckpoint

    @classmethod
    def of(cls, folder: RunFolder, monitor: str = "val/loss", max_steps: int = -1) -> Self:
        """Build them for a run that compares its epochs by ``monitor``."""
        best = BestCheckpoint(folder, monitor)
        return cls(Throughput(folder), MetricsCsv(folder), best, Termination(best, max_steps), LastCheckpoint(folder))

    def ordered(self) -> list[Callback]:
        """Return them in the order in which a trainer must call them: ``last.ckpt`` holds the state of all others."""
        return [self.throughput, self.metrics, self.best, self.termination, self.last]

    def restore(self, path: Path) -> int:
        """Read their states from ``last.ckpt``, without a trainer.

        Returns:
            The epochs that are finished.

        Raises:
            CheckpointError: The file is damaged.
        """
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            for callback in (self.throughput, self.best, self.termination):  # the others keep no state
                callback.load_state_dict(saved["callbacks"][callback.state_key])
            return int(saved["epoch"]) + 1
        except Exception as error:
            raise CheckpointError(
                f"{path} can't be read ({type(error).__name__}), so the run can't be resumed. Use force=true to train it from "
                "the start."
            ) from error
