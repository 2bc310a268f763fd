"""Build the callbacks that a config names."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor, ProgressBar

from pneumonia.config.callback_classes import EARLY_STOPPING, REPLACED, lightning_class
from pneumonia.config.convert import to_plain
from pneumonia.config.names import MONITORS
from pneumonia.config.schema import TrainConfig
from pneumonia.errors import ConfigError, TargetError, nearest
from pneumonia.system.device import device_of
from pneumonia.training.checkpointing import direction


def build_callbacks(config: TrainConfig, monitor: str) -> list[Callback]:
    """Build the callbacks of ``config.callbacks``.

    Args:
        config: Of the run.
        monitor: The metric that compares its epochs; for early stopping that names none.

    Raises:
        TargetError: A target is no callback, or can't be imported.
        ConfigError: A callback does not take its arguments, or does what the run does itself.
    """
    metrics = (*MONITORS, *(name.replace("val/", "train/") for name in MONITORS if name != "val/auroc"), monitor)
    known = metrics if config.model._target_.startswith("pneumonia.") else ()  # a family of one's own may log others
    on_cpu = device_of(config.trainer).type == "cpu"
    built = [_build(f"callbacks.{name}", to_plain(node), monitor, known, on_cpu) for name, node in config.callbacks.items()]
    bars = [name for name, callback in zip(config.callbacks, built, strict=True) if isinstance(callback, ProgressBar)]
    if len(bars) > 1:
        raise ConfigError(f"callbacks={bars} are several progress bars on one terminal. Use one of them.")
    return built


def _build(key: str, node: dict[str, object], monitor: str, metrics: Sequence[str], on_cpu: bool) -> Callback:
    target = str(node["_target_"])
    if lightning_class(target) == EARLY_STOPPING:
        node = _early_stopping(key, node, monitor, metrics)
    try:
        found: Any = instantiate(node, _convert_="all")
    except HydraException as error:
        why = " ".join(str(error.__cause__ or error).split())
        if "Error locating target" in str(error):
            raise TargetError(
                f"{key}._target_={target} names no class that can be imported ({why}). Use a class of "
                "lightning.pytorch.callbacks, or put your module on PYTHONPATH."
            ) from error
        raise ConfigError(f"{key}: {target} does not take these arguments: {why}") from error
    if not isinstance(found, Callback):
        raise TargetError(f"{key}._target_={target} is not a callback: it must subclass lightning.pytorch.Callback.")
    replaced = next((base.__name__ for base in type(found).__mro__ if base.__name__ in REPLACED), "")
    if replaced:
        raise ConfigError(
            f"{key}: a run does the work of {replaced} itself, so that its checkpoints and its id know of it. Use "
            f"{REPLACED[replaced]} instead."
        )
    if isinstance(found, DeviceStatsMonitor) and find_spec("psutil") is None and (on_cpu or found._cpu_stats):
        raise ConfigError(f"{key} needs psutil for the load of the CPU: pip install psutil. On a GPU it does without.")
    if getattr(found, "save_last", None):
        raise ConfigError(f"{key}.save_last=true would replace the last.ckpt from which the run resumes. Leave it out.")
    return found


def _early_stopping(key: str, node: dict[str, object], monitor: str, metrics: Sequence[str]) -> dict[str, object]:
    """Fill in the monitor of the run where the node names none."""
    chosen = node.get("monitor") or monitor
    if metrics and chosen not in metrics:
        names = ", ".join(dict.fromkeys(metrics))
        raise ConfigError(
            f"{key}.monitor={chosen} is not a metric of the epochs; they have {names}.{nearest(str(chosen), metrics)}"
        )
    return {"check_on_train_epoch_end": True, **node, "monitor": chosen, "mode": node.get("mode") or direction(str(chosen))}
