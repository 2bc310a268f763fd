"""Upload run folders to W&B after training, whatever logger they had."""

from dataclasses import replace
from pathlib import Path

import yaml

from pneumonia.config.choices import WandbConfig
from pneumonia.config.convert import from_plain
from pneumonia.config.schema import TrainConfig
from pneumonia.errors import RunError, TransferError
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.runs.listing import job_failure, job_label
from pneumonia.runs.result import read_result
from pneumonia.training.loggers.wandb import INTERRUPTED, Mirror
from pneumonia.training.loggers.wandb_record import Sent, WandbRecord


def push_run(folder: RunFolder, project: str, entity: str | None, mode: str) -> Path | None:
    """Upload what was not sent of a finished, debug or interrupted run.

    Args:
        folder: The run, trained with any logger.
        project: Of W&B.
        entity: Of W&B; ``None`` for the user's default.
        mode: ``online`` or ``offline``.

    Returns:
        The folder of W&B's files, which with ``mode=offline`` are all that was made; ``None`` where nothing is new.

    Raises:
        TransferError: W&B refuses or can't be reached.
    """
    result = read_result(folder)
    if WandbRecord.read(folder).sent(online=mode == "online") == Sent(len(read_metrics(folder)), result is not None):
        return None
    config = result.config if result else _config(folder)
    if isinstance(config.logger, WandbConfig):
        logger = replace(config.logger, project=project, entity=entity, mode=mode)
    else:
        logger = WandbConfig(project=project, entity=entity, mode=mode, group=None, tags=[], samples=0, artifact=False)
    mirror = Mirror(folder, logger, config, job_label(folder), keep_offline=False)
    broken = job_failure(folder)
    try:
        mirror.epochs()
        if result:
            mirror.result(result)
        else:
            mirror.unfinished(broken or "interrupted")
    finally:
        failed = mirror.run is None
        mirror.close(0 if result else 1 if broken in {"failed", "killed"} else INTERRUPTED)
    if failed:
        raise TransferError(f"{folder.path} was not sent whole; the line above says why. Call it again: what was sent is kept.")
    return mirror.files


def _config(folder: RunFolder) -> TrainConfig:
    """Read the config of a run that has no result.

    Raises:
        RunError: The file is damaged, or of another version.
    """
    try:
        return from_plain(yaml.safe_load(folder.config.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{folder.config} is damaged ({reason}). Train the run again, and push it then.") from error
