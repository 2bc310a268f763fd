"""What is known of an account at Weights & Biases, from the environment alone; imports nothing heavy."""

import netrc
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit


def wants_online(mode: str) -> bool:
    """Whether runs go to the server now; ``WANDB_MODE`` in the environment has its say where mode is ``auto``."""
    if mode == "auto":
        said = os.environ.get("WANDB_MODE", "")
        return said == "online" or (not said and has_key())
    return mode == "online"


def has_key() -> bool:
    """Whether a key of W&B is known: in the environment, or in the file that ``wandb login`` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(server()).hostname or ""
    with suppress(OSError, netrc.NetrcParseError):
        path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        return netrc.netrc(path).authenticators(host) is not None
    return False


def server() -> str:
    """The address of the W&B server that runs go to."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
