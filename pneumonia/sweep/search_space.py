"""Convert Hydra's sweep overrides into distributions of Optuna."""

from dataclasses import dataclass

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
        distribution: Distribution of its values; categories are strings, as written in an override.
        ends: Both ends of a range, or each category, as written in an override.
    """

    key: str
    distribution: BaseDistribution
    ends: list[str]


def axis_of(override: Override) -> Axis:
    """Convert an override with several values.

    Raises:
        ConfigError: An empty range, a logarithmic one that starts at or below 0, or an unknown tag.
    """
    key, value, text = override.get_key_element(), override.value(), str(override.input_line)
    unknown = sorted(value.tags - {"log"}) if isinstance(value, IntervalSweep) else sorted(getattr(value, "tags", ()))
    if unknown:
        raise ConfigError(f"{text}: tag({unknown[0]}, ...) is not known. The only tag is tag(log, interval(low, high)).")
    if isinstance(value, IntervalSweep):
        log = "log" in value.tags
        low, high = value.start, value.end
        if low is None or high is None or not low < high:
            raise ConfigError(f"{text}: the low end of a range must be below its high end, and {low} is not below {high}.")
        if log and low <= 0:
            raise ConfigError(f"{text}: a logarithmic range must start above 0, not at {low}.")
        if isinstance(low, int) and isinstance(high, int):
            return Axis(key, IntDistribution(low, high, log=log), [str(low), str(high)])
        return Axis(key, FloatDistribution(float(low), float(high), log=log), [repr(float(low)), repr(float(high))])
    if isinstance(value, RangeSweep):
        step, low = value.step, value.start or 0
        steps = [low + step * number for number in range(max(0, -int((low - (value.stop or 0)) // step)))]
        if not steps:
            raise ConfigError(f"{text} has no value. range(low, high, step) counts from low to below high.")
        if all(isinstance(one, int) for one in steps):
            whole = IntDistribution(int(steps[0]), int(steps[-1]), step=int(step))
            return Axis(key, whole, [str(steps[0]), str(steps[-1])])
        return Axis(key, FloatDistribution(steps[0], steps[-1], step=step), [repr(steps[0]), repr(steps[-1])])
    assert isinstance(value, ChoiceSweep)
    values = list(dict.fromkeys(override.sweep_string_iterator()))
    return Axis(key, CategoricalDistribution(values), values)


def override_value(value: float | int | str) -> str:
    """Write a proposed value as in an override, a float with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
