"""Checksums of cached files, to recognise damage before a file is used.

They detect accidents (a flipped bit, a truncated file, a file of other data), not an attacker who changes file and checksum.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pneumonia.system.files import write_json
from pneumonia.system.records import parse_record


@dataclass(frozen=True)
class Checksums:
    """What files were made from, and size in bytes, modification time in ns and SHA-256 of each by name."""

    of: str
    files: dict[str, tuple[int, int, str]]


def recorded_hashes(record: Path) -> set[str]:
    """Return the SHA-256 of all files of a record; none if it is missing or damaged."""
    try:
        return {sha256 for _, _, sha256 in parse_record(Checksums, record.read_bytes()).files.values()}
    except (OSError, ValueError):
        return set()


def write_checksums(record: Path, files: Sequence[Path], of: str) -> None:
    """Write the size, time and SHA-256 of complete files into a JSON record in their folder or above.

    ``of`` identifies what the files were made from.
    """
    stats = [file.stat() for file in files]
    listed = {
        file.relative_to(record.parent).as_posix(): (stat.st_size, stat.st_mtime_ns, file_hash(file, "sha256"))
        for file, stat in zip(files, stats, strict=True)
    }
    write_json(record, asdict(Checksums(of, listed)))


def find_damage(record: Path, of: str, trust_times: bool = False) -> str:
    """Return a description of the first damaged file of a record, or an empty string.

    With ``trust_times`` only files whose size or time has changed are hashed, for folders of many large files.
    """
    try:
        held = parse_record(Checksums, record.read_bytes())
    except FileNotFoundError:
        return f"{record} is missing, so nothing says that the files beside it are complete"
    except OSError as error:
        return f"{record} can't be read ({error.strerror})"
    except ValueError:
        return f"{record} is damaged"
    if held.of != of:
        return f"{record} belongs to other data"
    for name, (size, time, sha256) in held.files.items():
        path = record.parent / name
        try:
            stat = os.stat(path)
            if trust_times and (stat.st_size, stat.st_mtime_ns) == (size, time):
                continue
            if stat.st_size != size:
                return f"{path} has {stat.st_size:,} bytes and was written with {size:,}"
            if file_hash(path, "sha256") != sha256:
                return f"{path} holds other bytes than were written"
        except OSError as error:
            return f"{path} can't be read ({error.strerror})"
    return ""


def file_hash(path: Path, algorithm: Literal["md5", "sha256"]) -> str:
    """Return the hash of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
