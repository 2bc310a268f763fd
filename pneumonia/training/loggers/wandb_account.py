"""Mode, key and server of W&B, from the environment alone; imports nothing heavy."""

import netrc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pneumonia.errors import ConfigError, nearest
from pneumonia.system.console import warn

MODES: Final = {
    "online": "online",
    "shared": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


def mode_of(mode: str) -> str:
    """Where runs go now.

    Args:
        mode: ``logger.wandb.mode``. With ``auto`` ``WANDB_MODE`` decides, and without it whether a key is known; ``disabled``
            in the environment switches W&B off whatever the config says.

    Returns:
        ``online``, ``offline`` or ``disabled``.

    Raises:
        ConfigError: ``WANDB_MODE`` is no mode of W&B.
    """
    said = os.environ.get("WANDB_MODE", "")
    if said and said not in MODES:
        raise ConfigError(
            f"WANDB_MODE={said} in the environment is no mode of W&B; choose one of {', '.join(MODES)}, or unset it."
            f"{nearest(said, MODES)}"
        )
    if MODES.get(said) == "disabled" or mode != "auto":
        return "disabled" if MODES.get(said) == "disabled" else mode
    return MODES[said] if said else ("online" if has_key() else "offline")


def has_key() -> bool:
    """Return whether a W&B key is known: in the environment, or from ``wandb login``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(server()).hostname or ""
    with suppress(OSError, netrc.NetrcParseError):
        path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        return netrc.netrc(path).authenticators(host) is not None
    return False


@contextmanager
def without_run_id(what: str) -> Iterator[None]:
    """Remove ``WANDB_RUN_ID``, which names one run, from an environment that several jobs share.

    Args:
        what: Has several jobs, for the warning.
    """
    given = os.environ.pop("WANDB_RUN_ID", "")
    if given:
        warn(f"WANDB_RUN_ID={given} names one run, and {what} has several: it is not used, each run gets an id of its own.")
    try:
        yield
    finally:
        if given:
            os.environ["WANDB_RUN_ID"] = given


def server() -> str:
    """Return the address of the W&B server."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
