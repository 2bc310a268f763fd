"""Fetch a public release with the client that its host maintains.

Each resumes. kagglehub checks the MD5 of its archive. huggingface_hub checks sizes only, so the checksums of its listing are
compared here. MedMNIST's address and MD5 are those of the medmnist package, whose own download neither resumes nor times out,
so :mod:`pneumonia.data.sources.http_download` fetches its file.
"""

import hashlib
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pneumonia.data.sources.file_names import DICOM_SUFFIXES, IMAGE_SUFFIXES
from pneumonia.data.sources.http_download import TIMEOUT_S, download, unreachable
from pneumonia.data.sources.medmnist import SIDES
from pneumonia.errors import AccessError, ConfigError, PneumoniaError, TransferError, some
from pneumonia.system.console import say, track
from pneumonia.system.files import translated_os_errors

KAGGLE: Final = "paultimothymooney/chest-xray-pneumonia"
HUGGING_FACE: Final = "hf-vision/chest-xray-pneumonia"  # the same 5,856 images as Parquet files
IMAGES: Final = [f"*{suffix}" for suffix in sorted(IMAGE_SUFFIXES | DICOM_SUFFIXES)]
PATTERNS: Final = [*IMAGES, *map(str.upper, IMAGES), "*.parquet", "*.csv", "*.npz", "*.zip", "*.tar", "*.gz"]
EXTRA: Final = 'pip install "pneumonia[download]"'
KEPT: Final = "The bytes received so far are"
FORBIDDEN: Final = {401, 403}


def fetch(source: str, cache_dir: Path, size: int = 28, repo: str | None = None) -> Path:
    """Return a release on this disk, as a path for :func:`pneumonia.data.sources.releases.recognise`.

    Existing files are not fetched again.

    Args:
        source: ``kaggle`` (stored in kagglehub's own cache), ``huggingface`` or ``medmnist`` (stored in ``cache_dir``).
        cache_dir: Its ``downloads`` folder holds the result.
        size: Pixels a side of MedMNIST.
        repo: Data set on Hugging Face, ``owner/name``.

    Raises:
        ConfigError: The client is not installed, or a value is unknown.
        AccessError: The host requires a login, or refuses it.
        TransferError: No network, a silent server, or wrong checksums.
        StorageError: The disk is full or can't be written.
    """
    return FETCHERS[source](cache_dir, size, repo or HUGGING_FACE)


def _kaggle(cache_dir: Path, size: int, repo: str) -> Path:
    client, requests, exceptions = map(_client, ("kagglehub", "requests", "kagglehub.exceptions"))
    login = "Make a token at kaggle.com/settings and save it as ~/.kaggle/kaggle.json, or set KAGGLE_API_TOKEN."
    try:
        with translated_os_errors(Path(_client("kagglehub.config").get_cache_folder())):
            # The client waits for ever on a network that drops its packets: ask for a sign of life first.
            environment = _client("kagglesdk.kaggle_env")
            requests.head(environment.get_endpoint(environment.get_env()), timeout=TIMEOUT_S)
            return Path(client.dataset_download(KAGGLE))
    except requests.HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code in FORBIDDEN:
            raise AccessError(f"Kaggle refuses access to {KAGGLE} ({code}). {login}") from None
        raise TransferError(f"Kaggle answered {code or 'with an error'} for {KAGGLE}. Try again later.") from None
    except (exceptions.UnauthenticatedError, exceptions.CredentialError):
        raise AccessError(f"Kaggle requires a login for {KAGGLE}. {login}") from None
    except requests.RequestException as error:
        raise unreachable("Kaggle", type(error).__name__, KEPT) from None
    except exceptions.DataCorruptionError:
        raise TransferError("The file from Kaggle does not have its checksum, and was deleted. Try again.") from None


def _hugging_face(cache_dir: Path, size: int, repo: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", repo) or ".." in repo:
        raise ConfigError(f"--repo {repo} names no data set of Hugging Face; it must be owner/name.")
    client, errors = _client("huggingface_hub"), _client("huggingface_hub.errors")
    folder = cache_dir / "downloads" / "huggingface" / repo.replace("/", "--")
    try:
        with translated_os_errors(folder):
            info = client.HfApi().dataset_info(repo, files_metadata=True, timeout=TIMEOUT_S)
            names = [file.rfilename for file in info.siblings]
            wanted = set(client.utils.filter_repo_objects(names, allow_patterns=PATTERNS))
            if not wanted:
                raise ConfigError(f"The data set {repo} holds no images, tables or archives. Check --repo owner/name.")
            client.snapshot_download(
                repo, repo_type="dataset", revision=info.sha, local_dir=folder, allow_patterns=sorted(wanted)
            )
            _check_sums(folder, [file for file in info.siblings if file.rfilename in wanted])
            return folder
    except errors.GatedRepoError:
        raise AccessError(
            f"The data set {repo} is gated. Accept its terms on its page, then log in with `hf auth login`."
        ) from None
    except errors.RepositoryNotFoundError:
        raise AccessError(
            f"Hugging Face shows no data set {repo}: it does not exist, or is private. Check --repo owner/name, or log in "
            "with `hf auth login`."
        ) from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code in FORBIDDEN:
            raise AccessError(f"Hugging Face refuses the login ({code}). Log in again with `hf auth login`.") from None
        raise TransferError(f"Hugging Face answered {code or 'with an error'} for {repo}. Try again later.") from None
    except errors.OfflineModeIsEnabled:
        raise TransferError("HF_HUB_OFFLINE forbids requests to Hugging Face. Unset it.") from None
    except Exception as error:
        if isinstance(error, PneumoniaError) or not _is_about_the_network(error):
            raise
        raise unreachable("Hugging Face", type(error).__name__, KEPT) from None


def _check_sums(folder: Path, files: list[Any]) -> None:
    """Compare each file with the checksum in the listing: SHA-256 of a large file, git's blob id of a small one."""
    wrong = []
    for file in track(files, len(files), "Checking checksums"):
        path = folder / file.rfilename
        if not path.is_file():
            wrong.append(f"{file.rfilename} is missing")
            continue
        with path.open("rb") as content:
            if file.lfs is not None:
                good = hashlib.file_digest(content, "sha256").hexdigest() == file.lfs.sha256
            else:
                raw = content.read()
                blob = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False)
                good = blob.hexdigest() == file.blob_id
        if not good:
            wrong.append(f"{file.rfilename} has another checksum")
            path.unlink()
    if wrong:
        raise TransferError(
            f"{len(wrong)} of {len(files)} files from Hugging Face differ from its listing: {some(wrong, 3)}. The wrong ones "
            "were deleted; the same command fetches them again."
        )


def _medmnist(cache_dir: Path, size: int, repo: str) -> Path:
    if size not in SIDES:
        raise ConfigError(f"--size {size} is no size of MedMNIST; choose one of {', '.join(map(str, SIDES))}.")
    say("Loading the medmnist package")  # takes seconds, since it imports torch
    info = _client("medmnist").INFO["pneumoniamnist"]
    flag = "" if size == 28 else f"_{size}"
    target = cache_dir / "downloads" / "medmnist" / f"pneumoniamnist{flag}.npz"
    return download(info[f"url{flag}"], target, info[f"MD5{flag}"])


FETCHERS: Final[dict[str, Callable[[Path, int, str], Path]]] = {
    "kaggle": _kaggle,
    "huggingface": _hugging_face,
    "medmnist": _medmnist,
}


def _client(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ConfigError(f"--from needs the package {package} ({error}). Install it with: {EXTRA}") from error


def _is_about_the_network(error: BaseException | None) -> bool:
    """Return whether the root cause is a connection; httpx's classes are recognised by their module."""
    while error is not None:
        module = type(error).__module__.partition(".")[0]
        if module.startswith("httpx") or module == "httpcore" or isinstance(error, ConnectionError | TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False
