"""The space of a search: what Hydra's sweep words mean to Optuna."""

from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from pneumonia.errors import ConfigError


@dataclass(frozen=True)
class Axis:
    """One searched key.

    Attributes:
        key: As in an override.
        distribution: Where its values come from; categories are written as one would write them.
        ends: Values that stand for all: both ends of a range, or each category.
    """

    key: str
    distribution: BaseDistribution
    ends: list[str]


def axis_of(override: Override) -> Axis:
    """The axis that an override with several values means.

    Raises:
        ConfigError: A range without room, or logarithms of what has none.
    """
    key, value, said = override.get_key_element(), override.value(), str(override.input_line)
    unknown = sorted(value.tags - {"log"}) if isinstance(value, IntervalSweep) else sorted(getattr(value, "tags", ()))
    if unknown:
        raise ConfigError(
            f"{said}: tag({unknown[0]}, ...) is not known here. A range may have tag(log, interval(low, high)), nothing else."
        )
    if isinstance(value, IntervalSweep):
        log = "log" in value.tags
        low, high = value.start, value.end
        if low is None or high is None or not low < high:
            raise ConfigError(f"{said}: a range needs a low end below its high end, and {low} is not below {high}.")
        if log and low <= 0:
            raise ConfigError(f"{said}: on a logarithmic scale a range begins above 0, not at {low}.")
        if isinstance(low, int) and isinstance(high, int):
            return Axis(key, IntDistribution(low, high, log=log), [str(low), str(high)])
        return Axis(key, FloatDistribution(float(low), float(high), log=log), [repr(float(low)), repr(float(high))])
    if isinstance(value, RangeSweep):
        step, low = value.step, value.start or 0
        steps = [low + step * number for number in range(max(0, -int((low - (value.stop or 0)) // step)))]
        if not steps:
            raise ConfigError(f"{said} has no value. range(low, high, step) counts from low to below high.")
        if all(isinstance(one, int) for one in steps):
            whole = IntDistribution(int(steps[0]), int(steps[-1]), step=int(step))
            return Axis(key, whole, [str(steps[0]), str(steps[-1])])
        return Axis(key, FloatDistribution(steps[0], steps[-1], step=step), [repr(steps[0]), repr(steps[-1])])
    assert isinstance(value, ChoiceSweep)
    words = list(dict.fromkeys(override.sweep_string_iterator()))
    return Axis(key, CategoricalDistribution(words), words)


def word_of(value: Any) -> str:
    """A proposed value as one would write it in an override; of a fraction four digits are enough."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
