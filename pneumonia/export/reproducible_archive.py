"""Archives whose bytes depend on their content alone: no dates, no owners, no order of a file system."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Final

FIRST_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can say


def reproducible_zip(files: Mapping[str, bytes]) -> bytes:
    """A zip file of these files, stored as they are."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, FIRST_DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, files[name])
    return raw.getvalue()


def reproducible_tar_gz(files: Mapping[str, bytes]) -> bytes:
    """A gzipped tar file of these files at its root, as SageMaker unpacks it into ``/opt/ml/model``."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(files[name]), 0o644, 0
            archive.addfile(entry, io.BytesIO(files[name]))
    return packed.getvalue()
