"""Check what a launcher needs, before torch is imported."""

import subprocess
from importlib.util import find_spec
from typing import Final

from pneumonia.config.nodes import LauncherConfig
from pneumonia.errors import ConfigError

TIMEOUT_S: Final = 60
PACKAGE: Final = {"slurm": "submitit", "ray": "ray"}


def check_launcher(settings: LauncherConfig) -> None:
    """Refuse a launcher that can't work on this machine.

    Raises:
        ConfigError: A package or a command is missing.
    """
    kind = settings.kind
    needed = PACKAGE.get(kind)
    if needed is not None and find_spec(needed) is None:
        raise ConfigError(f"launcher={kind} needs {needed}: pip install 'pneumonia[{kind}]'")
    if kind == "slurm":
        query_slurm("sinfo", "--noheader")


def query_slurm(*command: str, missing: str | None = None) -> str:
    """Return the output of a SLURM command; ``missing`` for a job that SLURM has forgotten.

    Raises:
        ConfigError: SLURM is not installed, does not answer, or refuses.
    """
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S).stdout
    except FileNotFoundError as error:
        raise ConfigError(
            f"launcher=slurm needs SLURM's {command[0]}, which is not installed here. Run the sweep on a node that may "
            "submit jobs."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"SLURM does not answer `{' '.join(command)}` within {TIMEOUT_S} s. Check that its controller is up."
        ) from error
    except subprocess.CalledProcessError as error:
        if missing is not None and "Invalid job id" in error.stderr:
            return missing
        raise ConfigError(f"SLURM refuses `{' '.join(command)}`: {error.stderr.strip()}") from error
