"""Send run folders to a tracker after training, whatever logger they had."""

from dataclasses import replace

from pneumonia.config.schema import LoggerConfig, TrainConfig, WandbConfig
from pneumonia.errors import TransferError
from pneumonia.models.checkpoints import load_classifier
from pneumonia.models.factory import own_targets
from pneumonia.runs.folder import RunFolder, read_config, read_metrics
from pneumonia.runs.listing import job_failure, job_label
from pneumonia.runs.result import RunResult, read_result
from pneumonia.training.loggers.mirror import Facts, Mirror, Status
from pneumonia.training.loggers.record import Sent, TrackerRecord
from pneumonia.training.loggers.tracking import build_mirrors


def push_run(folder: RunFolder, tracker: LoggerConfig) -> Mirror | None:
    """Send what was not sent of a finished, debug or interrupted run.

    Args:
        folder: The run, trained with any logger.
        tracker: The one tracker to send it to.

    Returns:
        The closed mirror; ``None`` where nothing is new.

    Raises:
        TransferError: The tracker refuses or can't be reached.
    """
    result = read_result(folder)
    (name,) = tracker.trackers
    online = tracker.wandb is None or tracker.wandb.mode == "online"
    if TrackerRecord.read(folder, name).sent(online=online) == Sent(len(read_metrics(folder)), result is not None):
        return None
    config = result.config if result else read_config(folder)
    broken = job_failure(folder)
    (mirror,) = build_mirrors(folder, config, _facts(folder, result), _as_trained(tracker, config), keep_offline=False)
    mirror.open()
    try:
        mirror.epochs()
        if result:
            mirror.result(result)
        else:
            mirror.status(broken or Status.INTERRUPTED.value)
    finally:
        failed = mirror.logger is None
        ended = Status.FAILED if broken in {"failed", "killed"} else Status.INTERRUPTED
        mirror.close(Status.FINISHED if result else ended)
    if failed:
        raise TransferError(f"{folder.path} was not sent whole; the line above says why. Call it again: what was sent is kept.")
    return mirror


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


def wandb_options(project: str, entity: str | None, mode: str) -> LoggerConfig:
    """Return the options of W&B for a run that was trained without it."""
    return LoggerConfig(
        wandb=WandbConfig(project=project, entity=entity, mode=mode, group=None, tags=[], samples=0, artifact=False)
    )
