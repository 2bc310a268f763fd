"""Unpacks archives from elsewhere: nothing is written outside the folder, nothing half-unpacked is taken for whole."""

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

from pneumonia.errors import ArchiveError, PneumoniaError, some
from pneumonia.system.checksums import find_damage, write_checksums
from pneumonia.system.console import track, warn
from pneumonia.system.files import digest, one_at_a_time, translated_os_errors

SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz")
VERSION: Final = "1"  # raise it when the same file unpacks differently
MAX_MEMBERS: Final = 200_000  # the release has 5,856 images; the largest public chest X-ray sets about 120,000
MAX_BYTES: Final = 64 * 2**30  # of all members together; the release has 1.2 GB
MAX_RATIO: Final = 200  # unpacked to packed bytes; JPEG and PNG files do not shrink, raw DICOM about fourfold
FREE_RATIO_BYTES: Final = 64 * 2**20  # below this much no ratio hurts
MAX_NAME_BYTES: Final = 255  # of one folder or file name on common file systems
MAX_TAR_EXTRA: Final = 2**20  # bytes of one extended tar header, which tarfile reads into memory whole
CHUNK: Final = 2**20
GZIP: Final = b"\x1f\x8b"


def is_archive(path: Path) -> bool:
    """Whether a file's name says that :func:`unpack` reads it."""
    return path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, cache_dir: Path) -> Path:
    """The folder with the files of a ``.zip`` or ``.tar(.gz)``; unpacked on first use.

    Raises:
        ArchiveError: Damaged, encrypted, or it would write where or what it must not, or too much.
        StorageError: ``cache_dir`` can not be written, or is full.
    """
    write = _write_zip if archive.name.lower().endswith(".zip") else _write_tar
    return once([archive], cache_dir, f"archive-{VERSION}", f"unpacking {archive.name}", lambda to: write(archive, to))


def once(sources: Sequence[Path], cache_dir: Path, how: str, what: str, write: Callable[[Path], None]) -> Path:
    """The folder that ``write`` fills from files; filled again only when the place, size or time of one changed.

    It appears under its name when ``write`` has ended well. What a killed process left is removed by the next. A folder
    in which a file was lost or changed is filled anew.

    Args:
        sources: The files.
        cache_dir: Its ``unpacked`` folder holds the result.
        how: Name and version of the way of unpacking.
        what: For the person who waits: "unpacking x.zip".
        write: Fills an empty folder.

    Raises:
        StorageError: ``cache_dir`` can not be written, or is full.
    """
    stats = [source.stat() for source in sources]
    places = [str(source.resolve()) for source in sources]
    key = digest([how, places, [[state.st_size, state.st_mtime_ns] for state in stats]])[:16]
    home = cache_dir.resolve() / "unpacked"  # a manifest keeps these paths, and is read from other folders
    folder = home / key
    checksums = home / f"{key}.json"
    if find_damage(checksums, key, trust_times=True):
        with one_at_a_time(home / f"{key}.lock", what), translated_os_errors(folder):
            damage = find_damage(checksums, key, trust_times=True)  # another process may have filled it meanwhile
            if damage:
                if folder.exists() or checksums.exists():
                    warn(f"{damage}. The folder is made again from {some(places, 1)}.")
                for left_over in home.glob(f".{key}.*.part"):
                    left_over.unlink() if left_over.is_file() else shutil.rmtree(left_over)
                part = home / f".{key}.{secrets.token_hex(4)}.part"
                part.mkdir()
                try:
                    write(part)
                    if folder.exists():
                        damaged = home / f".{key}.{secrets.token_hex(4)}.part"
                        os.replace(folder, damaged)
                        shutil.rmtree(damaged)
                    os.replace(part, folder)
                except BaseException:
                    shutil.rmtree(part, ignore_errors=True)
                    raise
                files = sorted(path for path in folder.rglob("*") if path.is_file())
                write_checksums(checksums, files, key)
    return folder


@contextmanager
def named_damage(archive: Path, kind: str = "archive") -> Iterator[None]:
    """Turn whatever a library stumbles over in the bytes of an archive into the error that says that it is damaged.

    Args:
        archive: The file.
        kind: What it should be, for the message.

    Raises:
        ArchiveError: The library raised anything but an error of the disk, which is passed on.
    """
    try:
        yield
    except PneumoniaError:
        raise
    except OSError as error:
        # Libraries' own words for damaged bytes have no number, or that of a seek to before the beginning.
        if error.errno not in {None, errno.EINVAL}:
            raise
        raise _damaged(archive, error, kind) from error
    except Exception as error:  # zipfile, tarfile, numpy and their decompressors raise a dozen kinds on hostile bytes
        raise _damaged(archive, error, kind) from error


def _write_zip(archive: Path, folder: Path) -> None:
    with named_damage(archive):
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
    with named_damage(archive):
        with archive.open("rb") as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            file = tarfile.open(fileobj=raw, mode="r:gz" if packed else "r:", tarinfo=_Member)
            mebibytes = max(1, archive.stat().st_size // CHUNK)
            with file:
                for _ in track(_tar_members(archive, raw, file, folder), mebibytes, f"Unpacking {archive.name}, MiB"):
                    pass


def _tar_members(archive: Path, raw: IO[bytes], file: tarfile.TarFile, folder: Path) -> Iterator[None]:
    """One pass, since a compressed tar has no index: each member is checked before its bytes are read.

    Yields once for each mebibyte of the archive that is done.
    """
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
    """A header that is read strictly: tarfile itself takes a broken one in the middle for the end of the archive."""

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
    """Counts what an archive wants to write, and refuses what it must not."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.packed = archive.stat().st_size
        self.members = 0
        self.bytes = 0
        self.files: set[PurePosixPath] = set()
        self.folders: set[PurePosixPath] = set()

    def admit(self, name: str, size: int, is_folder: bool) -> None:
        """Takes one more member into account.

        Raises:
            ArchiveError: Its name leads elsewhere or stands there twice, or there are too many, or too many bytes.
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
            raise _refused(
                self.archive,
                f"{self.packed:,} bytes would unpack to {self.bytes:,} or more, over {MAX_RATIO} times as much, as a zip "
                "bomb does",
            )
        parents = set(path.parents)
        clash = path in self.files or parents & self.files or (not is_folder and path in self.folders)
        if clash:
            raise _refused(self.archive, f"the name {name[:200]!r} stands in it twice")
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
    return ArchiveError(
        f"{archive} was not unpacked: {reason}. Nothing was written. Get the archive from its source again."
    )


def _damaged(archive: Path, error: Exception, kind: str) -> ArchiveError:
    brief = some(str(error).splitlines() or [type(error).__name__], 1)
    return ArchiveError(f"{archive} is damaged or no {kind} ({brief}). Nothing was kept. Get it again.")
