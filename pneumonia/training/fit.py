"""Fit the classifier of a run with Lightning, from its start or from its last checkpoint."""

import multiprocessing
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from pneumonia.config.convert import to_plain
from pneumonia.config.schema import TrainConfig
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.errors import Interrupted, PneumoniaError, RunError
from pneumonia.models.base import Classifier
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.system.console import say
from pneumonia.system.device import configure_tf32, device_of, precision_on, process_count
from pneumonia.system.signals import sigterm_as_interrupt
from pneumonia.training.callbacks import RunCallbacks
from pneumonia.training.checkpointing import AtomicCheckpointIO, direction
from pneumonia.training.config_callbacks import compares_epochs
from pneumonia.training.loggers.mirror import Mirror
from pneumonia.training.loggers.steps import StepRecorder
from pneumonia.training.loggers.tracking import WATCH_EVERY, Follower, loggers_of
from pneumonia.training.profile import build_profiler, show_profile
from pneumonia.training.progress import EpochProgress
from pneumonia.training.time_limit import TimeLimit
from pneumonia.training.weight_pictures import WeightPictures

PATIENCE_S: Final = 10.0  # after a process was terminated


def fit(
    config: TrainConfig,
    classifier: Classifier,
    data: XRayDataModule,
    folder: RunFolder,
    mirrors: Sequence[Mirror],
    more: Sequence[Any],
) -> RunCallbacks:
    """Fit a classifier, and resume where an earlier training of its run was interrupted.

    Args:
        config: Of the run.
        classifier: Of the run.
        data: Of the run, set up.
        folder: Of the run, held.
        mirrors: The trackers that each epoch is sent to.
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
    callbacks: list[Any] = [StepRecorder(settings.log_every_n_steps), *record.ordered(), WeightPictures(folder)]
    callbacks.append(Follower(mirrors, settings.log_every_n_steps or WATCH_EVERY))
    stopping = config.early_stopping
    if stopping.patience is not None:
        mode, by_epoch = direction(monitor), compares_epochs(config)
        callbacks.append(
            EarlyStopping(monitor, stopping.min_delta, stopping.patience, mode=mode, check_on_train_epoch_end=by_epoch)
        )
    if settings.max_time is not None:
        callbacks.append(TimeLimit(settings.max_time, folder))
    callbacks += more
    if settings.enable_progress_bar and not _progress_bars(more):
        callbacks.append(EpochProgress(record.throughput))
    resume = _resume_point(folder, record)
    if record.termination.ended:
        return record
    trainer = build_trainer(config, callbacks, folder, loggers_of(folder, mirrors))
    handler = signal.getsignal(signal.SIGINT)
    several = process_count(settings) > 1
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
            f"One of the {process_count(settings)} processes of the training ended: {last}. The epochs before are kept in "
            f"{folder.path}. Run the same command again to go on."
        ) from error
    except Exception as error:
        if not isinstance(error, PneumoniaError):
            error.add_note(
                f"The training stopped after {len(read_metrics(folder))} of {config.max_epochs} epochs, which are kept in "
                f"{folder.path}. Run the same command again to go on."
            )
        raise
    finally:
        signal.signal(signal.SIGINT, handler)
        if several:
            _end_children()  # they would continue, in a folder that is no longer held
    if several:
        record.restore(folder.last)  # it was kept by another process
    show_profile(folder)
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


def build_trainer(
    config: TrainConfig, callbacks: list[Any], folder: RunFolder | None = None, loggers: Sequence[Logger] = ()
) -> Trainer:
    """Build the trainer of a run.

    Args:
        config: Of the run.
        callbacks: Of the trainer.
        folder: Of the run, for the report of a profiler; ``None`` for none.
        loggers: Of the trainer.
    """
    settings = config.trainer
    device, several = device_of(settings), process_count(settings) > 1
    precision = precision_on(device, settings.precision)
    configure_tf32(device, precision)
    arguments, epochs = (
        {**to_plain(settings), "precision": precision, "enable_progress_bar": _progress_bars(callbacks)},
        config.max_epochs,
    )
    arguments |= {"max_time": None, "max_steps": -1}  # see TimeLimit and Termination
    arguments |= {"log_every_n_steps": settings.log_every_n_steps or 0}
    # With Lightning's own fast_dev_run no checkpoint is saved, and its overfit_batches keeps the shuffling of our sampler.
    fast_dev_run, overfit = int(arguments.pop("fast_dev_run")), arguments.pop("overfit_batches")
    if batches := fast_dev_run or overfit:
        arguments |= {"limit_train_batches": batches, "limit_val_batches": batches}
    if several:
        arguments["strategy"] = "ddp_spawn"  # other processes of Lightning's would run the whole command again
    if device.type == "cpu" and settings.devices in {"auto", -1}:
        arguments["devices"] = 1
    return Trainer(
        **arguments | {"profiler": build_profiler(settings.profiler, folder)},
        max_epochs=1 if fast_dev_run else epochs,
        sync_batchnorm=several,
        logger=list(loggers),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_model_summary=False,
        enable_autolog_hparams=False,  # a tracker has the whole config
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=int(config.split.rules.rotates),
        default_root_dir=config.runs_dir if folder is None else folder.path,
    )


def _progress_bars(callbacks: Sequence[Any]) -> bool:
    return any(isinstance(callback, ProgressBar) for callback in callbacks)


def _resume_point(folder: RunFolder, record: RunCallbacks) -> Path | None:
    """Return ``last.ckpt`` where an earlier training left one, and restore the record from it."""
    if not folder.last.exists():
        return None
    epochs = record.restore(folder.last)
    if not record.termination.ended:
        say(f"Resuming after epoch {epochs}")
    return folder.last
