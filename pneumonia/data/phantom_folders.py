"""How the folders of drawn phantoms are called, so that an image can be known for one by its path alone."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Final

INSIDE: Final = "chest_xray"
NAME: Final = re.compile(r"phantom-[0-9a-f]{12}", re.ASCII)


def folder_name(digest: str) -> str:
    """The folder of the phantoms of these settings, under the cache's."""
    return f"phantom-{digest[:12]}"


def is_phantom(path: Path) -> bool:
    """Whether a path lies in a folder of drawn phantoms, or is one."""
    parts = path.expanduser().resolve().parts
    return any(NAME.fullmatch(one) and after == INSIDE for one, after in pairwise(parts))
