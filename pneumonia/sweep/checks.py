"""What a launcher needs, asked before torch is loaded."""

import shutil
from importlib.util import find_spec
from typing import Any, Final

from pneumonia.errors import ConfigError

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
    if kind == "slurm" and shutil.which("sinfo") is None:
        raise ConfigError(
            "launcher=slurm needs SLURM's sinfo, and it is not there. Call the sweep on a node that may submit jobs."
        )
