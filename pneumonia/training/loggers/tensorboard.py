"""Mirror run folders in TensorBoard's event files."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import Tensor

from pneumonia.config.convert import dotted
from pneumonia.config.schema import TensorBoardConfig, TrainConfig
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.result import RunResult
from pneumonia.training.loggers.charts import EvaluationCharts, Pixels, Predictions, figures
from pneumonia.training.loggers.mirror import Facts, Forwarding, Mirror, Status


class ForwardingTensorBoardLogger(Forwarding, TensorBoardLogger):
    """Lightning's logger of the event files of a run."""

    def __init__(self, mirror: Mirror, folder: Path) -> None:
        super().__init__(str(folder.parent), name="", version=folder.name, default_hp_metric=False)
        self.mirror = mirror


class TensorBoardMirror(Mirror):
    """One run as event files in ``tensorboard/`` of its folder."""

    name = "tensorboard"
    title = "TensorBoard"

    def __init__(self, folder: RunFolder, config: TrainConfig, facts: Facts, options: TensorBoardConfig) -> None:
        super().__init__(folder, config, facts)
        self.watched = options.watch

    def _open(self) -> None:
        self.files = self.folder.path / "tensorboard"
        self.logger = ForwardingTensorBoardLogger(self, self.files)
        self.writer: Any = self.logger.experiment
        self.record.write(self.folder, self.name)

    def _send_epoch(self, epoch: int, values: dict[str, float], weights: Path | None) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        if weights is not None:
            self.writer.add_image("weights", np.asarray(Image.open(weights).convert("RGB")), epoch, dataformats="HWC")
        self.writer.flush()

    def _send_tensors(self, tensors: dict[str, Tensor], step: int) -> None:
        for name, values in tensors.items():
            self.writer.add_histogram(name, values, step)

    def _send_evaluation(self, found: EvaluationCharts) -> None:
        for name, value in found.values.items():
            self.writer.add_scalar(f"{found.prefix}/{name}", value)
        self._send_figures(found.prefix, found.predictions)

    def _send_figures(self, prefix: str, found: Predictions) -> None:
        for name, figure in figures(found).items():
            FigureCanvasAgg(figure)
            self.writer.add_figure(f"{prefix}/{name}", figure)

    def _send_result(self, result: RunResult, summary: dict[str, float], validation: Predictions, pixels: Pixels | None) -> None:
        self._send_figures("val", validation)
        from torch.utils.tensorboard import summary as protocol

        for name, value in summary.items():
            self.writer.add_scalar(name, value, result.best_epoch)
        flat = dotted(self.shown_config())
        kept = {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in flat.items()}
        hparams: Any = protocol.hparams
        for one in hparams(kept, dict.fromkeys(summary, 0.0)):
            self.writer.file_writer.add_summary(one)

    def _send_status(self, text: str) -> None:
        self.writer.add_text("status", text)

    def _send_picture(self, name: str, image: Any) -> None:
        self.writer.add_image(name, np.asarray(image.convert("RGB")), dataformats="HWC")

    def _close(self, status: Status) -> None:
        if status is not Status.FINISHED:
            self._send_status(status.value)
        self.writer.close()
