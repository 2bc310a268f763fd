"""The command line: one module per verb, imported when it is called."""

import os
import re
import sys
from collections.abc import Sequence
from typing import Final

import click

from pneumonia import __version__
from pneumonia.cli.parsing import VerbGroup
from pneumonia.errors import ConfigError, PneumoniaError, masked, nearest, printable

VERBS: Final = {
    "train": "Train one run, or one for every combination of values with -m: [OVERRIDES]",
    "sweep": "Run every job of a file in sweeps/; rerun it to resume: NAME [OVERRIDES], or NAME status",
    "runs": "List runs: what differs, state, metrics, cost: [DIR...] [--sort KEY:desc] [--where KEY=VALUE]",
    "evaluate": "Evaluate finished runs on one split, with 95% intervals: RUN... --split test",
    "predict": "Classify image files with a run or a bundle: MODEL IMAGE... [--json] [--csv FILE]",
    "report": "Compare runs and test which differences are significant: RUN... --out DIR",
    "reproduce": "Run the whole study, from sweeps to the report: preset=smoke",
    "data": "Import, audit, split, show, push or pull data.",
    "export": "Export a run as a bundle that predicts without torch: RUN --out DIR",
    "serve": "Serve a bundle over HTTP, with a web page: BUNDLE [--port P]",
    "track": "Upload runs to Weights & Biases, or create a dashboard.",
    "doctor": "Check device, disk, clock and data, and say how to fix what is wrong.",
    "completion": "Print the completion script of a shell: bash, zsh or fish.",
}
HELP: Final = """Train, evaluate and serve chest X-ray classifiers: normal, viral or bacterial pneumonia. Not a medical device.

`pneumonia VERB --help` describes a verb. First run, nothing to download: pneumonia train"""
GROUP: Final = click.version_option(__version__, "-V", "--version", message="pneumonia %(version)s")(
    VerbGroup("pneumonia", __name__, VERBS, HELP)
)


def main() -> None:
    """Entry point of the ``pneumonia`` command: 0 done, 1 failed, 2 bad input, 130 interrupted or out of time."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # Torch then asks the kernel for large pages: see pneumonia/system/memory.py.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # OpenMP's threads wait for each other by spinning; beside other work that doubles the time of a training step.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if "PNEUMONIA_COMPLETE" in os.environ:
        from pneumonia.cli.completion import completions

        for completion in completions(os.environ["PNEUMONIA_COMPLETE"]):
            print(completion)
        raise SystemExit(0)
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt as stop:
        print(f"\n{stop}" if str(stop) else "\nStopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None  # `pneumonia predict ... | head`
    except PneumoniaError as error:
        print(printable(masked(f"{type(error).__name__}: {error}"), lines=True), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    raise SystemExit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command in this process, for example ``["evaluate", "runs/x", "--split", "test"]``.

    Returns:
        The exit code.

    Raises:
        PneumoniaError: Bad input, or a failure that has a name.
    """
    argv = list(arguments)
    if argv and argv[0] in {"-sc", "--shell-completion"}:  # a shell asks with the script of `train -sc install=SHELL`
        from pneumonia.cli.completion import answer_hydra

        return answer_hydra(argv)
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    try:
        with GROUP.make_context("pneumonia", argv) as context:
            return int(GROUP.invoke(context) or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "pneumonia"
        message = re.sub(r"(?<![.?])(?<!\?\))$", ".", error.format_message()) + _nearest_choice(error)
        raise ConfigError(f"{message} `{path} --help` shows the usage.") from None


def _nearest_choice(error: click.UsageError) -> str:
    kind = error.param.type if isinstance(error, click.BadParameter) and error.param else None
    value = re.match(r"'(.*)' is not one of", error.message)
    return nearest(value[1], map(str, kind.choices)) if value and isinstance(kind, click.Choice) else ""


def wants_help(arguments: list[str], text: str) -> bool:
    """Print the help of a Hydra verb if it is requested."""
    if any(argument in {"-h", "--help"} for argument in arguments):
        print(text.strip())
        return True
    return False
