"""Mirror run folders in MLflow."""

import os
import warnings
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.loggers import MLFlowLogger
from PIL import Image
from rich.markup import escape
from torch import Tensor

from pneumonia.config.convert import dotted
from pneumonia.config.schema import MLflowConfig, TrainConfig
from pneumonia.errors import ConfigError
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.result import RunResult
from pneumonia.system.console import say
from pneumonia.training.loggers.charts import EvaluationCharts, Pixels, Predictions, figures
from pneumonia.training.loggers.mirror import USER, Facts, Forwarding, Mirror, Status, short
from pneumonia.training.loggers.record import TrackerRecord

TIMEOUT_S: Final = 20  # for the server to answer
RETRIES: Final = 2  # MLflow's own default of 7 would hold a training up for minutes
STATES: Final = {Status.FINISHED: "FINISHED", Status.FAILED: "FAILED", Status.INTERRUPTED: "KILLED"}
BATCH: Final = 100  # parameters of one request
LONGEST: Final = 6000  # characters of a parameter
_unreachable: set[str] = set()  # servers that this process need not wait for again


class ForwardingMLflowLogger(Forwarding, MLFlowLogger):
    """Lightning's logger of an MLflow run."""

    def __init__(self, mirror: Mirror, place: str, experiment: str, run_id: str) -> None:
        super().__init__(experiment, tracking_uri=place, run_id=run_id)
        self.mirror = mirror


class MLflowMirror(Mirror):
    """One run as one MLflow run."""

    name = "mlflow"
    title = "MLflow"

    def __init__(self, folder: RunFolder, config: TrainConfig, facts: Facts, options: MLflowConfig) -> None:
        super().__init__(folder, config, facts)
        self.options, self.watched = options, options.watch

    def _open(self) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_S))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(RETRIES))
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # we say it ourselves
        from mlflow.tracking import MlflowClient

        place = tracking_uri(self.options)
        experiment = self.from_environment("experiment_name", self.options.experiment_name, "MLFLOW_EXPERIMENT_NAME") or ""
        if place in _unreachable:
            return
        self.client: Any = MlflowClient(place)
        if self.record.place != short(place):
            self.record = TrackerRecord(place=short(place))  # nothing was sent to that one
        try:
            if self.record.id:
                self.client.update_run(self.record.id, status="RUNNING")
            else:
                self.record.id = self._create(experiment)
        except Exception as error:  # no route, a wrong password, an answer that is none
            _unreachable.add(place)
            self._trouble(f"MLflow at {short(place)} can't be reached or refuses us ({short(error)}).{self.afterwards}")
            return
        self.logger = ForwardingMLflowLogger(self, place, experiment, self.record.id)
        say(f"MLflow: run {self.record.id} of {escape(short(place))}")
        self.record.write(self.folder, self.name)

    def _create(self, experiment: str) -> str:
        """Create a run, and its experiment if there is none."""
        from mlflow.entities import Param

        config = self.config
        found = self.client.get_experiment_by_name(experiment)
        experiment_id = self.client.create_experiment(experiment) if found is None else found.experiment_id
        tags = {"group": config.name, "task": config.task.name, "split": config.split.method, "data": config.data.source}
        name = self.facts.label or f"{config.name}-{self.folder.path.name[:6]}"
        own = {key: str(value) for key, value in (self.options.tags or {}).items()}
        run_id: str = self.client.create_run(experiment_id, run_name=name, tags=tags | own).info.run_id
        params = [Param(name, str(value)[:LONGEST]) for name, value in dotted(self.shown_config()).items()]
        for start in range(0, len(params), BATCH):
            self.client.log_batch(run_id, params=params[start : start + BATCH])
        return run_id

    def _send_epoch(self, epoch: int, values: dict[str, float], weights: Path | None) -> None:
        self._log(values, epoch)
        if weights is not None:
            self.client.log_image(self.record.id, Image.open(weights), key="weights", step=epoch)

    def _send_tensors(self, tensors: dict[str, Tensor], step: int) -> None:
        self._log({name: float(values.norm()) for name, values in tensors.items()}, step)

    def _send_evaluation(self, found: EvaluationCharts) -> None:
        self._log({f"{found.prefix}/{name}": value for name, value in found.values.items()}, 0)
        self._send_figures(found.prefix, found.predictions)
        with warnings.catch_warnings(action="ignore"):  # MLflow's own use of pandas
            self.client.log_table(self.record.id, found.predictions.shown, f"{found.prefix}/predictions.json")
        self.client.log_artifact(self.record.id, str(found.file), found.prefix)

    def _send_figures(self, prefix: str, found: Predictions) -> None:
        for name, figure in figures(found).items():
            self.client.log_figure(self.record.id, figure, f"{prefix}/{name}.png")

    def _send_result(self, result: RunResult, summary: dict[str, float], validation: Predictions, pixels: Pixels | None) -> None:
        self._send_figures("val", validation)
        self._log(summary, result.best_epoch)
        self.client.set_tag(self.record.id, "run_id", result.run_id)
        self.client.set_tag(self.record.id, "leaky", str(bool(result.data.leaks)).lower())
        if self.options.artifact or self.options.registry:
            self._send_checkpoint()

    def _send_checkpoint(self) -> None:
        """Upload the best checkpoint, and register it where the config asks for it."""
        self.client.log_artifact(self.record.id, str(self.folder.best), "checkpoints")
        name = self.options.registry
        if name:
            if not self.client.search_registered_models(f"name='{name}'"):
                self.client.create_registered_model(name)
            source = f"{self.client.get_run(self.record.id).info.artifact_uri}/checkpoints"
            self.client.create_model_version(name, source, self.record.id, await_creation_for=0)

    def _send_status(self, text: str) -> None:
        self.client.set_tag(self.record.id, "status", text)

    def _send_picture(self, name: str, image: Any) -> None:
        self.client.log_image(self.record.id, image, f"{name}.png")

    def _close(self, status: Status) -> None:
        self.client.set_terminated(self.record.id, STATES[status])

    def _log(self, values: dict[str, float], step: int) -> None:
        """Send values in one request."""
        from time import time

        from mlflow.entities import Metric

        now = int(time() * 1000)
        self.client.log_batch(self.record.id, [Metric(name, value, now, step) for name, value in values.items()])


def tracking_uri(options: MLflowConfig, setting: str = "logger.mlflow.tracking_uri=") -> str:
    """Return the address of the server or database.

    Args:
        options: Of MLflow.
        setting: What sets the address, for messages.

    Raises:
        ConfigError: There is none, or it holds a password, which would be written to the config of the run.
    """
    if options.tracking_uri and USER.search(options.tracking_uri):
        raise ConfigError(
            f"{setting}{short(options.tracking_uri)} holds a password, and the address is kept in the run folder. Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment."
        )
    place = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not place:
        raise ConfigError(
            f"MLflow needs the address of a server or of a database. Use {setting}http://HOST:PORT or "
            f"{setting}sqlite:///mlflow.db, or set MLFLOW_TRACKING_URI in the environment."
        )
    return place
