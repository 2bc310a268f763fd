"""Translate the errors of Hydra, OmegaConf and YAML into ``ConfigError``: which key is wrong, and what it should be."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Final

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from pneumonia.config.declarations import rule_of
from pneumonia.config.keys import choice_keys, config_keys, files_of, nearest_key, of_a_callback, wanted, why_not
from pneumonia.config.nodes import TrainerConfig
from pneumonia.errors import ConfigError, PneumoniaError, masked, nearest

CAUSES: Final = 6  # how deep a chain of causes is read
OWN_FILES: Final = ("callbacks", "model", "task")  # groups to which users add files most
HELP: Final = "`pneumonia train --help` lists them."
PLUGINS: Final = {
    "hydra/launcher=joblib": " It comes with its own package: pip install hydra-joblib-launcher.",
    "hydra/launcher=submitit": " It comes with its own package: pip install hydra-submitit-launcher.",
    "hydra/launcher=ray": " It comes with hydra-ray-launcher; `pneumonia sweep NAME launcher=ray` needs only ray.",
    "hydra/sweeper=optuna": " `pneumonia sweep search` searches with Optuna. The plugin, hydra-optuna-sweeper, needs "
    "optuna<3: install it in an environment of its own.",
}


@contextmanager
def translated() -> Iterator[None]:
    """Raise a ``ConfigError`` for what Hydra, OmegaConf or YAML raise in the block."""
    try:
        yield
    except OverrideParseException as error:
        raise ConfigError(
            f"{masked(error.override)} can't be parsed. An override is key=value; a value with quotes, commas, brackets or = "
            "needs quotes that the shell leaves alone: 'data.root=\"my folder, b\"'."
        ) from error
    except MarkedYAMLError as error:
        raise ConfigError(f"A config file is not valid YAML: {' '.join(str(error).split())}") from error
    except TypeError as error:
        if not _is_of_defaults(error):
            raise
        raise ConfigError(
            "A list of config files holds more than their names. Use names alone: callbacks=[lr_monitor,model_summary]."
        ) from error
    except (HydraException, OmegaConfBaseException, AttributeError, AssertionError, ValueError) as error:
        known = isinstance(error, HydraException | OmegaConfBaseException)
        message = None if isinstance(error, PneumoniaError) else _message(error, known)
        if message is None:
            raise
        raise ConfigError(message) from error


def _is_of_defaults(error: TypeError) -> bool:
    """Whether Hydra has failed to build the defaults list, as of hydra.sweeper.params; other code raises this error too."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "hydra._internal.defaults_list"


def _message(error: Exception, known: bool) -> str | None:
    """Return the message of the first pattern that is found in an error and its causes."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < CAUSES:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(texts)
    for pattern, message in PATTERNS if known else PATTERNS_OF_BUILTINS:
        found = re.search(pattern, text, re.DOTALL)
        if found:
            return message.format(*found.groups()) if isinstance(message, str) else message(found)
    if not known:
        return None
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first if first.endswith(".") else f"{first} (see `pneumonia train --help`)"


def _deleted(found: re.Match[str]) -> str:
    key, keys = found[1], [*config_keys(), *choice_keys()]
    if key in keys:
        return f"~{key} removes a key that every run needs. Set it instead, {key}=VALUE, or leave the override out."
    return f"~{key} removes nothing: {key} is not a config key.{nearest_key(key, keys)} {HELP}"


def _unknown_in_file(found: re.Match[str]) -> str:
    full, place = (re.search(pattern, found.string) for pattern in (r"full_key: (\S+)", r"In '([^']+)'"))
    return _unknown(full[1] if full else found[1], f" (in {place[1]})" if place else "")


def _unknown_override(found: re.Match[str]) -> str:
    key, full = found[1], re.search(r"full_key: (\S+)", found.string)
    if full and full[1].startswith(f"{key}."):  # the value is a mapping
        key = full[1]
    return _unknown(key, is_chosen=full is not None and full[1].count(".") > 1)


def _unknown(key: str, where: str = "", is_chosen: bool = False) -> str:
    """Return what may have been meant; a key may be known, but of another choice of its group."""
    if hint := of_a_callback(key, is_chosen):
        return f"{key} is not a config key{where}.{hint}"
    keys = [*config_keys(), *choice_keys()]
    group = key.partition(".")[0]
    if key in keys and group != "logger":
        return f"{key} is not a config key of the chosen {group}, but of another one{where}: it would change nothing. {HELP}"
    near = why_not(key) or nearest_key(key, keys)
    if key.startswith("optimizer.") and not near:
        near = f" An argument of the optimizer's class is added with a +: +{key}=VALUE."
    return f"{key} is not a config key{where}.{near} {HELP}"


def _unknown_choice(found: re.Match[str]) -> str:
    group, choice = found[1], found[2]
    if group.startswith("hydra"):
        hint = PLUGINS.get(f"{group}={choice.partition('_')[0]}", " --info plugins lists what is installed.")
        return f"{group}={choice} is not known.{hint}"
    group, _, inside = group.partition("/")
    choice = f"{inside}/{choice}" if inside else choice
    options = files_of(group)
    known = f" Choose one of {', '.join(options)}." if options else ""
    own = f" A file of your own, {group}/{choice}.yaml, is found with --config-dir DIR." if group in OWN_FILES else ""
    meant = _of_trainer(choice) if group == "trainer" else ""
    return f"{group}={choice} is not known.{known}{meant or nearest(choice, options)}{own}"


def _of_trainer(value: str) -> str:
    """Name the key of the trainer that takes a value, such as ``trainer.accelerator=cpu``."""
    keys = [item.name for item in fields(TrainerConfig) if (rule := rule_of(item)) and value in rule.choices]
    return f" Use trainer.{keys[0]}={value}." if keys else ""


def _wrong_type(found: re.Match[str]) -> str:
    given = re.search(r"Error merging override \S*?=(.*)", found.string)
    wrong = f"{found[1]}={given[1]} has the wrong type" if given else f"{found[1]} has a value of the wrong type"
    return f"{wrong}: {wanted(found[1])}"


Message = str | Callable[[re.Match[str]], str]
SEVERAL: Final = (
    "{0} has several values, and one run takes one. Use -m for one run of each; a list needs brackets, key=[a,b], and text "
    "with a comma needs quotes."
)
PATTERNS: Final[tuple[tuple[str, Message], ...]] = (
    (
        r"Could not delete '([^']+)'\. No match in the defaults list",
        "~{0} removes nothing: it is not chosen. Leave it out; --info defaults shows the choices.",
    ),
    (r"Error merging override ~([^=\s]+)", _deleted),
    (r"Could not delete from config\. (?:The value of )?'([^']+)'", _deleted),
    (
        r"An item is already at '([^']+)'",
        "+{0} adds a key, and {0} is there already. Leave the + out: {0}=VALUE.",
    ),
    (r"Ambiguous value for argument '([^']+)'", SEVERAL),
    (r"Sweep parameters '([^\n]+)' requires --multirun", SEVERAL),
    (
        r"does not support sweep type : INTERVAL",
        "An interval has no steps, so -m can't list its values. Use range(low, high, step), or values with commas; "
        "`pneumonia sweep search` and hydra/sweeper=optuna search intervals.",
    ),
    (
        r"Could not (?:override|append)[^']*'([^']+)'(?:(?=.*(?:is not in struct|Key '\w+' not in))|(?!.*Could not find))",
        _unknown_override,
    ),
    (r"Key '(\w+)' (?:not in|is not in)", _unknown_in_file),
    (r"Could not find '([^']+)/([^'/]+)'", _unknown_choice),
    (
        r"Missing mandatory value: (\w+)",
        "{0} has no value, and a run needs one. Choose one of the files in conf/{0}: {0}=NAME.",
    ),
    (r"Could not load '([^'/]+)/([^']+)'", _unknown_choice),  # in a list
    (
        r"In '([^']+)': \w+ raised while composing config:\n(?:Invalid type assigned: list is|Cannot merge \w+ with ListConfig)",
        "{0}.yaml holds a list where keys and values belong. Write lines such as `key: value`, as in the packaged files.",
    ),
    (r"full_key: (\S+)", _wrong_type),
)
NO_KEYS: Final = "so no keys can be set in it here. Set them in a config file; values for a multirun are overrides: -m seed=1,2."
PATTERNS_OF_BUILTINS: Final[tuple[tuple[str, Message], ...]] = (  # how OmegaConf fails to set keys in a node that is null
    (r"full_key: (\S+).*reference_type=", f"{{0}} is null, {NO_KEYS}"),
    (r"reference_type=|Unexpected type for root", f"The key above one of the overrides is null, {NO_KEYS}"),
    (
        r"((?:In [^\n:]+: (?:Too many keys|Missing group name)|Unsupported (?:item value|type)|Invalid defaults list)[^\n]*)",
        "A defaults list can't be read: {0}. Its items are names of files, or a group with the name of its file: model: mlp.",
    ),
    (
        r"Config group override",
        "A group of config files needs a name, not null, a number or a mapping: model=NAME, optimizer=NAME and so on; "
        "~experiment leaves one out.",
    ),
)
