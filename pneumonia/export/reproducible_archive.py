"""Write archives whose bytes depend on their content alone: no dates, no owners, files sorted by name."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Final

FIRST_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip file


def reproducible_zip(files: Mapping[str, bytes]) -> bytes:
    """Return an uncompressed zip archive of files by name."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, FIRST_DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, files[name])
    return raw.getvalue()


def reproducible_tar_gz(files: Mapping[str, bytes]) -> bytes:
    """Return a gzipped tar archive with the files at its root, as SageMaker unpacks it into ``/opt/ml/model``."""
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
