"""What a launcher needs, asked before torch is loaded."""

import subprocess
from importlib.util import find_spec
from typing import Any, Final

from pneumonia.errors import ConfigError

ANSWER_S: Final = 60
PACKAGE: Final = {"slurm": "submitit", "ray": "ray"}


def check_launcher(settings: dict[str, Any]) -> None:
    """Refuses a launcher that can't work here.

    Args:
        settings: The ``launcher`` node.

    Raises:
        ConfigError: A package or a command is missing.
    """
    kind = settings["kind"]
    needed = PACKAGE.get(kind)
    if needed is not None and find_spec(needed) is None:
        raise ConfigError(f"launcher={kind} needs {needed}: pip install 'pneumonia[{kind}]'")
    if kind == "slurm":
        ask_slurm("sinfo", "--noheader")


def ask_slurm(*words: str, missing: str | None = None) -> str:
    """What a command of SLURM prints; ``missing`` where it knows a job no more.

    Raises:
        ConfigError: There is no SLURM, or it does not answer.
    """
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=ANSWER_S).stdout
    except FileNotFoundError as error:
        raise ConfigError(
            f"launcher=slurm needs SLURM's {words[0]}, and it is not there. Call the sweep on a node that may submit jobs."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"SLURM does not answer `{' '.join(words)}` within {ANSWER_S} s. Is its controller up?"
        ) from error
    except subprocess.CalledProcessError as error:
        if missing is not None and "Invalid job id" in error.stderr:
            return missing
        raise ConfigError(f"SLURM refuses `{' '.join(words)}`: {error.stderr.strip()}") from error
