"""What we raise on purpose: which value is wrong, why it matters, what to do.

Every class also subclasses a builtin, so that callers may catch it without knowing us. The command line prints the
name and the message and exits with code 2.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import ClassVar


class PneumoniaError(Exception):
    """Base of everything that this package raises on purpose.

    Attributes:
        exit_code: Of a command that it ends.
    """

    exit_code: ClassVar[int] = 2


class ConfigError(PneumoniaError, ValueError):
    """A configuration key is unknown, or its value is out of range."""


class TargetError(ConfigError):
    """A ``_target_`` names no class that can be used here, or one that may not be imported."""


class LayoutError(PneumoniaError, ValueError):
    """A data folder is missing, empty or arranged in a way that we do not recognise."""


class LabelError(PneumoniaError, ValueError):
    """A file's name and folder do not say one class, or a class has no image at all."""


class BrokenImagesError(PneumoniaError, ValueError):
    """Some images can not be read; the message lists all of them."""


class SplitLeakageError(PneumoniaError, ValueError):
    """A patient (or a copy of one image) stands in more than one part of a split."""


class SplitError(PneumoniaError, ValueError):
    """The data can not be split as asked, for example because a part would be empty."""


class StorageError(PneumoniaError, OSError):
    """A folder can not be written: the disk is full, or the place is read-only."""


class ManifestError(PneumoniaError, ValueError):
    """A manifest or a split file can not be read, lacks columns, or does not fit the images."""


class ArchiveError(PneumoniaError, ValueError):
    """An archive or array file is damaged, or would write where or what it must not."""


class AccessError(PneumoniaError, PermissionError):
    """A store of blobs refuses us: a wrong or missing key, an expired token, a token without the right."""


class BlobError(PneumoniaError, LookupError):
    """A container or blob is missing, or has a name that can not be a file of ours."""


class TransferError(PneumoniaError, OSError):
    """A transfer broke and did not mend: the connection is lost, or the bytes are not those that were sent."""


class RunError(PneumoniaError, ValueError):
    """A run folder is missing, unfinished, busy, or not what the command needs."""


class TimeLimitReached(PneumoniaError, TimeoutError):
    """``trainer.max_time`` is over; the same command resumes the training. The command line ends as when it is interrupted."""

    exit_code = 130


class CheckpointError(PneumoniaError, ValueError):
    """A checkpoint can not be read, or belongs to another task or model."""


class BundleError(PneumoniaError, ValueError):
    """A bundle is missing, can not be read or written, or was made by another version than this one can serve."""


class TamperedBundleError(BundleError):
    """A file of a bundle, or its contract, is not the one that was exported."""


class ParityError(BundleError):
    """An exported model does not answer as the trained one does."""


class ServiceError(PneumoniaError, OSError):
    """A service can not listen where it was told to."""


def broken_images(problems: Mapping[str, str], advice: str) -> BrokenImagesError:
    """The error that lists every image that can't be read, with why, and says what to do."""
    lines = "\n".join(f"  {path}: {reason}" for path, reason in problems.items())
    noun = "image" if len(problems) == 1 else "images"
    return BrokenImagesError(f"{len(problems)} {noun} can't be read:\n{lines}\n{advice}")


def some(values: Iterable[object], limit: int = 5) -> str:
    """A short list for a message: the first few values and how many more there are."""
    items = [str(value) for value in values]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def nearest(word: object, choices: Iterable[str]) -> str:
    """``" Did you mean 'x'?"``, or nothing where no choice is close."""
    spelt = {choice.lower(): choice for choice in choices}
    found = get_close_matches(str(word).lower(), list(spelt), n=1, cutoff=0.6)
    return f" Did you mean '{spelt[found[0]]}'?" if found else ""
