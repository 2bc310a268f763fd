"""Conditions and orders on tables of runs: ``state=finished``, ``optimizer.lr<0.01``, ``val/f1_macro:desc``."""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from pneumonia.config.overrides import override_value
from pneumonia.errors import ConfigError, nearest
from pneumonia.runs.summary import STATES

T = TypeVar("T")
CONDITION: Final = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|!=|==?|<|>)(.*)", re.DOTALL)
NUMERIC: Final = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
ALIASES: Final = {"time": "cost.fit_s", "usd": "cost.usd", "USD": "cost.usd"}  # names of columns on the terminal
DIRECTIONS: Final = ("asc", "desc")


@dataclass(frozen=True)
class Condition:
    """A comparison of the value of a key; a run without the value matches ``!=`` alone."""

    key: str
    relation: str
    value: str

    def holds(self, values: Mapping[str, object]) -> bool:
        """Whether a run with these values matches."""
        found = values.get(self.key)
        if self.relation in NUMERIC:
            number = number_of(found)
            return number is not None and bool(NUMERIC[self.relation](number, float(self.value)))
        equal = self.key in values and _same(found, self.value)
        return equal == (self.relation == "=")


@dataclass(frozen=True)
class Order:
    """A key to sort by."""

    key: str
    descending: bool


def parse_condition(text: str) -> Condition:
    """Parse ``key=value`` or another comparison: ``!=``, and for numbers ``<``, ``<=``, ``>``, ``>=``.

    Raises:
        ConfigError: It is none, compares text by size, or names a state that does not exist.
    """
    parts = CONDITION.fullmatch(text)
    if parts is None:
        raise ConfigError(f"'{text}' is no condition. Use key=value, for example state=finished or 'optimizer.lr<0.01'.")
    key, relation, value = parts[1], parts[2].replace("==", "="), parts[3].strip()
    if relation in NUMERIC and number_of(value) is None:
        raise ConfigError(f"{text} compares numbers, and '{value}' is none. Use a number, or {key}={value} for equal text.")
    if key == "state" and value not in STATES:
        raise ConfigError(f"state={value} does not exist; states are {', '.join(STATES)}.{nearest(value, STATES)}")
    return Condition(ALIASES.get(key, key), relation, value)


def parse_order(text: str) -> Order:
    """Parse ``key``, ``key:asc`` or ``key:desc``.

    Raises:
        ConfigError: There is no key, or the direction is neither.
    """
    key, found, direction = text.partition(":")
    if not key.strip():
        raise ConfigError(f"'{text}' names no key to sort by. Use a column, metric or config key, for example val/f1_macro:desc.")
    if found and direction not in DIRECTIONS:
        raise ConfigError(f"'{text}' ends with neither :asc nor :desc.{nearest(direction, DIRECTIONS)}")
    return Order(ALIASES.get(key, key), direction == "desc")


def in_order(items: Iterable[T], order: Order, values_of: Callable[[T], Mapping[str, object]]) -> list[T]:
    """Sort items by a value: numbers before text, items without the value last in both directions."""
    keyed = [(values_of(item).get(order.key), item) for item in items]
    numbers = [(number, item) for value, item in keyed if (number := number_of(value)) is not None]
    texts = [(value_text(value), item) for value, item in keyed if value is not None and number_of(value) is None]
    numbers.sort(key=lambda pair: pair[0], reverse=order.descending)
    texts.sort(key=lambda pair: pair[0], reverse=order.descending)
    return [*(item for _, item in numbers), *(item for _, item in texts), *(item for value, item in keyed if value is None)]


def number_of(value: object) -> float | None:
    """Return a value as a number; ``None`` if it is none."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(str(value))
    except ValueError:
        return None
    return None if math.isnan(number) else number


def value_text(value: object) -> str:
    """Write a value as a condition and an override have it, without quotes."""
    return value if isinstance(value, str) else override_value(value)


def _same(found: object, wanted: str) -> bool:
    number, other = number_of(found), number_of(wanted)
    return number == other if number is not None and other is not None else value_text(found) == wanted
