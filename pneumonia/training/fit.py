"""Fit the classifier of a run with Lightning, from its start or from its last checkpoint."""

import multiprocessing
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from pneumonia.config.convert import to_plain
from pneumonia.config.schema import TrainConfig
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.errors import Interrupted, RunError
from pneumonia.models.base import Classifier
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.system.console import say
from pneumonia.system.device import configure_tf32, device_of, precision_on
from pneumonia.system.signals import sigterm_as_interrupt
from pneumonia.training.callbacks import RunCallbacks
from pneumonia.training.checkpointing import AtomicCheckpointIO, direction
from pneumonia.training.loggers.wandb import Follower, Mirror
from pneumonia.training.progress import EpochProgress
from pneumonia.training.time_limit import TimeLimit
from pneumonia.training.weight_pictures import WeightPictures

PATIENCE_S: Final = 10.0  # after a process was terminated


def fit(
    config: TrainConfig,
    classifier: Classifier,
    data: XRayDataModule,
    folder: RunFolder,
    mirror: Mirror | None,
    more: Sequence[Any],
) -> RunCallbacks:
    """Fit a classifier, and resume where an earlier training of its run was interrupted.

    Args:
        config: Of the run.
        classifier: Of the run.
        data: Of the run, set up.
        folder: Of the run, held.
        mirror: Sends each epoch; ``None`` for nowhere.
        more: Callbacks beside those of the run.

    Returns:
        The callbacks that have recorded the training.

    Raises:
        Interrupted: Ctrl-C or SIGTERM.
        TimeLimitReached: ``trainer.max_time`` is over.
        RunError: One of several processes has ended.
    """
    monitor = config.monitor or classifier.default_monitor
    settings = config.trainer
    record = RunCallbacks.of(folder, monitor, classifier.options.max_steps)
    callbacks: list[Any] = [*record.ordered(), WeightPictures(folder)]
    if mirror is not None:
        callbacks.append(Follower(mirror))
    stopping = config.early_stopping
    if stopping.patience is not None:
        callbacks.append(EarlyStopping(monitor, stopping.min_delta, stopping.patience, mode=direction(monitor)))
    if settings.max_time is not None:
        callbacks.append(TimeLimit(settings.max_time, folder))
    if settings.enable_progress_bar:
        callbacks.append(EpochProgress(record.throughput))
    callbacks += more
    resume = _resume_point(folder, record)
    if record.termination.ended:
        return record
    trainer = build_trainer(config, callbacks)
    handler = signal.getsignal(signal.SIGINT)
    several = settings.devices > 1
    try:
        with sigterm_as_interrupt() if several else nullcontext():  # of one process, Lightning takes care itself
            trainer.fit(classifier, datamodule=data, ckpt_path=resume, weights_only=True)
    except (SystemExit, KeyboardInterrupt) as stop:  # Lightning exits on Ctrl-C and SIGTERM
        raise Interrupted(
            f"Stopped after {len(read_metrics(folder))} of {config.max_epochs} epochs; they are kept in {folder.path}. "
            "Run the same command again to go on."
        ) from stop
    except (ProcessExitedException, ProcessRaisedException) as error:
        last = str(error).strip().splitlines()[-1].rstrip(".")
        raise RunError(
            f"One of the {settings.devices} processes of the training ended: {last}. The epochs before are kept in "
            f"{folder.path}. Run the same command again to go on."
        ) from error
    finally:
        signal.signal(signal.SIGINT, handler)
        if several:
            _end_children()  # they would go on, in a folder that is no longer held
    if several:
        record.restore(folder.last)  # it was kept by another process
    return record


def _end_children() -> None:
    """End the processes that a training has started."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(PATIENCE_S)
        if child.is_alive():
            child.kill()
            child.join()


def build_trainer(config: TrainConfig, callbacks: list[Any]) -> Trainer:
    """Build the trainer of a run with some callbacks."""
    settings = config.trainer
    device = device_of(settings)
    precision = precision_on(device, settings.precision)
    configure_tf32(device, precision)
    arguments, epochs = {**to_plain(settings), "precision": precision, "enable_progress_bar": False}, config.max_epochs
    arguments |= {"max_time": None, "max_steps": -1}  # see TimeLimit and Termination
    if batches := int(arguments.pop("fast_dev_run")):  # with Lightning's own, no checkpoint is saved
        arguments, epochs = {**arguments, "limit_train_batches": batches, "limit_val_batches": batches}, 1
    return Trainer(
        **arguments,
        max_epochs=epochs,
        sync_batchnorm=settings.devices > 1,
        logger=False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=int(config.split.rules.rotates),
        default_root_dir=config.runs_dir,
    )


def _resume_point(folder: RunFolder, record: RunCallbacks) -> Path | None:
    """Return ``last.ckpt`` where an earlier training left one, and restore the record from it."""
    if not folder.last.exists():
        return None
    epochs = record.restore(folder.last)
    if not record.termination.ended:
        say(f"Resuming: an earlier training of this run was interrupted after epoch {epochs}.")
    return folder.last
