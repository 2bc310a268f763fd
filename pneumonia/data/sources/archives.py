"""Unpack untrusted archives: nothing is written outside the folder, and a partly unpacked folder is never used."""

import errno
import os
import re
import secrets
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final

from pneumonia.data.build_once import build_once
from pneumonia.errors import ArchiveError, PneumoniaError, some
from pneumonia.system.console import track
from pneumonia.system.files import digest

SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz")
VERSION: Final = "1"  # raise it when the same file unpacks differently
MAX_MEMBERS: Final = 200_000  # the release has 5,856 images; the largest public chest X-ray sets about 120,000
MAX_BYTES: Final = 64 * 2**30  # of all members together; the release has 1.2 GB
MAX_RATIO: Final = 200  # unpacked to packed bytes; JPEG and PNG files do not shrink, raw DICOM about fourfold
FREE_RATIO_BYTES: Final = 64 * 2**20  # below this size no ratio does harm
MAX_NAME_BYTES: Final = 255  # of one folder or file name on common file systems
MAX_TAR_EXTRA: Final = 2**20  # bytes of one extended tar header, which tarfile reads into memory whole
CHUNK: Final = 2**20
GZIP: Final = b"\x1f\x8b"


def is_archive(path: Path) -> bool:
    """Return whether :func:`unpack` reads a file, by its suffix."""
    return path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, cache_dir: Path) -> Path:
    """Return the folder with the files of a ``.zip`` or ``.tar(.gz)``, unpacked on first use.

    Raises:
        ArchiveError: Damaged, encrypted, too large, or a member would be written outside the folder.
        StorageError: ``cache_dir`` can not be written, or is full.
    """
    write = _write_zip if archive.name.lower().endswith(".zip") else _write_tar
    return unpack_once([archive], cache_dir, f"archive-{VERSION}", f"unpacking {archive.name}", lambda to: write(archive, to))


def unpack_once(sources: Sequence[Path], cache_dir: Path, method: str, what: str, write: Callable[[Path], None]) -> Path:
    """Return the folder in ``cache_dir`` that ``write`` fills from files; refill it if the path, size or time of a file changed.

    The folder appears under its name after ``write`` succeeded. The next call removes what a killed process left, and refills
    a folder whose files were lost or changed. ``method`` is the name and version of the way of unpacking; processes that wait
    show ``what``.

    Raises:
        StorageError: ``cache_dir`` can not be written, or is full.
    """
    stats = [source.stat() for source in sources]
    places = [str(source.resolve()) for source in sources]
    key = digest([method, places, [[state.st_size, state.st_mtime_ns] for state in stats]])[:16]
    home = cache_dir.resolve() / "unpacked"  # a manifest stores these paths, and is read from other folders
    folder = home / key

    def fill() -> list[Path]:
        for left_over in home.glob(f".{key}.*.part"):
            left_over.unlink() if left_over.is_file() else shutil.rmtree(left_over)
        part, damaged = (home / f".{key}.{secrets.token_hex(4)}.part" for _ in range(2))
        part.mkdir()
        try:
            write(part)
            if folder.exists():
                os.replace(folder, damaged)
                shutil.rmtree(damaged)
            os.replace(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return sorted(path for path in folder.rglob("*") if path.is_file())

    remedy = f"The folder is built again from {some(places, 1)}."
    build_once(
        home / f"{key}.json",
        key,
        fill,
        lock=home / f"{key}.lock",
        what=what,
        remedy=remedy,
        built=[folder],
        trust_times=True,
    )
    return folder


@contextmanager
def archive_errors(archive: Path, kind: str = "archive") -> Iterator[None]:
    """Turn the errors that a library raises on damaged bytes into an ``ArchiveError`` that names the expected format.

    Raises:
        ArchiveError: The library raised anything but a disk error, which is passed on.
    """
    try:
        yield
    except PneumoniaError:
        raise
    except Exception as error:  # zipfile, tarfile, numpy and their decompressors raise a dozen kinds on hostile bytes
        # An OSError of a library has no number, or that of a seek to before the beginning; others come from the disk.
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
            raise
        brief = some(str(error).splitlines() or [type(error).__name__], 1)
        raise ArchiveError(f"{archive} is damaged or no {kind} ({brief}). Nothing was kept. Get it again.") from error


def _write_zip(archive: Path, folder: Path) -> None:
    with archive_errors(archive):
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
            budget = _Budget(archive)
            for member in members:  # all are checked before the first is written
                budget.admit(member.orig_filename, member.file_size, member.is_dir())
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                    raise _refused(archive, f"'{member.filename}' is a link or a device")
                if member.flag_bits & 0x1:
                    raise _refused(archive, "it is encrypted. Unpack it yourself, and name the folder")
            for member in track(members, len(members), f"Unpacking {archive.name}"):
                if not member.is_dir():
                    with file.open(member) as source:
                        _copy(source, folder / member.filename, member.file_size)


def _write_tar(archive: Path, folder: Path) -> None:
    with archive_errors(archive):
        with archive.open("rb") as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            file = tarfile.open(fileobj=raw, mode="r:gz" if packed else "r:", tarinfo=_Member)
            mebibytes = max(1, archive.stat().st_size // CHUNK)
            with file:
                members = _tar_members(archive, raw, file, folder)
                for _ in track(members, mebibytes, f"Unpacking {archive.name}, MiB"):
                    pass


def _tar_members(archive: Path, raw: IO[bytes], file: tarfile.TarFile, folder: Path) -> Iterator[None]:
    """Check and write each member in one pass, since a compressed tar has no index; yield once a mebibyte of the archive."""
    budget, done = _Budget(archive), 0
    while (member := file.next()) is not None:
        budget.admit(member.name, member.size, member.isdir())
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise _refused(archive, f"'{member.name}' is a link, a device or a sparse file")
        source = file.extractfile(member) if member.isreg() else None
        if source is not None:
            with source:
                _copy(source, folder / member.name, member.size)
        file.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header in memory
        for _ in range(done, raw.tell() // CHUNK):
            done += 1
            yield


class _Member(tarfile.TarInfo):
    """A strictly read header; tarfile itself takes a broken header in the middle for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the proper end
                raise
            raise tarfile.ReadError(f"it ends early, or a header is broken ({error})") from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        if member.type in b"xgLKX" and member.size > MAX_TAR_EXTRA:
            raise tarfile.ReadError(f"an extended header of {member.size:,} bytes")
        return member


class _Budget:
    """Counts the members and bytes that an archive would write, and refuses unsafe ones."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.packed = archive.stat().st_size
        self.members = 0
        self.bytes = 0
        self.files: set[PurePosixPath] = set()
        self.folders: set[PurePosixPath] = set()

    def admit(self, name: str, size: int, is_folder: bool) -> None:
        """Count one more member.

        Raises:
            ArchiveError: Its name leads outside or is a duplicate, or there are too many members or bytes.
        """
        path = PurePosixPath(name)
        self.members += 1
        self.bytes += size
        if reason := _bad_name(name, path, is_folder):
            raise _refused(self.archive, f"the name {name[:200]!r} {reason}")
        if self.members > MAX_MEMBERS:
            raise _refused(self.archive, f"it holds more than {MAX_MEMBERS:,} files")
        if size < 0 or self.bytes > MAX_BYTES:
            raise _refused(self.archive, f"it would unpack to more than {MAX_BYTES // 2**30} GiB")
        if self.bytes > max(FREE_RATIO_BYTES, self.packed * MAX_RATIO):
            bomb = f"{self.packed:,} bytes would unpack to {self.bytes:,} or more, over {MAX_RATIO} times as much: a zip bomb"
            raise _refused(self.archive, bomb)
        parents = set(path.parents)
        if path in self.files or parents & self.files or (not is_folder and path in self.folders):
            raise _refused(self.archive, f"the name {name[:200]!r} occurs twice")
        self.folders |= parents
        if not is_folder:
            self.files.add(path)


def _bad_name(name: str, path: PurePosixPath, is_folder: bool) -> str:
    if not path.parts and not is_folder:
        return "names no file"
    if re.search(r"[\x00-\x1f\x7f]", name):
        return "holds control characters"
    if "\\" in name:
        return "holds a backslash, which is a folder on Windows"
    if path.is_absolute() or re.match(r"[A-Za-z]:", name):
        return "is an absolute path"
    if ".." in path.parts:
        return "leads out of the folder"
    try:
        longest = max((len(part.encode()) for part in path.parts), default=0)
    except UnicodeEncodeError:
        return "is not valid text"
    return "is too long" if longest > MAX_NAME_BYTES or len(name.encode()) > 3000 else ""


def _copy(source: IO[bytes], target: Path, size: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        left = size
        while left and (chunk := source.read(min(CHUNK, left))):
            file.write(chunk)
            left -= len(chunk)
        if left or source.read(1):  # the last read also makes zipfile compare the checksum
            raise EOFError(f"'{target.name}' is not as long as the archive says")


def _refused(archive: Path, reason: str) -> ArchiveError:
    return ArchiveError(f"{archive} was not unpacked: {reason}. Nothing was written. Get the archive from its source again.")
