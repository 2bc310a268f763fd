"""Upload run folders to W&B after training, whatever logger they had."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pneumonia.config.convert import to_plain
from pneumonia.errors import TransferError
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.runs.listing import job_failure, job_label
from pneumonia.runs.result import read_result
from pneumonia.system.files import read_json
from pneumonia.training.loggers.wandb import INTERRUPTED, Mirror


def push_run(folder: RunFolder, logger: dict[str, Any]) -> Path | None:
    """Upload what was not sent of a finished, debug or interrupted run.

    Args:
        folder: The run, trained with any logger.
        logger: ``project``, ``entity`` and ``mode``.

    Returns:
        The folder of W&B's files, which with ``mode=offline`` are all that was made; ``None`` where nothing is new.

    Raises:
        TransferError: W&B refuses or can't be reached.
    """
    result = read_result(folder)
    note = read_json(folder.wandb).get("online" if logger["mode"] == "online" else "offline", {})
    if note.get("rows", 0) == len(read_metrics(folder)) and bool(note.get("result")) == (result is not None):
        return None
    config: Any = to_plain(result.config) if result else OmegaConf.to_container(OmegaConf.load(folder.config))
    own = config["logger"] if config["logger"]["kind"] == "wandb" else {"group": None, "tags": [], "artifact": False}
    mirror = Mirror(folder, {**own, **logger}, config, job_label(folder), keep_offline=False)
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
        raise TransferError(
            f"{folder.path} was not sent whole; the line above says why. Call it again: what was sent is kept."
        )
    return mirror.files
