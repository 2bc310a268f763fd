"""What one caller may ask of the service, so that no one can take it from the others."""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

from pneumonia.data.images.limits import MAX_PIXELS
from pneumonia.errors import ConfigError

MIB: Final = 2**20
MAX_WORKERS: Final = 8  # more threads than this only queue for Python's lock


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Limits:
    """The limits of a service; each is an option of ``pneumonia serve``.

    Attributes:
        body_mib: Size of a request.
        held_mib: Size of all requests together that are being read or answered.
        megapixels: Pixels of an image, by its header, in millions; 25 is a 43 cm detector at 0.086 mm.
        request_megapixels: Pixels of all images of a request together, by their headers, in millions.
        images: Images in a request.
        at_once: Requests that are being answered or wait for it; one more is told to come back.
        header_s: Seconds for the headers of a request to arrive.
        body_s: Seconds for its body to arrive.
        answer_s: Seconds for its answer, waiting included.
        drain_s: Seconds that requests have to end when the service is told to stop.
        workers: Threads that decode and compute.
    """

    body_mib: float = 32
    held_mib: float = 128
    megapixels: float = 25
    request_megapixels: float = 250
    images: int = 64
    at_once: int = 64
    header_s: float = 10
    body_s: float = 30
    answer_s: float = 60
    drain_s: float = 20
    workers: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf") and not (field.name == "workers" and value == 0):
                raise ConfigError(
                    f"{option(field.name)} {value:g} is out of range: it must be above 0, or nothing could be served."
                )
        if self.workers == 0:
            object.__setattr__(self, "workers", min(cores(), MAX_WORKERS))
        if self.pixels > MAX_PIXELS:
            raise ConfigError(
                f"{option('megapixels')} {self.megapixels:g} is more than the {MAX_PIXELS / 1e6:g} ever decoded. Say less."
            )
        if self.held_mib < self.body_mib:
            raise ConfigError(
                f"{option('held_mib')} {self.held_mib:g} is less than {option('body_mib')} {self.body_mib:g}, so that the "
                "largest allowed request could never be read. Raise the one or lower the other."
            )

        if self.request_megapixels < self.megapixels:
            raise ConfigError(
                f"{option('request_megapixels')} {self.request_megapixels:g} is less than {option('megapixels')} "
                f"{self.megapixels:g}, so that the largest allowed image could never be read. Raise the one or lower the other."
            )

    @property
    def body_bytes(self) -> int:
        return int(self.body_mib * MIB)

    @property
    def held_bytes(self) -> int:
        return int(self.held_mib * MIB)

    @property
    def pixels(self) -> int:
        return int(self.megapixels * 1e6)

    @property
    def request_pixels(self) -> int:
        return int(self.request_megapixels * 1e6)


def option(name: str) -> str:
    """The command line's word for a limit."""
    return "--" + name.replace("_", "-")


def number(kind: Callable[[str], Any], name: str, text: str) -> Any:
    """A number from the command line.

    Raises:
        ConfigError: It is none.
    """
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{option(name)} {text} is not {wanted}.") from None
