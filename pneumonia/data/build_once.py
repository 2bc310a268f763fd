"""Build cached files once: one process builds, others wait, and damaged files are built again."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pneumonia.system.checksums import find_damage, write_checksums
from pneumonia.system.console import warn
from pneumonia.system.files import one_at_a_time, translated_os_errors


def build_once(
    record: Path,
    key: str,
    build: Callable[[], Sequence[Path] | None],
    *,
    lock: Path,
    what: str,
    remedy: str,
    built: Sequence[Path] = (),
    trust_times: bool = False,
) -> None:
    """Call ``build`` unless the files of a checksum record exist and are undamaged.

    Args:
        record: The checksums; see :mod:`pneumonia.system.checksums`.
        key: Identifies what the files are made from.
        build: Returns the files to record, or ``None`` if it writes the record itself.
        lock: Lock file that processes share.
        what: Shown to processes that wait, for example "decoding these images".
        remedy: Follows the description of the damage in a warning.
        built: Paths beside ``record`` that show that the files existed before.
        trust_times: Hash only files whose size or time changed.

    Raises:
        StorageError: The folder is read-only or full.
    """
    if not find_damage(record, key, trust_times):
        return
    with one_at_a_time(lock, what), translated_os_errors(record):
        damage = find_damage(record, key, trust_times)  # another process may have built them meanwhile
        if damage:
            if any(path.exists() for path in (record, *built)):
                warn(f"{damage}. {remedy}")
            files = build()
            if files is not None:
                write_checksums(record, files, key)
