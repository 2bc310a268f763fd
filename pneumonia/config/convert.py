"""Convert a config between plain values (JSON, YAML) and its dataclasses."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, field, fields, is_dataclass, make_dataclass
from functools import cache
from keyword import iskeyword
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from pneumonia.config.callback_classes import only_observes
from pneumonia.config.choices import CHOICES
from pneumonia.config.declarations import check_value, rule_of, shown
from pneumonia.config.nodes import Node, TargetNode
from pneumonia.config.schema import GROUPS, TaskConfig, TrainConfig
from pneumonia.errors import ConfigError, nearest
from pneumonia.tasks import Task

T = TypeVar("T")
DISCRIMINATORS: Final = ("_target_", "kind")  # the key by which a built-in choice is recognised
hints_of = cache(get_type_hints)


def to_plain(config: Any) -> dict[str, Any]:
    """Return a config, or a node of one, as nested dicts and lists: what ``result.json`` and ``config.yaml`` hold."""
    return asdict(config)


def from_plain(mapping: Mapping[str, Any]) -> TrainConfig:
    """Build a config from plain values, such as those of ``result.json``; nothing is imported from a ``_target_``.

    Raises:
        ConfigError: A key is missing or unknown, or a value is out of range; with the key, the value and what to do.
    """
    logger = mapping.get("logger") if isinstance(mapping, Mapping) else None
    if isinstance(logger, Mapping) and isinstance(kind := logger.get("kind"), str):  # of a run from before there were several
        mapping = {**mapping, "logger": {kind: {key: value for key, value in logger.items() if key != "kind"}}}
    return _build(TrainConfig, mapping, "")


def group_node(group: str, values: Mapping[str, Any], key: str = "") -> Node:
    """Build the node of a group: of the built-in class with these keys, or of a class made from the keys.

    Args:
        group: Name of the group.
        values: Plain values of the node.
        key: Of the node, for messages, if it is not the name of the group.

    Raises:
        ConfigError: A key can't be an attribute, or a value is out of range.
    """
    named = [schema for schema in CHOICES[group] if _names(schema, values)]
    schema = max(named or [CHOICES[group][-1]], key=lambda one: len(fields(one)))
    own = tuple(name for name in values if name not in {item.name for item in fields(schema)})
    for name in own:
        if not str(name).isidentifier() or iskeyword(name):
            raise ConfigError(f"{key or group}.{name} can't be the name of an argument. Use letters, digits and _.")
    if own:
        schema = _extended(schema, own)  # type: ignore[arg-type] # mypy takes classes of dataclasses for unhashable
    return _build(schema, values, f"{key or group}.")


def task_node(value: Any) -> TaskConfig:
    """Build the node of a task from its values, or from its name alone, as older runs have it.

    Raises:
        ConfigError: A value is missing or of the wrong type, or it does not fit the others.
    """
    if not isinstance(value, str):
        return _build(TaskConfig, value, "task.")
    task = Task.from_plain(value)
    return TaskConfig(name=value, classes=list(task.classes), synonyms={label: list(words) for label, words in task.synonyms})


def identity(config: TrainConfig, model: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return the values of a config that can change a run's result.

    Where and how fast a run is computed is left out. The hashes of the images and of the split replace ``data`` and
    ``split.file``.

    Args:
        config: Of the run.
        model: The model node to use instead, if a family identifies itself otherwise.
    """
    kept = _identity_of(config) | {"task": config.task.build().to_plain(), "resize": config.data.resize}
    if not config.augmentation:
        kept.pop("augmenter")
    if callbacks := [to_plain(node) for node in config.callbacks.values() if not only_observes(node._target_)]:
        kept["callbacks"] = callbacks
    return kept if model is None else {**kept, "model": dict(model)}


def _identity_of(node: Any) -> dict[str, object]:
    kept: dict[str, object] = {}
    for item in fields(node):
        value = getattr(node, item.name)
        unchanged = item.metadata.get("added_later", False) and value == item.default
        if item.metadata.get("affects_result", True) and not unchanged:
            kept[item.name] = _identity_of(value) if is_dataclass(value) else value
    return kept


def _names(schema: type[Node], values: Mapping[str, Any]) -> bool:
    """Return whether a built-in choice describes a node."""
    items = {item.name: item for item in fields(schema)}
    same = all(items[key].default == values.get(key) for key in DISCRIMINATORS if key in items)
    return same and set(items) <= set(values)


@cache
def _extended(schema: type[Node], own: tuple[str, ...]) -> type[Node]:
    """Make a subclass that has more keys."""
    declared = _declared(schema._group_)
    extra: list[Any] = [(key, Any, field(metadata=declared.get(key, {}))) for key in own]
    return make_dataclass(schema.__name__, extra, bases=(schema,), kw_only=True)


@cache
def _declared(group: str) -> dict[str, Mapping[str, Any]]:
    """Return the declarations of a group's keys, which hold for a user's own choice with the same key too."""
    return {item.name: item.metadata for schema in CHOICES[group] for item in fields(schema) if rule_of(item)}


def _build(schema: type[T], values: Any, prefix: str) -> T:
    """Build a dataclass from plain values, and check each against the type and rule of its field."""
    values = _mapping(prefix.rstrip(".") or "The config", values)
    found: dict[str, object] = {}
    hints = hints_of(schema)  # type: ignore[arg-type]
    items: tuple[Field[Any], ...] = fields(schema)  # type: ignore[arg-type]
    names = {item.name for item in items}
    if unknown := sorted(set(map(str, values)) - names):
        near = nearest(unknown[0], names).replace("'", f"'{prefix}", 1)
        raise ConfigError(f"{prefix}{unknown[0]} is not a config key.{near}")
    for item in items:
        key, hint = prefix + item.name, hints[item.name]
        if item.name not in values:
            if item.default is MISSING and item.default_factory is MISSING:
                raise ConfigError(_missing(key))
            continue
        value = values[item.name]
        if item.name in GROUPS and schema is TrainConfig:
            found[item.name] = group_node(item.name, _mapping(key, value))
        elif is_mapping_of_nodes(hint):
            below = ": the _target_ of its class, and its arguments"
            nodes = {name: _mapping(f"{key}.{name}", node, below) for name, node in _mapping(key, value).items()}
            found[item.name] = {name: group_node(item.name, node, f"{key}.{name}") for name, node in nodes.items()}
        elif hint is TaskConfig:
            found[item.name] = task_node(value)
        elif (node := dataclass_of(hint)) is not None and value is not None:
            found[item.name] = _build(node, value, f"{key}.")
        else:
            check_value(key, value, hint, rule_of(item))
            found[item.name] = value
    return schema(**found)


def _missing(key: str) -> str:
    """Return the message of a key without a value."""
    group, _, name = key.partition(".")
    if group == "task":
        return f"{key} is missing, and every task needs it. Add the line `{name}: VALUE` to its file."
    if name.endswith("_target_"):
        node = key.removesuffix("._target_")
        choose = f"Choose its file, callbacks=[{name.partition('.')[0]}], or add" if group == "callbacks" else "Add"
        return f"{key} is missing, and it names the class of {node}. {choose} it with +{key}=PACKAGE.CLASS."
    return f"{key} is missing from the config, and every run needs it. Set {key}=VALUE; an override ~{key} would remove it."


def is_mapping_of_nodes(hint: Any) -> bool:
    """Whether an annotation is that of a group from which several files can be chosen."""
    value = get_args(hint)[1] if get_origin(hint) is dict else None
    return isinstance(value, type) and issubclass(value, Node)


def dataclass_of(hint: Any) -> type[Any] | None:
    """Return the dataclass of an annotation, which may be optional; ``None`` for other types."""
    types = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    return next((one for one in types if isinstance(one, type) and is_dataclass(one)), None)


def _mapping(key: str, value: Any, which: str = "") -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}={shown(value)} must hold keys and values{which}.")
    return value


def class_name(node: TargetNode) -> str:
    """Return the class that a node names, for example ``PseudoResNet``."""
    return node._target_.rpartition(".")[2]


def dotted(node: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return dotted keys and their values; a list is a value."""
    found: dict[str, object] = {}
    for key, value in node.items():
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {prefix + key: value}
    return found
