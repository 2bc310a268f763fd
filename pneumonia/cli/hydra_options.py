"""Check Hydra's command-line options and put them before the overrides, so that Hydra's own parser accepts them."""

from typing import Final, NoReturn, get_type_hints

from pneumonia.errors import ConfigError, nearest

COMMANDS: Final = ("--run", "--multirun", "--cfg", "--info", "--shell-completion")
REFUSED: Final = {
    "--experimental-rerun": "it loads a pickle, which can run any code. Repeat the overrides instead",
}
SHELLS: Final = ("bash", "zsh", "fish")


def options_and_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Separate Hydra's options from the overrides; Hydra does not accept them mixed.

    Raises:
        ConfigError: An option is unknown, lacks its value, or excludes another one.
    """
    from hydra._internal.utils import get_args_parser

    from pneumonia.config.keys import check_config_dir

    known = get_args_parser()._option_string_actions
    options: list[str] = []
    overrides: list[str] = []
    given: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        name, joined, value = word.partition("=")
        action = known.get(name)
        if action is None:
            refuse_option(word, left, "train")
        long = action.option_strings[0]
        if long in REFUSED:
            raise ConfigError(f"{name} is not supported: {REFUSED[long]}.")
        given.append(long)
        options.append(name)
        if action.nargs == 0:
            if joined:
                raise ConfigError(f"{word}: {name} takes no value. Use {name} alone.")
            continue
        choices = list(action.choices or ())
        optional = action.nargs == "?"
        if not joined and left and not left[0].startswith("-") and not (optional and "=" in left[0]):
            value, joined = left.pop(0), "="
        if not joined and optional:
            options.append(str(action.const))  # else Hydra's parser reads the next override as its value
            continue
        if not value or (choices and value not in choices):
            expected = f"one of {', '.join(choices)}" if choices else "a value"
            shown = f"{name} {value}".strip()
            raise ConfigError(f"{shown}: {name} needs {expected}.{nearest(value, choices)}")
        if long == "--config-dir":
            check_config_dir(value)
        options.append(value)
    _check_together(given, overrides)
    return options, overrides


def refuse_option(word: str, following: list[str], verb: str) -> NoReturn:
    """Refuse an unknown option such as ``--max-epochs`` or ``--max_epochs=2``, and name the override that it probably means.

    Raises:
        ConfigError: Always.
    """
    from pneumonia.config.keys import choice_keys, config_groups, config_keys
    from pneumonia.config.schema import TrainConfig

    name, joined, value = word.partition("=")
    key = name.lstrip("-").replace("-", "_")
    keys = list(dict.fromkeys([*config_keys(), *config_groups(), *choice_keys()]))
    same = [known for known in keys if known == key] or [known for known in keys if known.rpartition(".")[2] == key]
    if not joined and following and not following[0].startswith("-") and "=" not in following[0]:
        value = following[0]
    if len(same) == 1:
        is_flag = get_type_hints(TrainConfig).get(same[0]) is bool
        example = value or ("true" if is_flag else "VALUE")
        raise ConfigError(f"{name} is not an option: config keys are set as key=value. Use {same[0]}={example}.")
    meant = f" Did you mean one of {', '.join(f'{one}=...' for one in same[:5])}?" if same else ""
    options = ["multirun", "cfg", "config-dir", "config-name", "help"] if verb == "train" else ["help"]
    raise ConfigError(
        f"{name} is not an option of `pneumonia {verb}`. Config keys are set as key=value; `pneumonia {verb} --help` lists "
        f"them.{meant or nearest(name.lstrip('-'), options).replace(chr(39), chr(39) + '--', 1) or nearest(key, keys)}"
    )


def _check_together(given: list[str], overrides: list[str]) -> None:
    """Refuse options that exclude or need one another."""
    commands = [name for name in COMMANDS if name in given]
    if len(commands) > 1:
        raise ConfigError(f"{' and '.join(commands)} exclude one another. Use one of them.")
    for name in ("--resolve", "--package"):
        if name in given and "--cfg" not in given:
            raise ConfigError(f"{name} needs --cfg. Use --cfg job {name}.")
    if "--shell-completion" in given:
        asked = [word for word in overrides if word.partition("=")[0] in {"install", "uninstall", "query"}]
        if len(asked) != 1 or len(overrides) != 1 or asked[0].partition("=")[2] not in SHELLS:
            raise ConfigError(
                f"-sc needs install=SHELL or uninstall=SHELL, with one of {', '.join(SHELLS)}. For bash: "
                'eval "$(pneumonia train -sc install=bash)"'
            )
