"""Serve Hydra's sweepers: name the jobs of a multirun by what differs, and check which values of a study are better."""

from collections.abc import Iterable, Sequence
from typing import Final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import filter_overrides
from omegaconf import DictConfig

from pneumonia.errors import ConfigError

DIRECTIONS: Final = ("minimize", "maximize")


def job_labels(config: DictConfig, job_overrides: Iterable[Sequence[str]]) -> list[str]:
    """Name jobs by the overrides that their sweeper chooses: ``optimizer=sgd seed=0``.

    Args:
        config: Of the multirun, with Hydra's node.
        job_overrides: The overrides of each job.
    """
    given = OverridesParser.create().parse_overrides([str(one) for one in config.hydra.overrides.task])
    fixed = {override.get_key_element() for override in given if not override.is_sweep_override()}
    fixed -= set(config.hydra.sweeper.get("params") or {})
    return [
        " ".join(one.lstrip("+") for one in filter_overrides(overrides) if one.partition("=")[0] not in fixed)
        for overrides in job_overrides
    ]


def check_direction(config: DictConfig) -> None:
    """Compare the direction of a study, as ``hydra/sweeper=optuna`` has it, with that of the metric that its jobs return.

    Raises:
        ConfigError: The study would look for the worst jobs.
    """
    given = config.hydra.sweeper.get("direction")
    asked = getattr(given, "name", given)
    if asked not in DIRECTIONS:
        return
    from pneumonia.models.factory import family_of  # imports torch: only for a study
    from pneumonia.training.checkpointing import direction

    target = str(config.model._target_)
    monitor = config.monitor or family_of({"_target_": target}, [target]).default_monitor
    if asked != (right := DIRECTIONS[direction(monitor) == "max"]):
        better = "higher" if right == "maximize" else "lower"
        raise ConfigError(
            f"hydra.sweeper.direction={asked}, and a job returns its monitor, {monitor}, of which {better} values are better: "
            f"the sweeper would look for the worst settings. Set hydra.sweeper.direction={right}."
        )
