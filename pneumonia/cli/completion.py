"""Completion of a command line in the shell: verbs here, overrides by Hydra.

The shell calls ``pneumonia -sc query=SHELL`` with the line in ``COMP_LINE``; ``pneumonia train -sc install=SHELL`` prints what
tells it so.
"""

import os

from pneumonia.cli import VERBS


def run(arguments: list[str]) -> int:
    """Print the completions at the cursor, or install or remove completion in a shell.

    Args:
        arguments: ``-sc`` and one of ``install=SHELL``, ``uninstall=SHELL``, ``query=SHELL``.

    Raises:
        ConfigError: Anything else.
    """
    from pneumonia.cli import train
    from pneumonia.cli.hydra_options import options_first

    asked = options_first(arguments)[-1]
    task, _, shell = asked.partition("=")
    if task != "query":
        return train.run(arguments)
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    line = line[: int(point)] if point.isdecimal() else line
    words = line.split()[1:]
    typed = "" if not line or line[-1].isspace() else (words.pop() if words else "")
    found = [choice for choice in _choices(words) if choice.startswith(typed)]
    print(("\n" if shell == "fish" else " ").join(found))
    verb, *given = words or [""]
    if verb in {"train", "reproduce"} or (verb == "sweep" and given):
        overrides = given[1:] if verb == "sweep" else given
        os.environ["COMP_LINE"] = " ".join(["pneumonia", *overrides, typed])
        return train.run(["-sc", asked])
    return 0


def _choices(words: list[str]) -> list[str]:
    """What may follow these words of a command line, beside the overrides that Hydra knows."""
    from pneumonia.config.keys import conf_dir

    if not words:
        return list(VERBS)
    verb, *given = words
    if verb == "sweep":
        return ["status"] if given else sorted(path.stem for path in conf_dir("sweeps").glob("*.yaml"))
    if verb == "reproduce":
        return sorted(f"preset={path.stem}" for path in (conf_dir() / "reproduce").glob("*.yaml"))
    if verb == "track" and not given:
        return ["push", "dashboard"]
    if verb == "data" and not given:
        from pneumonia.cli.data import VERBS as DATA_VERBS

        return list(DATA_VERBS)
    return []
