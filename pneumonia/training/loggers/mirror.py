"""Mirror a run folder in a tracker. Nothing is read back, and training continues when a tracker fails."""

import os
import re
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Final

import pandas as pd
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from torch import Tensor, nn

from pneumonia.config.convert import to_plain
from pneumonia.config.keys import conf_dir
from pneumonia.config.schema import TrainConfig
from pneumonia.errors import masked
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.runs.result import RunResult
from pneumonia.system.console import warn
from pneumonia.system.files import read_json
from pneumonia.training.loggers.charts import EvaluationCharts, Pixels, Predictions
from pneumonia.training.loggers.record import Sent, TrackerRecord
from pneumonia.training.loggers.steps import StepLogger

SECRETS: Final = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
USER: Final = re.compile(r"//[^/@\s]+@")
LONGEST: Final = 200  # characters of an error in a warning
_warned: set[str] = set()


class Status(Enum):
    """How a training has ended."""

    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Facts:
    """What is known of a run beside its config.

    Attributes:
        label: What tells it from the other runs of its group.
        manifest_sha256: Hash of all images and labels.
        split_sha256: Hash of the split.
        parameters: Trained parameters of the network; ``None`` where it was not built.
    """

    label: str
    manifest_sha256: str | None = None
    split_sha256: str | None = None
    parameters: int | None = None


class Mirror(ABC):
    """One run folder as one run of a tracker.

    What was sent is counted in a file of the run folder, beside the id, so that a resumed run continues in the same place and
    nothing is sent twice. The values of epochs are those of ``metrics.csv``; Lightning forwards those of steps to ``logger``.

    Args:
        folder: The run.
        config: Of the run.
        facts: Of the run.

    Attributes:
        name: Of the tracker, as in ``logger=NAME``.
        title: Of the tracker, for messages.
        watched: What it shows of the weights: ``gradients``, ``parameters``, ``all``, or nothing.
        training: Whether a training goes on beside it, for messages.
        logger: Lightning's own logger, for a Trainer; ``None`` while the tracker is off or has failed.
        opened: Whether the tracker has a run that is not closed.
        files: The folder of the tracker's files, for those that write any.
        steps: Names of values that were sent by step; in ``metrics.csv`` they are those of the last one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    watched: str | None = None
    training = True

    def __init__(self, folder: RunFolder, config: TrainConfig, facts: Facts) -> None:
        self.folder, self.config, self.facts = folder, config, facts
        self.record = TrackerRecord.read(folder, self.name)
        self.record.trouble = None
        self.logger: Logger | None = None
        self.files: Path | None = None
        self.opened = False
        self.steps: set[str] = set()

    @property
    def sent(self) -> Sent:
        """What has been sent."""
        return self.record.online

    def open(self) -> None:
        """Begin the run of the tracker, or continue it."""
        self._safely(self._open, force=True)
        self.opened = self.logger is not None

    def epochs(self) -> None:
        """Send the epochs that were not sent before."""
        self._safely(self._epochs)

    def result(self, result: RunResult, pixels: Pixels | None = None) -> None:
        """Send best metrics, cost, curves and images of a finished run."""
        if not self.sent.result:
            self._safely(lambda: self._finish(result, pixels))

    def tensors(self, network: nn.Module, step: int) -> None:
        """Send gradients or parameters before an optimizer step, where the config asks for them."""
        if self.watched is not None:
            self._safely(lambda: self._send_tensors(_tensors(network, self.watched), step))

    def evaluation(self, found: EvaluationCharts) -> None:
        """Send an evaluation that was not sent before."""
        if self.sent.evaluations.get(found.name) != found.sha256:
            self._safely(lambda: self._evaluation(found))

    def status(self, text: str) -> None:
        """Send why there is no result."""
        self._safely(lambda: self._send_status(text))

    def picture(self, name: str, image: Any) -> None:
        """Send a picture that belongs to no epoch."""
        self._safely(lambda: self._send_picture(name, image))

    def close(self, status: Status) -> None:
        """End the run of the tracker, also after something could not be sent."""
        if self.logger is not None:
            self._safely(lambda: self._close(status))
            self.logger = None
        elif self.opened:
            with suppress(Exception):  # a warning was printed
                self._close(status)
        self.opened = False

    def forward(self, work: Callable[[], Any]) -> None:
        """Do what Lightning asks the logger for."""
        self._safely(work)

    def shown_config(self) -> dict[str, Any]:
        """Return the config and the facts of the run as plain values without secrets."""
        facts = {name: value for name, value in vars(self.facts).items() if name != "label" and value is not None}
        shown: dict[str, Any] = _without_secrets(to_plain(self.config))
        return shown | facts

    def from_environment(self, key: str, own: str | None, variable: str) -> str | None:
        """Return a value of the config, or of the environment where the config has its default."""
        said = os.environ.get(variable)
        if not said or said == own:
            return own
        packaged = OmegaConf.load(conf_dir() / "logger" / f"{self.name}.yaml")
        if own == OmegaConf.select(packaged, f"{self.name}.{key}"):
            return said
        warn_once(f"logger.{self.name}.{key}={own} takes precedence over {variable}={short(said)} of the environment.")
        return own

    @abstractmethod
    def _open(self) -> None:
        """Set ``logger``, and write the record."""

    @abstractmethod
    def _send_epoch(self, epoch: int, values: dict[str, float], weights: Path | None) -> None:
        """Send the values of an epoch, counted from 1, and the picture of its weights if there is one."""

    @abstractmethod
    def _send_tensors(self, tensors: dict[str, Tensor], step: int) -> None: ...

    @abstractmethod
    def _send_evaluation(self, found: EvaluationCharts) -> None: ...

    @abstractmethod
    def _send_result(self, result: RunResult, summary: dict[str, float], validation: Predictions, pixels: Pixels | None) -> None:
        """Send the summary and the charts of a finished run."""

    @abstractmethod
    def _send_status(self, text: str) -> None: ...

    @abstractmethod
    def _send_picture(self, name: str, image: Any) -> None: ...

    @abstractmethod
    def _close(self, status: Status) -> None: ...

    def _epochs(self) -> None:
        rows = read_metrics(self.folder)
        progress = read_json(self.folder.progress)
        for row in rows[self.sent.rows :]:
            epoch = int(row["epoch"])
            kept = {key: value for key, value in row.items() if key not in self.steps | {"epoch"}}
            values = {key: float(value) for key, value in kept.items() if value not in {"", "nan"}}
            if progress.get("epochs") == epoch:
                values |= {key: progress[key] for key in ("images_per_s", "peak_memory_mib") if progress.get(key)}
            picture = self.folder.weight_picture(epoch)
            self._send_epoch(epoch, values, picture if picture.is_file() else None)
        self.sent.rows = len(rows)
        self.record.write(self.folder, self.name)

    def _finish(self, result: RunResult, pixels: Pixels | None) -> None:
        self._epochs()
        best = {f"best/{part}/{key}": value for part, values in result.metrics.items() for key, value in values.items()}
        cost = {f"cost/{key}": value for key, value in vars(result.cost).items()}
        values = {**best, **cost, "best_epoch": result.best_epoch}
        summary = {key: value for key, value in values.items() if isinstance(value, int | float)}
        validation = Predictions(pd.read_parquet(self.folder.predictions("val")), result.task.classes)
        self._send_result(result, summary, validation, pixels)
        self._send_status(result.status)
        self.sent.result = True
        self.record.write(self.folder, self.name)

    def _evaluation(self, found: EvaluationCharts) -> None:
        self._send_evaluation(found)
        self.sent.evaluations[found.name] = found.sha256
        self.record.write(self.folder, self.name)

    def _trouble(self, text: str) -> None:
        """Warn once, and record it for sweeps."""
        warn_once(text)
        self.record.trouble = text
        with suppress(OSError):
            self.record.write(self.folder, self.name)

    @property
    def afterwards(self) -> str:
        """What a failure of the tracker means for the run."""
        to = "" if self.name == "wandb" else f" --to {self.name}"
        continues = " The run continues without it;" if self.training else ""
        return f"{continues} `pneumonia track push{to}` sends it later."

    def _failure(self, error: Exception) -> str:
        """Return the warning about an error of the tracker."""
        return f"{self.title} failed ({short(error)}).{self.afterwards}"

    def _safely(self, work: Callable[[], Any], force: bool = False) -> None:
        """Call a function; after a failure warn once and continue without the tracker."""
        if self.logger is None and not force:
            return
        try:
            work()
        except Exception as error:
            self.logger = None
            self._trouble(self._failure(error))


class Forwarding(StepLogger):
    """A logger of Lightning's that belongs to a mirror: what fails ends no training."""

    mirror: Mirror

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        log: Callable[..., None] = super().log_metrics  # type: ignore[safe-super]  # a mixin: Lightning's own is next
        values = self.of_step(metrics)
        self.mirror.steps |= values.keys()
        if values:
            self.mirror.forward(lambda: log(values, step))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *arguments: Any, **options: Any) -> None:
        log: Callable[..., None] = super().log_hyperparams  # type: ignore[safe-super]
        self.mirror.forward(lambda: log(params, *arguments, **options))

    def save(self) -> None:
        self.mirror.forward(super().save)

    def finalize(self, status: str = "success") -> None:
        """Do nothing: the mirror is closed when the result of the run was sent."""


def warn_once(text: str) -> None:
    """Print a warning that this process has not printed yet."""
    if text not in _warned:
        _warned.add(text)
        warn(text)


def short(error: object) -> str:
    """Return an error or an address in one line, without credentials."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
    text = masked((text.splitlines() or [""])[0])
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "...")
    text = USER.sub("//...@", text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rpartition(' ')[0] or text[:LONGEST]} ..."


def _tensors(network: nn.Module, watched: str | None) -> dict[str, Tensor]:
    """Return the finite values of gradients, parameters or both by name."""
    found: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        if watched in {"gradients", "all"} and parameter.grad is not None:
            found[f"gradients/{name}"] = parameter.grad
        if watched in {"parameters", "all"}:
            found[f"parameters/{name}"] = parameter.detach()
    finite = {name: values[values.isfinite()] for name, values in found.items()}
    return {name: values for name, values in finite.items() if len(values)}


def _without_secrets(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_secrets(value) for key, value in node.items()}
    return masked(node) if isinstance(node, str) else node
