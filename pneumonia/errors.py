"""What we raise on purpose: which value is wrong, why it matters, what to do.

Every class also subclasses a builtin, so that callers may catch it without knowing us. The command line prints the
name and the message and exits with code 2.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import ClassVar, Final

# Control characters, which have power over a terminal; marks that turn or break lines; and what is no Unicode text at all,
# which is how Python holds the bytes of a file name that is not UTF-8.
UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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


class DivergenceError(PneumoniaError, ArithmeticError):
    """The loss or the weights of a training became NaN or infinite before any epoch was worth keeping."""


class BundleError(PneumoniaError, ValueError):
    """A bundle is missing, can not be read or written, or was made by another version than this one can serve."""


class TamperedBundleError(BundleError):
    """A file of a bundle, or its contract, is not the one that was exported."""


class ParityError(BundleError):
    """An exported model does not answer as the trained one does."""


class ServiceError(PneumoniaError, OSError):
    """A service can not listen where it was told to."""


def printable(text: object, lines: bool = False) -> str:
    """Text from elsewhere, with an escape sequence in the place of each unprintable character.

    Args:
        text: What is printed.
        lines: Keep line breaks and tabs, for a message of several lines.
    """

    def escaped(match: re.Match[str]) -> str:
        return match[0] if lines and match[0] in "\n\t" else match[0].encode("unicode_escape").decode("ascii")

    return UNPRINTABLE.sub(escaped, str(text))


def broken_images(problems: Mapping[str, str], advice: str) -> BrokenImagesError:
    """The error that lists every image that can't be read, with why, and says what to do."""
    lines = "\n".join(f"  {printable(path)}: {printable(reason)}" for path, reason in problems.items())
    noun = "image" if len(problems) == 1 else "images"
    return BrokenImagesError(f"{len(problems)} {noun} can't be read:\n{lines}\n{advice}")


def some(values: Iterable[object], limit: int = 5) -> str:
    """A short list for a message: the first few values and how many more there are."""
    items = [printable(value) for value in values]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def nearest(word: object, choices: Iterable[str]) -> str:
    """``" Did you mean 'x'?"``, or nothing where no choice is close."""
    spelt = {choice.lower(): choice for choice in choices}
    found = get_close_matches(str(word).lower(), list(spelt), n=1, cutoff=0.6)
    return f" Did you mean '{spelt[found[0]]}'?" if found else ""
