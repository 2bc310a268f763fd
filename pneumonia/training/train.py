"""Train one run, from a config to a finished run folder."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from zipfile import is_zipfile

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from pneumonia.config.convert import identity, to_plain
from pneumonia.config.schema import TrainConfig
from pneumonia.config.trainer_limits import shortening
from pneumonia.data.audit.contact_sheets import by_draw
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.data.sources.phantom_detection import mostly_phantoms
from pneumonia.errors import DivergenceError, Interrupted, RunError
from pneumonia.metrics.classification import confusion_matrix, nan_to_none
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.models.base import Classifier
from pneumonia.models.checkpoints import load_classifier
from pneumonia.models.factory import family_of, own_targets
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.runs.identity import run_identity, versions
from pneumonia.runs.predictions import predict_subset, table_metrics
from pneumonia.runs.result import COMPLETED, DEBUG, Confusion, Cost, RunData, RunResult, read_result
from pneumonia.system.console import say
from pneumonia.system.device import configure_tf32, device_of, name_of, precision_on
from pneumonia.system.files import check_writable, replacing
from pneumonia.system.signals import sigterm_as_interrupt
from pneumonia.training.callbacks import RunCallbacks
from pneumonia.training.checkpointing import AtomicCheckpointIO, direction
from pneumonia.training.loggers.wandb import Follower, Mirror, followed, mirror_finished
from pneumonia.training.loggers.wandb_charts import Samples
from pneumonia.training.prepare import prepare_run
from pneumonia.training.progress import EpochProgress
from pneumonia.training.summary import announce, show
from pneumonia.training.throughput import peak_memory_mib
from pneumonia.training.time_limit import TimeLimit, time_limit_reached
from pneumonia.training.weight_pictures import WeightPictures

DRY_RUN_BATCHES: Final = 2  # batches of each subset
PATIENCE_S: Final = 10.0  # after a process was terminated
SHOWN: Final = 6  # images, and draws of each, on the sheet of augmentations


def train(
    config: TrainConfig,
    *,
    label: str = "",
    data_cache: RunDataCache | None = None,
    opened: Callable[[RunFolder], None] | None = None,
    callbacks: Sequence[Any] = (),
) -> RunResult:
    """Train a run: from the start, from its last epoch if it was interrupted, or not at all if it is finished.

    Args:
        config: From :func:`pneumonia.config.compose.compose`.
        label: What tells the run from the others of its sweep.
        data_cache: Holds what earlier runs of this process have loaded.
        opened: Called with the run folder as soon as it is known.
        callbacks: Of Lightning's, beside ours.

    Returns:
        What ``result.json`` holds.

    Raises:
        PneumoniaError: Bad data, a bad setting, a folder that can't be written; before anything is trained.
        Interrupted: Ctrl-C or SIGTERM; run the same command again to go on.
        TimeLimitReached: ``trainer.max_time`` is over; run the same command again to go on.
    """
    check_writable(Path(config.runs_dir))
    run = prepare_run(config, data_cache or RunDataCache())
    run_id = run_identity(_known(config), **run.data.hashes)
    folder = RunFolder(Path(config.runs_dir) / config.name / run_id)
    if opened is not None:
        opened(folder)
    with folder.held():
        done = None if config.force else read_result(folder)
        if done is not None:
            if not is_zipfile(folder.best):  # as torch writes it; a file that was cut short is none
                raise RunError(
                    f"The run in {folder.path} is finished, but {folder.best.name} is gone from it or damaged. Say "
                    "force=true to train it again."
                )
            what = "is finished" if done.completed else done.shortened
            show(done, folder, f"This run {what}; nothing was trained. Say force=true to train it again.")
            mirror_finished(folder, config, label, done)
            return done
        if config.force:
            folder.clear()
        announce(config, run.classifier, run.data, folder)
        folder.begin(config)
        with replacing(folder.split(run.data.hashes["split_sha256"])) as part:
            run.data.split.to_parquet(part, index=False)
        with followed(folder, config, label) as mirror:
            if mirror is not None and config.augmentation:
                mirror.picture("augmentation", _drawn(config, run.data))
            record = _fit(config, run.classifier, run.data, folder, mirror, callbacks)
            _check_end(config, record, folder)
            result = _result(config, run_id, run.data, record, folder)
            result.write(folder)
            if mirror is not None:
                rows = run.data.images.rows[run.data.positions("val", record.best.best_epoch - 1)]
                pixels = run.data.images.pixels[rows]
                mirror.result(result, Samples(pixels, getattr(config.logger, "samples", 0)))
    note = "" if result.completed else f"This run {result.shortened}: no other command accepts it."
    show(result, folder, note)
    return result


def _check_end(config: TrainConfig, record: RunCallbacks, folder: RunFolder) -> None:
    """Refuse a result if training ended earlier than its config says and is not a debug run.

    Raises:
        DivergenceError: No epoch is worth keeping.
        TimeLimitReached: ``trainer.max_time`` was over, in several processes that train together.
        RunError: Something else has stopped the training.
    """
    epochs, trainer = len(read_metrics(folder)), config.trainer
    if record.termination.ended or trainer.fast_dev_run or epochs >= config.max_epochs:
        if not record.best.best_epoch:
            raise _divergence(config, record)
        return
    if trainer.max_time is not None:
        raise time_limit_reached(trainer.max_time, folder, config.max_epochs)
    raise RunError(
        f"Something has stopped the training after {epochs} of {config.max_epochs} epochs, and it was not early stopping. "
        f"They are kept in {folder.path}. Run the same command again to go on."
    )


def _divergence(config: TrainConfig, record: RunCallbacks) -> DivergenceError:
    """Build the error of a training without a finite epoch."""
    rate, swa = getattr(config.optimizer, "lr", None), config.swa
    lower = "optimizer.lr" if rate is None else f"optimizer.lr ({rate} now)"
    averaged = "" if swa is None else f" with averaged weights (swa={swa})"
    return DivergenceError(
        f"The training diverged in epoch {record.termination.diverged}: its loss or weights are NaN or infinite, and no epoch"
        f"{averaged} has finite ones to keep. Repeating it would end the same. Lower {lower}, or clip the gradient "
        "(trainer.gradient_clip_val=1)."
    )


def _shortened_by(config: TrainConfig, record: RunCallbacks) -> list[str]:
    """Return the overrides that shortened a training; none for a full one."""
    steps = [f"trainer.max_steps={config.trainer.max_steps}"] if record.termination.out_of_steps else []
    return [*shortening(config.trainer), *steps]


def train_dry_run(config: TrainConfig, data_cache: RunDataCache) -> None:
    """Train and validate on two batches and keep nothing, so that errors appear early.

    Raises:
        Exception: Whatever the run itself would raise.
    """
    run = prepare_run(config, data_cache)
    short = replace(
        config.trainer,
        devices=1,  # a second process takes longer to start than the batches
        strategy="auto",
        limit_train_batches=DRY_RUN_BATCHES,
        limit_val_batches=DRY_RUN_BATCHES,
    )
    trainer = _trainer(replace(config, trainer=short), [_OneEpoch()])
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(run.classifier, datamodule=run.data)
    finally:
        signal.signal(signal.SIGINT, handler)


class _OneEpoch(Callback):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def _known(config: TrainConfig) -> dict[str, Any]:
    """Return the part of the config that affects the result; weight files by their content."""
    model = to_plain(config.model)
    return identity(config, family_of(model, own_targets(config)).identity(model))


def _drawn(config: TrainConfig, data: XRayDataModule) -> Any:
    """Draw augmented training images."""
    rows = data.rows("train")
    manifest = data.images.manifest.iloc[data.positions("train")].reset_index(drop=True)
    pixels = data.images.pixels[rows]
    return by_draw(manifest, pixels, config.augmentation, "training", SHOWN, SHOWN, config.seed, config.augmenter)


def _fit(
    config: TrainConfig,
    classifier: Classifier,
    data: XRayDataModule,
    folder: RunFolder,
    mirror: Mirror | None,
    more: Sequence[Any],
) -> RunCallbacks:
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
    trainer = _trainer(config, callbacks)
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


def _trainer(config: TrainConfig, callbacks: list[Any]) -> Trainer:
    settings = config.trainer
    device = device_of(settings)
    precision = precision_on(device, settings.precision)
    configure_tf32(device, precision)
    words, epochs = {**to_plain(settings), "precision": precision, "enable_progress_bar": False}, config.max_epochs
    words |= {"max_time": None, "max_steps": -1}  # see TimeLimit and Termination
    if batches := int(words.pop("fast_dev_run")):  # with Lightning's own, no checkpoint is saved
        words, epochs = {**words, "limit_train_batches": batches, "limit_val_batches": batches}, 1
    return Trainer(
        **words,
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


def _result(
    config: TrainConfig,
    run_id: str,
    data: XRayDataModule,
    record: RunCallbacks,
    folder: RunFolder,
) -> RunResult:
    device = device_of(config.trainer)
    best = load_classifier(folder.best, config.task, own_targets(config))
    predictions = predict_subset(best.to(device), data, "val", record.best.best_epoch - 1)
    with replacing(folder.predictions("val")) as part:
        predictions.to_parquet(part, index=False)
    probability, label = prediction_arrays(predictions, data.task.classes)
    confusion = confusion_matrix(probability.argmax(axis=1), label, len(data.task.classes))
    price = config.usd_per_hour
    history = read_metrics(folder)
    row = history[record.best.best_epoch - 1]
    trained = {key.removeprefix("train/"): float(value) for key, value in row.items() if key.startswith("train/")}
    shortened_by = _shortened_by(config, record)
    seen = data.images.manifest.iloc[data.positions("train")]
    return RunResult(
        status=DEBUG if shortened_by else COMPLETED,
        shortened_by=shortened_by,
        name=config.name,
        run_id=run_id,
        config=config,
        data=RunData(
            manifest_sha256=data.hashes["manifest_sha256"],
            split_sha256=data.hashes["split_sha256"],
            train=len(data.positions("train")),
            val=len(data.positions("val")),
            test=len(data.positions("test")),
            leaks=data.leaks,
            skipped=data.images.skipped,
            phantoms=mostly_phantoms(seen["path"].tolist(), seen["sha256"].tolist(), Path(config.cache_dir)),
        ),
        epochs=len(history),
        best_epoch=record.best.best_epoch,
        metrics={"train": nan_to_none(trained), "val": nan_to_none(table_metrics(predictions, data.task))},
        confusion=Confusion(list(data.task.classes), confusion.tolist()),
        cost=Cost(
            device=name_of(device),
            precision=precision_on(device, config.trainer.precision),
            fit_s=round(record.throughput.totals.fit_s, 3),
            **record.throughput.rates(),
            peak_memory_mib=peak_memory_mib(),
            usd=None if price is None else round(record.throughput.totals.fit_s / 3600 * price, 6),
        ),
        versions=versions(),
    )
