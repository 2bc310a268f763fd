"""Send finished evaluations, and whole run folders, to trackers."""

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pandas as pd

from pneumonia.config.schema import LoggerConfig, MLflowConfig, TensorBoardConfig, TrainConfig, WandbConfig
from pneumonia.errors import ConfigError, RunError, TransferError
from pneumonia.evaluation.result import EvaluationResult, read_evaluation
from pneumonia.models.checkpoints import load_classifier
from pneumonia.models.factory import own_targets
from pneumonia.runs.folder import RunFolder, read_config, read_metrics
from pneumonia.runs.listing import job_failure, job_label
from pneumonia.runs.result import RunResult, read_result
from pneumonia.system.console import warn
from pneumonia.training.loggers.charts import EvaluationCharts, Predictions
from pneumonia.training.loggers.mirror import Facts, Mirror, Status
from pneumonia.training.loggers.record import TRACKERS, Sent, TrackerRecord
from pneumonia.training.loggers.tracking import build_mirrors, check_tracking


def send_evaluation(path: Path) -> None:
    """Send an evaluation to the trackers that mirror its run; what fails is a warning.

    Args:
        path: The JSON file. An ensemble is in no tracker, so nothing is sent of it.
    """
    folder = RunFolder(path.parent.parent)
    result = read_result(folder)
    if result is None:
        return
    for name in TRACKERS:
        record = TrackerRecord.read(folder, name)
        if record.online == record.offline == Sent():
            continue
        try:
            tracker = _tracker_of(folder, result.config, name)
            check_tracking(tracker)
        except ConfigError as error:
            warn(f"The evaluation is not sent. {error}")
            continue
        charts = _charts(path, result)
        for mirror in build_mirrors(folder, result.config, _facts(folder, result), tracker, training=False):
            if mirror.sent.evaluations.get(charts.name) != charts.sha256:
                mirror.open()
                mirror.evaluation(charts)
                mirror.close(Status.FINISHED)


def push_run(folder: RunFolder, tracker: LoggerConfig) -> Mirror | None:
    """Send what was not sent of a finished, debug or interrupted run, with its evaluations.

    Args:
        folder: The run, trained with any logger.
        tracker: The one tracker to send it to.

    Returns:
        The closed mirror; ``None`` where nothing is new.

    Raises:
        TransferError: The tracker refuses or can't be reached.
        RunError: A file of the run is damaged.
    """
    result = read_result(folder)
    (name,) = tracker.trackers
    online = tracker.wandb is None or tracker.wandb.mode == "online"
    charts = [] if result is None else [_charts(path, result) for path in folder.evaluations().values()]
    whole = Sent(len(read_metrics(folder)), result is not None, {found.name: found.sha256 for found in charts})
    if TrackerRecord.read(folder, name).sent(online=online) == whole:
        return None
    config = result.config if result else read_config(folder)
    broken = job_failure(folder)
    options = _as_trained(tracker, config)
    (mirror,) = build_mirrors(folder, config, _facts(folder, result), options, keep_offline=False, training=False)
    mirror.open()
    try:
        mirror.epochs()
        if result:
            mirror.result(result)
        else:
            mirror.status(broken or Status.INTERRUPTED.value)
        for found in charts:
            mirror.evaluation(found)
    finally:
        failed = mirror.logger is None
        ended = Status.FAILED if broken in {"failed", "killed"} else Status.INTERRUPTED
        mirror.close(Status.FINISHED if result else ended)
    if failed:
        raise TransferError(f"{folder.path} was not sent whole; the line above says why. Call it again: what was sent is kept.")
    return mirror


def wandb_options(project: str, entity: str | None, mode: str) -> LoggerConfig:
    """Return the options of W&B for a run that was trained without it."""
    return LoggerConfig(
        wandb=WandbConfig(project=project, entity=entity, mode=mode, group=None, tags=[], samples=0, artifact=False)
    )


def mlflow_options(tracking_uri: str | None, experiment_name: str) -> LoggerConfig:
    """Return the options of MLflow for a run that was trained without it."""
    return LoggerConfig(
        mlflow=MLflowConfig(tracking_uri=tracking_uri, experiment_name=experiment_name, tags=None, artifact=False)
    )


def _tracker_of(folder: RunFolder, config: TrainConfig, name: str) -> LoggerConfig:
    """Return the options with which a run was trained, or was pushed to a tracker."""
    if (own := getattr(config.logger, name)) is not None:
        return LoggerConfig(**{name: own})
    place = TrackerRecord.read(folder, name).place
    if name == "wandb":
        entity, _, project = place.rpartition("/")
        return wandb_options(project, entity or None, "auto")
    if name == "mlflow":
        return mlflow_options(None if os.environ.get("MLFLOW_TRACKING_URI") else place, "")
    return LoggerConfig(tensorboard=TensorBoardConfig())


def _as_trained(tracker: LoggerConfig, config: TrainConfig) -> LoggerConfig:
    """Return the options of the tracker, with the other ones of the training."""
    own, asked = config.logger.wandb, tracker.wandb
    if own is None or asked is None:
        return tracker
    return LoggerConfig(wandb=replace(own, project=asked.project, entity=asked.entity, mode=asked.mode))


def _facts(folder: RunFolder, result: RunResult | None) -> Facts:
    label = job_label(folder)
    if result is None:
        return Facts(label)
    network = load_classifier(folder.best, own=own_targets(result.config)).network
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Facts(label, result.data.manifest_sha256, result.data.split_sha256, parameters)


def _charts(path: Path, run: RunResult) -> EvaluationCharts:
    """Read an evaluation for a tracker.

    Raises:
        RunError: It is damaged.
    """
    try:
        found, table = read_evaluation(path), pd.read_parquet(path.with_suffix(".parquet"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}). Evaluate the run again.") from error
    scaled = found.calibration.scaled
    reliability = {"uncalibrated": found.calibration.reliability} | ({"calibrated": scaled.reliability} if scaled else {})
    predictions = Predictions(table, run.task.classes, reliability)
    return EvaluationCharts(path.stem, path, sha256(path.read_bytes()).hexdigest(), _values(found), predictions)


def _values(found: EvaluationResult) -> dict[str, float]:
    values: dict[str, float | None] = {"images": found.n, "patients": found.patients}
    for name, estimate in found.metrics.items():
        values |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    calibration = found.calibration
    values |= {"ece": calibration.ece, "brier": calibration.brier, "temperature": calibration.temperature}
    if calibration.scaled is not None:
        values |= {"ece_calibrated": calibration.scaled.ece, "brier_calibrated": calibration.scaled.brier}
    return {name: value for name, value in values.items() if value is not None}
