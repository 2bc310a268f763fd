"""Build the callbacks that a config names, and refuse those that can't work in a run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from typing import Any, Final

from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor, ModelCheckpoint, ModelSummary, ProgressBar

from pneumonia.config.callback_classes import EARLY_STOPPING, REPLACED, UNLOADABLE, lightning_class
from pneumonia.config.convert import to_plain
from pneumonia.config.declarations import check_value, rule_of
from pneumonia.config.schema import EarlyStoppingConfig, TrainConfig
from pneumonia.errors import ConfigError, TargetError, nearest
from pneumonia.metrics.classification import metrics_of
from pneumonia.system.device import device_of
from pneumonia.training.checkpointing import check_plain_state, direction

KEPT: Final = ("best", "last")  # files in checkpoints/ of every run
MODES: Final = ("min", "max")
Node = dict[str, object]


def build_callbacks(config: TrainConfig, monitor: str) -> list[Callback]:
    """Build the callbacks of ``config.callbacks``.

    Args:
        config: Of the run.
        monitor: The metric that compares its epochs; for early stopping that names none.

    Raises:
        TargetError: A target is no callback, or can't be imported.
        ConfigError: A callback does not take its arguments, does what the run does itself, or can't be resumed.
    """
    metrics = _metrics(config, monitor)
    built = {}
    for name, node in config.callbacks.items():
        key = f"callbacks.{name}"
        callback = _build(key, to_plain(node), monitor, compares_epochs(config))
        _check_work(key, callback, metrics)
        _check_arguments(key, callback, on_cpu=device_of(config.trainer).type == "cpu")
        check_plain_state(key, callback.state_dict())
        built[key] = callback
    bars = [key for key, callback in built.items() if isinstance(callback, ProgressBar)]
    if len(bars) > 1:
        raise ConfigError(f"{' and '.join(bars)} are several progress bars on one terminal. Use one of them.")
    states = {key: callback.state_key for key, callback in built.items() if type(callback).state_dict is not Callback.state_dict}
    shared = [key for key, state in states.items() if Counter(states.values())[state] > 1]
    if shared:
        raise ConfigError(
            f"{' and '.join(shared)} would keep their states under one key, {states[shared[0]]}, so a resumed run could not tell "
            "them apart. Give their class a property state_key that depends on its arguments, or leave one out."
        )
    return list(built.values())


def _metrics(config: TrainConfig, monitor: str) -> Sequence[str]:
    """Return what can be monitored; nothing for a family of one's own, which may log other metrics."""
    if not config.model._target_.startswith("pneumonia."):
        return ()
    names = list(metrics_of(config.task.build()))
    return tuple(
        dict.fromkeys([monitor, *(f"val/{name}" for name in names), *(f"train/{name}" for name in names if name != "auroc")])
    )


def _build(key: str, node: Node, monitor: str, by_epoch: bool) -> Callback:
    target = str(node["_target_"])
    if lightning_class(target) == EARLY_STOPPING:
        node = _early_stopping(key, node, monitor, by_epoch)
    try:
        found: Any = instantiate(node, _convert_="all")
    except HydraException as error:
        cause = error.__cause__ or error
        why = " ".join(str(cause).split())
        if "Error locating target" in str(error):
            raise TargetError(
                f"{key}._target_={target} names no class that can be imported ({why}). Use a class of "
                "lightning.pytorch.callbacks, or put your module on PYTHONPATH."
            ) from error
        if isinstance(cause, TypeError):
            raise ConfigError(f"{key}: {target} does not take these arguments: {why}") from error
        raise ConfigError(f"{key}: {target} can't be built, it raises {type(cause).__name__}: {why}") from error
    if not isinstance(found, Callback):
        raise TargetError(f"{key}._target_={target} is not a callback: it must subclass lightning.pytorch.Callback.")
    return found


def _early_stopping(key: str, node: Node, monitor: str, by_epoch: bool) -> Node:
    """Check the arguments as those of ``early_stopping``, and fill in the monitor of the run where the node names none."""
    chosen = str(node.get("monitor") or monitor)
    for item in fields(EarlyStoppingConfig):
        if item.name in node:
            check_value(f"{key}.{item.name}", node[item.name], {"patience": int, "min_delta": float}[item.name], rule_of(item))
    for name in ("stopping_threshold", "divergence_threshold"):
        check_value(f"{key}.{name}", node.get(name), float | None)
    mode, wanted = node.get("mode"), direction(chosen)
    if mode not in (None, *MODES):
        raise ConfigError(f"{key}.mode={mode} is not known; choose one of {', '.join(MODES)}, or null for that of the monitor.")
    if mode not in (None, wanted) and "/" in chosen:
        raise ConfigError(
            f"{key}.mode={mode} would stop while {chosen} improves: it improves towards its {wanted}. Use mode={wanted}, or null."
        )
    return {"check_on_train_epoch_end": by_epoch, **node, "monitor": chosen, "mode": wanted}


def compares_epochs(config: TrainConfig) -> bool:
    """Whether early stopping looks at the end of epochs, of which each is validated; else after each validation."""
    return config.trainer.check_val_every_n_epoch == 1


def _check_work(key: str, callback: Callback, metrics: Sequence[str]) -> None:
    """Refuse what a run does itself, what makes its checkpoints unreadable, and metrics that no epoch has."""
    bases = [base.__name__ for base in type(callback).__mro__]
    if replaced := next((name for name in bases if name in REPLACED), ""):
        raise ConfigError(
            f"{key}: a run does the work of {replaced} itself, so that its checkpoints and its id know of it. Use "
            f"{REPLACED[replaced]} instead."
        )
    if unloadable := next((name for name in bases if name in UNLOADABLE), ""):
        raise ConfigError(f"{key}: {unloadable} {UNLOADABLE[unloadable]}, so best.ckpt could not be loaded. Leave it out.")
    if getattr(callback, "save_last", None):
        raise ConfigError(f"{key}.save_last=true would replace the last.ckpt from which the run resumes. Leave it out.")
    if isinstance(callback, ModelCheckpoint) and callback.filename in KEPT:
        raise ConfigError(
            f"{key}.filename={callback.filename} would replace the {callback.filename}.ckpt of the run. Use another."
        )
    monitor = getattr(callback, "monitor", None)
    if metrics and isinstance(monitor, str) and monitor not in metrics:
        raise ConfigError(
            f"{key}.monitor={monitor} is not a metric of the epochs; they have {', '.join(metrics)}.{nearest(monitor, metrics)}"
        )


def _check_arguments(key: str, callback: Callback, on_cpu: bool) -> None:
    """Refuse arguments that Lightning's callbacks refuse only once the training has begun."""
    if isinstance(callback, DeviceStatsMonitor) and find_spec("psutil") is None and (on_cpu or callback._cpu_stats):
        raise ConfigError(f"{key} needs psutil for the load of the CPU: pip install psutil. On a GPU it does without.")
    rate: Any = getattr(callback, "refresh_rate", 1)
    if isinstance(callback, ProgressBar) and not (isinstance(rate, int) and rate >= 0):
        raise ConfigError(f"{key}.refresh_rate={rate} is out of range: it must be a number of batches, or 0 for no bar.")
    if isinstance(callback, ModelSummary):
        depth: Any = callback._max_depth
        if not isinstance(depth, int) or depth < -1:
            raise ConfigError(f"{key}.max_depth={depth} is out of range: it must be a number of levels, or -1 for all.")
