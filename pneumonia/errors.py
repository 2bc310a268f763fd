"""Named errors. A message says which value is wrong, why it matters and what to do.

Every class also subclasses a builtin. The command line prints name and message and exits with code 2.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import ClassVar, Final

SECRETS: Final = re.compile(r"((?:sig|AccountKey)=)[^&;\s]+", re.IGNORECASE)
# Control characters, bidirectional and line marks, and surrogates (bytes of a file name that is not UTF-8).
UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class PneumoniaError(Exception):
    """Base class of all errors of this package.

    Attributes:
        exit_code: Exit code of the command line.
    """

    exit_code: ClassVar[int] = 2


class ConfigError(PneumoniaError, ValueError):
    """A configuration key is unknown, or its value is out of range."""


class TargetError(ConfigError):
    """A ``_target_`` names no class that can be used here, or one that is not allowed."""


class LayoutError(PneumoniaError, ValueError):
    """A data folder is missing, empty or in a layout that is not recognised."""


class LabelError(PneumoniaError, ValueError):
    """The label of an image is missing, unknown or contradictory, or a class has no image."""


class BrokenImagesError(PneumoniaError, ValueError):
    """Images can not be read; the message lists all of them."""


class SplitLeakageError(PneumoniaError, ValueError):
    """A patient, or a copy of one image, is in more than one subset or fold."""


class SplitError(PneumoniaError, ValueError):
    """The data can not be split as requested, for example because a subset would be empty."""


class StorageError(PneumoniaError, OSError):
    """A file can not be written: the disk is full or read-only."""


class ManifestError(PneumoniaError, ValueError):
    """A manifest or a split file can not be read, lacks columns, or does not match the images."""


class ArchiveError(PneumoniaError, ValueError):
    """An archive is damaged, or unsafe to unpack."""


class AccessError(PneumoniaError, PermissionError):
    """Blob Storage denies access: a wrong key, an expired token, or a missing permission."""


class BlobError(PneumoniaError, LookupError):
    """A container or blob is missing, or its name can not be a local file."""


class TransferError(PneumoniaError, OSError):
    """A transfer failed after all retries, or the bytes that arrived are wrong."""


class RunError(PneumoniaError, ValueError):
    """A run folder is missing, unfinished, busy, or not what the command needs."""


class TimeLimitReached(PneumoniaError, TimeoutError):
    """``trainer.max_time`` is over. The same command resumes the training."""

    exit_code = 130


class Interrupted(PneumoniaError, KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a training or a sweep. The same command resumes it."""


class CheckpointError(PneumoniaError, ValueError):
    """A checkpoint can not be read, or belongs to another task or model."""


class DivergenceError(PneumoniaError, ArithmeticError):
    """The loss or the weights of a training became NaN or infinite before any finite epoch."""


class BundleError(PneumoniaError, ValueError):
    """A bundle is missing, unreadable, or of an unsupported version."""


class TamperedBundleError(BundleError):
    """A file of a bundle differs from the exported one."""


class ParityError(BundleError):
    """The outputs of an exported model differ from the trained one."""


class ServiceError(PneumoniaError, OSError):
    """A service can not listen on its address."""


def printable(text: object, lines: bool = False) -> str:
    """Escape unprintable characters.

    Args:
        text: Text of any origin.
        lines: Keep line breaks and tabs.
    """

    def escaped(match: re.Match[str]) -> str:
        return match[0] if lines and match[0] in "\n\t" else match[0].encode("unicode_escape").decode("ascii")

    return UNPRINTABLE.sub(escaped, str(text))


def masked(text: object) -> str:
    """Return a text with ``***`` for the keys and signatures of storage accounts."""
    return SECRETS.sub(r"\1***", str(text))


def broken_images(problems: Mapping[str, str], advice: str) -> BrokenImagesError:
    """Build the error that lists all unreadable images with their reasons."""
    lines = "\n".join(f"  {printable(path)}: {printable(reason)}" for path, reason in problems.items())
    noun = "image" if len(problems) == 1 else "images"
    return BrokenImagesError(f"{len(problems)} {noun} can't be read:\n{lines}\n{advice}")


def sentence(error: object) -> str:
    """Return the message of an error in one line that ends with a full stop."""
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?", "!")) else f"{text}."


def some(values: Iterable[object], limit: int = 5) -> str:
    """Format the first few values and the number of the others."""
    items = [printable(value) for value in values]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def nearest(word: object, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"``, or an empty string where no choice is close: similar, or the initials of the word."""
    spelt = {choice.lower(): choice for choice in choices}
    found = get_close_matches(str(word).lower(), list(spelt), n=1, cutoff=0.6)
    initials = "".join(part[:1] for part in re.split(r"[\W_]+", str(word).lower()))
    found = found or [choice for choice in spelt if choice == initials and len(choice) > 1]
    return f" Did you mean '{spelt[found[0]]}'?" if found else ""
