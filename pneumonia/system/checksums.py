"""Checksums of cached files, so that a damaged one is recognised before anything is computed from it.

They find accidents: a flipped bit, a cut file, a file of other data under this name. They do not keep anyone out who
changes a file and its checksum alike.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from pneumonia.system.files import write_json


def write_checksums(record: Path, files: Sequence[Path], of: str) -> None:
    """Write the size, time and SHA-256 of files beside them; call it last, since it says that all of them are complete.

    Args:
        record: The JSON file to write; the files lie in its folder or below.
        files: All of them are complete.
        of: What they were made from. A record that was made from something else is not believed.
    """
    stats = [file.stat() for file in files]
    listed = {
        file.relative_to(record.parent).as_posix(): [stat.st_size, stat.st_mtime_ns, _sha256(file)]
        for file, stat in zip(files, stats, strict=True)
    }
    write_json(record, {"of": of, "files": listed})


def find_damage(record: Path, of: str, trust_times: bool = False) -> str:
    """Return the first file that is not as it was written, with the reason; an empty string where all files are.

    Args:
        record: As :func:`write_checksums` wrote it.
        of: What the files must have been made from.
        trust_times: Read only files whose size or time has changed. For folders of many large files.
    """
    try:
        held = json.loads(record.read_text(encoding="utf-8"))
        files = {str(name): (int(size), int(time), str(sha256)) for name, (size, time, sha256) in held["files"].items()}
        made_from = held["of"]
    except FileNotFoundError:
        return f"{record} is missing, so nothing says that the files beside it are complete"
    except OSError as error:
        return f"{record} can't be read ({error.strerror})"
    except (ValueError, TypeError, KeyError, AttributeError):  # no JSON, or not the JSON that we write
        return f"{record} is damaged"
    if made_from != of:
        return f"{record} belongs to other data"
    for name, (size, time, sha256) in files.items():
        path = record.parent / name
        try:
            stat = os.stat(path)
            if trust_times and (stat.st_size, stat.st_mtime_ns) == (size, time):
                continue
            if stat.st_size != size:
                return f"{path} has {stat.st_size:,} bytes and was written with {size:,}"
            if _sha256(path) != sha256:
                return f"{path} holds other bytes than were written"
        except OSError as error:
            return f"{path} can't be read ({error.strerror})"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
