"""Continue the training of another run folder, with the result of a training from the start.

A new run begins with the epochs of another one: of ``ckpt_path``, or of a finished run whose config differs in ``max_epochs``
alone. Checkpoints, metrics and states are copied into the new folder, which then resumes as after an interruption. This is exact
only where no epoch depends on how many follow.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any, Final

import torch

from pneumonia.config.callback_classes import EARLY_STOPPING, lightning_class, only_observes
from pneumonia.config.convert import dotted, identity, to_plain
from pneumonia.config.schema import TrainConfig
from pneumonia.errors import CheckpointError, ConfigError, PneumoniaError, RunError
from pneumonia.models.checkpoints import check_checkpoint, load_classifier
from pneumonia.models.factory import family_of, own_targets
from pneumonia.models.initial_weights import initial_weights_identity
from pneumonia.runs.folder import RunFolder, read_config, read_metrics
from pneumonia.runs.identity import run_identity
from pneumonia.runs.result import read_result
from pneumonia.system.checksums import file_hash
from pneumonia.system.console import say
from pneumonia.system.files import is_locked, replacing
from pneumonia.training.checkpointing import BestCheckpoint
from pneumonia.training.metrics_csv import write_metrics

SHARED_BY_ALL_LENGTHS: Final = ("constant", "step", "exponential", "plateau")  # schedules without max_epochs in them
STATES: Final = ("epoch", "callbacks", "optimizer_states")  # of a checkpoint that can be continued
MOST_LENGTHS: Final = 10_000  # that are looked for, longest first


@dataclass(frozen=True)
class Continuation:
    """A checkpoint to continue, and its run folder."""

    checkpoint: Path
    source: RunFolder


def identifying_values(config: TrainConfig) -> dict[str, object]:
    """Return the part of the config that affects the result; files of weights and checkpoints by their content."""
    model = to_plain(config.model)
    values = identity(config, family_of(model, own_targets(config)).identity(model))
    if config.init_from is not None:
        values["init_from"] = initial_weights_identity(config.init_from)
    if config.ckpt_path is not None:
        values["ckpt_path"] = file_hash(_existing(config.ckpt_path), "sha256")
    return values


def continuation_of(config: TrainConfig) -> Continuation | None:
    """Check ``ckpt_path`` before any data are read; ``None`` without one.

    Raises:
        CheckpointError: There is no such file, or not in the folder of a run.
        ConfigError: The run of the checkpoint has other settings, or this run needs no further epoch.
    """
    if config.ckpt_path is None:
        return None
    path = _existing(config.ckpt_path)
    source = RunFolder(path.parent.parent)
    if not source.config.is_file():
        raise CheckpointError(
            f"ckpt_path={config.ckpt_path} does not lie in checkpoints/ of a run folder, so its settings and epochs are unknown, "
            "and the training can't be continued exactly. Use init_from=FILE to start from its weights."
        )
    if is_locked(source.path / "lock"):
        raise RunError(
            f"{source.path} is being trained by another process, so ckpt_path={config.ckpt_path} may be replaced at any moment. "
            "Wait for it, or copy the run folder."
        )
    theirs, ours = (_comparable(one) for one in (read_config(source), config))
    if differing := [key for key in {**theirs, **ours} if theirs.get(key, ...) != ours.get(key, ...)]:
        listed = "; ".join(f"{key}={theirs.get(key)} there, {ours.get(key)} here" for key in differing[:5])
        raise ConfigError(
            f"ckpt_path={config.ckpt_path} is of another run, whose training can't be continued with other settings: {listed}. "
            f"Use the same settings, or init_from={config.ckpt_path} to start from its weights."
        )
    epochs = _epochs(path)
    check_checkpoint(load_classifier(path, own=own_targets(config)), config, path)
    if epochs >= config.max_epochs:
        raise ConfigError(
            f"ckpt_path={config.ckpt_path} has {epochs} epochs already, so max_epochs={config.max_epochs} leaves nothing to "
            "train. Use a larger max_epochs."
        )
    why = _depends_on_length(config)
    if why and read_config(source).max_epochs != config.max_epochs:
        raise ConfigError(
            f"ckpt_path={config.ckpt_path} was trained with max_epochs={read_config(source).max_epochs}, and this run has "
            f"{config.max_epochs}: {why}, so the epochs so far would have been others. Use the same max_epochs, a schedule that "
            "does not depend on it (none, step, exponential, plateau), or init_from."
        )
    return Continuation(path, source)


def shorter_run(config: TrainConfig, hashes: Mapping[str, str], folder: RunFolder) -> Continuation | None:
    """Find a finished run beside ``folder`` that differs in fewer ``max_epochs`` alone, and can be continued exactly."""
    others = {entry.name for entry in folder.path.parent.iterdir() if RunFolder(entry).result.is_file()}
    values = identifying_values(config) if others else {}
    longest = config.max_epochs - 1
    for epochs in range(longest, max(longest - MOST_LENGTHS, 0), -1) if others else ():
        source = RunFolder(folder.path.with_name(run_identity({**values, "max_epochs": epochs}, **hashes)))
        if source.path.name not in others or not source.last.is_file() or is_locked(source.path / "lock"):
            continue
        result = read_result(source)
        if result is None or not result.completed:
            continue
        try:
            check_continuable(Continuation(source.last, source), hashes)
        except PneumoniaError as error:
            say(f"{source.path} is the same with max_epochs={epochs}; it can't be continued. {error} Training from the start.")
            return None
        if why := _depends_on_length(config):
            say(
                f"{source.path} is the same with max_epochs={epochs}; it can't be continued, because {why}. Training from "
                "the start."
            )
            return None
        return Continuation(source.last, source)
    return None


def check_continuable(continuation: Continuation, hashes: Mapping[str, str]) -> None:
    """Refuse to continue what has other data, or lacks files of the epochs of the checkpoint.

    Raises:
        RunError: The other run was trained on another split, or its metrics or best weights are gone.
    """
    path, source = continuation.checkpoint, continuation.source
    start = f"Use init_from={path} to start from its weights."
    if not source.split(hashes["split_sha256"]).is_file():
        raise RunError(
            f"{path} was trained on other images or another split, so its training can't be continued on these. Use the same "
            f"data and split. {start}"
        )
    epochs, best_epoch = _epochs(path), _best_epoch(path)
    if (rows := len(_rows(source, epochs))) != epochs:
        raise RunError(f"{source.metrics} has {rows} of the {epochs} epochs of {path.name}, so they can't be continued. {start}")
    if best_epoch and (kept := _epochs(source.best, ("epoch",))) != best_epoch:
        raise RunError(
            f"{source.best} has weights of epoch {kept}, and the best of the {epochs} epochs of {path.name} was {best_epoch}, "
            f"so they can't be continued exactly. {start}"
        )


def begin_with(continuation: Continuation, folder: RunFolder) -> None:
    """Copy the epochs of another run into a new run folder."""
    path, source = continuation.checkpoint, continuation.source
    epochs = _epochs(path)
    folder.last.parent.mkdir(parents=True, exist_ok=True)
    write_metrics(folder, _rows(source, epochs))
    for file, copy in ((source.best, folder.best), (path, folder.last)) if _best_epoch(path) else ((path, folder.last),):
        with replacing(copy) as part:
            copyfile(file, part)
    say(f"Continuing {source.path} after epoch {epochs}")


def _epochs(path: Path, keys: Collection[str] = STATES) -> int:
    return int(_loaded(path, keys)["epoch"]) + 1


def _best_epoch(path: Path) -> int:
    states = _loaded(path)["callbacks"].items()
    found: dict[str, Any] = next((state for key, state in states if key.startswith(BestCheckpoint.__name__)), {})
    if "best_epoch" not in found:
        raise CheckpointError(
            f"{path} was not written by a run: it does not say which epoch was the best. Use last.ckpt of a run."
        )
    return int(found["best_epoch"])


def _rows(source: RunFolder, epochs: int) -> list[dict[str, str]]:
    return [row for row in read_metrics(source) if int(row["epoch"]) <= epochs]


def _depends_on_length(config: TrainConfig) -> str:
    """Return why epochs depend on ``max_epochs``; nothing if they do not. Own classes may read it from their trainer."""
    if not config.model._target_.startswith("pneumonia."):
        return f"model._target_={config.model._target_} may depend on max_epochs"
    for name, node in config.callbacks.items():
        if not (only_observes(node._target_) or lightning_class(node._target_) == EARLY_STOPPING):
            return f"callbacks.{name} may depend on max_epochs"
    schedule = config.scheduler._target_.rpartition(".")[2]
    if schedule not in SHARED_BY_ALL_LENGTHS or not config.scheduler._target_.startswith("pneumonia."):
        return f"scheduler={schedule} is spread over max_epochs"
    return "" if config.swa is None else f"swa={config.swa} begins at a fraction of max_epochs"


def _comparable(config: TrainConfig) -> dict[str, object]:
    """Return the dotted values that must be the same for a continuation."""
    values: Any = identity(replace(config, ckpt_path=None, init_from=None))
    del values["max_epochs"]
    return dotted(values)


def _existing(ckpt_path: str) -> Path:
    try:
        path = Path(ckpt_path).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # a loop of symbolic links, or no home folder
        raise CheckpointError(f"ckpt_path={ckpt_path} can't be followed to a file: {error}.") from error
    if path.is_dir():
        path = RunFolder(path).last
    if not path.is_file():
        raise CheckpointError(f"There is no file ckpt_path={ckpt_path}. Use checkpoints/last.ckpt of a run folder.")
    return path


def _loaded(path: Path, keys: Collection[str] = STATES) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        has_state = set(keys) <= set(saved)
        int(saved.get("epoch", 0))
    except Exception as error:
        raise CheckpointError(f"{path} is not a checkpoint, or it is damaged ({type(error).__name__}). Use another.") from error
    if not has_state:
        raise CheckpointError(
            f"{path} holds weights alone, without the state of the optimizer, so its training can't be continued. Use last.ckpt "
            "of its run, or init_from to start from these weights."
        )
    return saved
