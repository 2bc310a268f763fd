"""Refuse to write a table over a file that holds something else."""

from collections.abc import Sequence
from pathlib import Path

from pneumonia.errors import ConfigError


def check_csv(path: Path, header: str, holds: str, images: Sequence[Path] = ()) -> None:
    """Refuse to overwrite anything but an earlier table of the same kind.

    Args:
        path: The argument of ``--csv``.
        header: With which every such table begins.
        holds: What such a table holds, for the message.
        images: Files that the command reads.

    Raises:
        ConfigError: ``path`` is a folder, a device, one of the images or another file, or its folder does not exist.
    """
    if path.is_dir():
        raise ConfigError(f"--csv {path} is a folder; name a file, for example --csv {path}/{holds}.csv.")
    if not path.parent.is_dir():
        raise ConfigError(f"--csv {path}: there is no folder {path.parent}. Create it, or check the path.")
    if not path.exists():
        return
    if not path.is_file():
        raise ConfigError(f"--csv {path} is not a regular file, and would be replaced by one. --json prints to standard output.")
    if any(path.samefile(image) for image in images if image.exists()):
        raise ConfigError(f"--csv {path} is one of the images, and would be overwritten. Name another file.")
    with path.open("rb") as file:
        head = file.read(len(header))
    if head not in {b"", header.encode()}:
        raise ConfigError(f"--csv {path} does not hold {holds}, and is not overwritten. Name another file.")
