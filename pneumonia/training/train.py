"""Train one run, from a config to a finished run folder."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from zipfile import is_zipfile

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from pneumonia.config.schema import TrainConfig
from pneumonia.data.audit.contact_sheets import by_draw
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.errors import ConfigError, RunError
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.identity import run_identity
from pneumonia.runs.result import RunResult, read_result
from pneumonia.system.console import say
from pneumonia.system.files import check_writable, replacing
from pneumonia.training.continuation import begin_with, check_continuable, identifying_values, shorter_run
from pneumonia.training.fit import build_trainer, fit
from pneumonia.training.loggers.mirror import Facts
from pneumonia.training.loggers.tracking import mirror_finished, mirrored
from pneumonia.training.outcome import build_result, check_end
from pneumonia.training.prepare import prepare_run
from pneumonia.training.summary import announce, show

DRY_RUN_BATCHES: Final = 2  # batches of each subset
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
        callbacks: Of Lightning's, beside those of the run and of its config.

    Returns:
        What ``result.json`` holds.

    Raises:
        PneumoniaError: Bad data, a bad setting, a folder that can't be written; before anything is trained.
        Interrupted: Ctrl-C or SIGTERM; run the same command again to go on.
        TimeLimitReached: ``trainer.max_time`` is over; run the same command again to go on.
    """
    if config.tune is not None:
        raise ConfigError(
            f"tune={config.tune} trains no run: it suggests a value. Use `pneumonia train tune={config.tune}` for one config, or "
            "pneumonia.training.tune.tune(config)."
        )
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks holds {callback!r}, which is no callback: it must subclass lightning.pytorch.Callback.")
    check_writable(Path(config.runs_dir))
    run = prepare_run(config, data_cache or RunDataCache())
    run_id = run_identity(identifying_values(config), **run.data.hashes)
    folder = RunFolder(Path(config.runs_dir) / config.name / run_id)
    parameters = sum(parameter.numel() for parameter in run.classifier.network.parameters())
    facts = Facts(label, run.data.hashes["manifest_sha256"], run.data.hashes["split_sha256"], parameters)
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
            mirror_finished(folder, config, facts, done)
            return done
        if config.force:
            folder.clear()
        continuation = None if folder.last.exists() else run.continuation
        if continuation is not None:
            check_continuable(continuation, run.data.hashes)
        elif not (config.force or folder.last.exists()):
            continuation = shorter_run(config, run.data.hashes, folder)
        announce(config, run.classifier, run.data, folder, label)
        if run.initial_weights:
            say(run.initial_weights)
        folder.begin(config, label)
        with replacing(folder.split(run.data.hashes["split_sha256"])) as part:
            run.data.split.to_parquet(part, index=False)
        if continuation is not None:
            begin_with(continuation, folder)
        with mirrored(folder, config, facts) as mirrors:
            if mirrors and config.augmentation:
                drawn = _drawn(config, run.data)
                for mirror in mirrors:
                    mirror.picture("augmentation", drawn)
            record = fit(config, run.classifier, run.data, folder, mirrors, [*run.callbacks, *callbacks])
            check_end(config, record, folder)
            result = build_result(config, run_id, run.data, record, folder)
            result.write(folder)
            if mirrors:
                rows = run.data.images.rows[run.data.positions("val", record.best.best_epoch - 1)]
                pixels = run.data.images.pixels[rows]
                for mirror in mirrors:
                    mirror.result(result, pixels)
    note = "" if result.completed else f"This run {result.shortened}: no other command accepts it."
    show(result, folder, note)
    return result


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
    trainer = build_trainer(replace(config, trainer=short), [_OneEpoch()])
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(run.classifier, datamodule=run.data)
    finally:
        signal.signal(signal.SIGINT, handler)


class _OneEpoch(Callback):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def _drawn(config: TrainConfig, data: XRayDataModule) -> Any:
    """Draw augmented training images."""
    rows = data.rows("train")
    manifest = data.images.manifest.iloc[data.positions("train")].reset_index(drop=True)
    pixels = data.images.pixels[rows]
    return by_draw(manifest, pixels, config.augmentation, "training", SHOWN, SHOWN, config.seed, config.augmenter)
