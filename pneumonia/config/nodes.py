"""Nodes of a config whose keys depend on the chosen file, and those of the trainer."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, Final

from pneumonia.config.declarations import Rule, one_of, ranged, setting

MOST_MINUTES: Final = 10_000_000  # 19 years; longer times overflow the timers of the operating system
MAX_TIME: Final = re.compile(r"\d{1,6}(:[0-5]?\d){3}", re.ASCII)
TIME_PARTS: Final = ("days", "hours", "minutes", "seconds")

minutes = partial(ranged, "a number of minutes", above=0, at_most=MOST_MINUTES)


@dataclass(kw_only=True)
class Node:
    """A node whose keys depend on the chosen file; see :func:`pneumonia.config.convert.group_node`."""

    _group_: ClassVar[str]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle the values: the class of a node with keys of its own is made at run time."""
        from pneumonia.config.convert import group_node

        return group_node, (self._group_, asdict(self))


@dataclass(kw_only=True)
class TargetNode(Node):
    """A node that :func:`hydra.utils.instantiate` accepts."""

    _target_: str


@dataclass(kw_only=True)
class ModelConfig(TargetNode):
    """A model family and its own keys."""

    _group_: ClassVar[str] = "model"


@dataclass(kw_only=True)
class OptimizerConfig(TargetNode):
    """An optimizer class and its arguments."""

    _group_: ClassVar[str] = "optimizer"


@dataclass(kw_only=True)
class SchedulerConfig(TargetNode):
    """A schedule of :mod:`pneumonia.training.schedulers` and its arguments."""

    _group_: ClassVar[str] = "scheduler"


@dataclass(kw_only=True)
class CallbackConfig(TargetNode):
    """A callback of Lightning's, or of one's own, and its arguments."""

    _group_: ClassVar[str] = "callbacks"


@dataclass(kw_only=True)
class LauncherConfig(Node):
    """Where the jobs of a sweep run."""

    _group_: ClassVar[str] = "launcher"
    kind: str = one_of("local", "parallel", "slurm", "ray")
    timeout_min: float | None = minutes()


def _is_limit(value: float) -> bool:
    return 0 < value <= 1 if isinstance(value, float) else value >= 1


def _is_max_time(value: Any) -> bool:
    if isinstance(value, dict):
        numbers = all(isinstance(one, int | float) and 0 <= one <= 1e6 for one in value.values())
        return bool(value) and set(value) <= set(TIME_PARTS) and numbers
    return MAX_TIME.fullmatch(value) is not None


limit = partial(setting, Rule(_is_limit, "a fraction above 0, at most 1.0, or a whole number of batches"))


def _is_devices(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(number >= 0 for number in value) and len(set(value)) == len(value)
    return value == "auto" if isinstance(value, str) else value == -1 or value >= 1


@dataclass(kw_only=True)
class TrainerConfig(Node):
    """Arguments of :class:`lightning.Trainer`."""

    _group_: ClassVar[str] = "trainer"
    accelerator: str = one_of("auto", "cpu", "gpu", "cuda", affects_result=False)
    devices: int | str | list[int] = setting(
        Rule(_is_devices, "a number of processes, auto or -1 for all GPUs, or a list of GPUs such as [0]"), affects_result=False
    )
    strategy: str = one_of("auto", "ddp", "ddp_spawn", affects_result=False)
    precision: str = one_of("32-true", "mixed", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
    gradient_clip_val: float | None = ranged("a number", above=0)
    gradient_clip_algorithm: str = one_of("norm", "value")
    accumulate_grad_batches: int = ranged("a number of batches", at_least=1)
    max_time: str | dict[str, float] | None = setting(
        Rule(_is_max_time, "a time as DD:HH:MM:SS of at most 999999 days"), affects_result=False
    )
    limit_train_batches: float | int = limit()
    limit_val_batches: float | int = limit()
    overfit_batches: float | int | None = limit(default=None, added_later=True)
    check_val_every_n_epoch: int = ranged("a number of epochs", at_least=1, default=1, added_later=True)
    val_check_interval: float | int = setting(
        Rule(_is_limit, "a fraction of an epoch above 0, at most 1.0, or a number of batches"), default=1.0, added_later=True
    )
    num_sanity_val_steps: int = setting(
        Rule(lambda steps: steps >= -1, "a number of batches, or -1 for all"), default=0, affects_result=False
    )
    log_every_n_steps: int | None = ranged("a number of steps", at_least=1, default=None, affects_result=False)
    profiler: str | None = one_of("simple", "advanced", "pytorch", default=None, affects_result=False)
    max_steps: int = setting(Rule(lambda steps: steps == -1 or steps >= 1, "a number of steps, or -1 for no limit"))
    fast_dev_run: bool | int = setting(Rule(lambda runs: runs >= 0, "true or false"))
    deterministic: bool
    benchmark: bool = setting(affects_result=False)
    detect_anomaly: bool = setting(affects_result=False)
    enable_progress_bar: bool = setting(affects_result=False)
