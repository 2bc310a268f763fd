"""Turn a training that has ended into the result of its run, or into an error."""

from pathlib import Path

from pneumonia.config.schema import TrainConfig
from pneumonia.config.trainer_limits import shortening
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.sources.phantom_detection import mostly_phantoms
from pneumonia.errors import DivergenceError, RunError
from pneumonia.metrics.classification import confusion_matrix, nan_to_none
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.models.checkpoints import load_classifier
from pneumonia.models.factory import own_targets
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.runs.identity import versions
from pneumonia.runs.predictions import predict_subset, table_metrics
from pneumonia.runs.result import COMPLETED, DEBUG, Confusion, Cost, RunData, RunResult
from pneumonia.system.device import device_of, name_of, precision_on
from pneumonia.system.files import replacing
from pneumonia.training.callbacks import RunCallbacks
from pneumonia.training.throughput import peak_memory_mib
from pneumonia.training.time_limit import time_limit_reached


def build_result(
    config: TrainConfig,
    run_id: str,
    data: XRayDataModule,
    record: RunCallbacks,
    folder: RunFolder,
) -> RunResult:
    """Build the result of a run from its best checkpoint, and write the predictions of its validation images."""
    device = device_of(config.trainer)
    best = load_classifier(folder.best, data.task, own_targets(config))
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


def check_end(config: TrainConfig, record: RunCallbacks, folder: RunFolder) -> None:
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
    return [*([f"debug={config.debug}"] if config.debug else []), *shortening(config.trainer), *steps]
