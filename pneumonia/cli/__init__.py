"""The command line: one thin module a verb, imported only when it is called."""

import importlib
import os
import sys
from typing import Final

from pneumonia import __version__
from pneumonia.errors import ConfigError, PneumoniaError, nearest, printable

VERBS: Final = {
    "train": "one run; OVERRIDES are Hydra's: key=value (-m for every combination of comma-separated values)",
    "sweep": "every job of a file in sweeps/; run it again and it goes on where it was",
    "reproduce": "the whole study: its sweeps, the best of each family on the test split, the report: preset=smoke",
    "report": "RUNS... --out DIR: which differences between runs are real, in pages and data",
    "evaluate": "scores a finished run on one split, with intervals: run=DIR split=test [data=folder data.root=DIR]",
    "predict": "classifies image files with a run or a bundle: MODEL IMAGE... [--json] [--csv FILE] [--explain DIR]",
    "export": "a finished run as a bundle that answers without torch: RUN --out BUNDLE",
    "serve": "a bundle behind HTTP, with a page at /: [BUNDLE] [--host H] [--port P]",
    "track": "push RUNS... | dashboard SWEEP: mirrors runs to Weights & Biases, builds dashboards",
    "data": "import|audit|split|push|pull|show: reads, checks, divides, moves and draws data",
    "doctor": "checks device, disk and data, and says what to do",
}
COMPLETION: Final = ("-sc", "--shell-completion")
USAGE: Final = """usage: pneumonia VERB ...

Trains, compares and checks chest X-ray classifiers: normal, viral or bacterial pneumonia. Not a medical device.

{verbs}

`pneumonia VERB --help` says more. First run, nothing to download: pneumonia train
"""


def main() -> None:
    """Entry point of the ``pneumonia`` command: 0 done, 1 failed, 2 bad input, 130 interrupted or out of time."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # Torch then asks the kernel for large pages: see pneumonia/system/memory.py.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # OpenMP's threads wait for each other by spinning; beside other work that doubles the time of a training step.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(USAGE.format(verbs="\n".join(f"  {verb:<10}{text}" for verb, text in VERBS.items())))
        raise SystemExit(0)
    verb = arguments[0]
    if verb in {"-V", "--version"}:
        print(f"pneumonia {__version__}")
        raise SystemExit(0)
    if verb in COMPLETION:  # the shell asks the command itself, whichever verb installed the completion
        verb, arguments = "completion", [verb, *arguments]
    elif verb not in VERBS:
        fail(f"pneumonia: there is no verb '{verb}'; choose one of {', '.join(VERBS)}.{nearest(verb, VERBS)}")
    try:
        code = importlib.import_module(f"pneumonia.cli.{verb}").run(arguments[1:])
    except KeyboardInterrupt as stop:
        print(f"\n{stop}" if str(stop) else "\nStopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None  # `pneumonia predict ... | head`
    except PneumoniaError as error:
        fail(f"{type(error).__name__}: {error}", error.exit_code)
    raise SystemExit(code or 0)


def fail(text: str, code: int = 2) -> None:
    """Ends the process, unless a code is given as bad input does."""
    print(printable(text, lines=True), file=sys.stderr)
    raise SystemExit(code)


def key_values(arguments: list[str], keys: tuple[str, ...]) -> dict[str, str]:
    """The ``key=value`` words of a verb that is no Hydra app.

    Raises:
        ConfigError: A word has no ``=``, a key that the verb does not know, or one that another word has too.
    """
    words: dict[str, str] = {}
    for argument in arguments:
        key, found, value = argument.partition("=")
        if not found or key not in keys:
            known = ", ".join(f"{key}=..." for key in keys)
            raise ConfigError(f"{argument} is not understood; say {known}.{nearest(key.lstrip('-'), keys)}")
        if words.setdefault(key, value) != value:
            raise ConfigError(f"{key} stands twice, as {words[key]} and {value}. Leave one out.")
    return words


def wants_help(arguments: list[str], text: str) -> bool:
    """Prints a verb's help where it is asked for."""
    if any(argument in {"-h", "--help"} for argument in arguments):
        print(text.strip())
        return True
    return False
