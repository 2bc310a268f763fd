"""Limits of the service, so that no caller can take it from the others."""

from dataclasses import dataclass, field, fields
from typing import Any, Final

from pneumonia.data.images.limits import MAX_PIXELS
from pneumonia.errors import ConfigError
from pneumonia.system.parallel import available_cores

MIB: Final = 2**20
MAX_WORKERS: Final = 8  # more threads than this only queue for Python's lock


def _limit(default: float, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Limits:
    """The limits of a service; each is an option of ``pneumonia serve``.

    ``megapixels`` counts the pixels of an image by its header, in millions; 25 is a 43 cm detector at 0.086 mm.
    """

    body_mib: float = _limit(32, "MiB of a request.")
    held_mib: float = _limit(128, "MiB of all requests in flight together.")
    megapixels: float = _limit(25, "Millions of pixels of an image.")
    request_megapixels: float = _limit(250, "Millions of pixels of all images of a request.")
    images: int = _limit(64, "Images in a request.")
    at_once: int = _limit(64, "Requests in flight; one more gets 429.")
    header_s: float = _limit(10, "Seconds for the headers of a request to arrive.")
    body_s: float = _limit(30, "Seconds for its body to arrive.")
    answer_s: float = _limit(60, "Seconds for its response, waiting included.")
    drain_s: float = _limit(20, "Seconds for the requests in flight after SIGTERM.")
    workers: int = _limit(0, f"Threads that decode and predict; 0 for the number of cores, {MAX_WORKERS} at most.")

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not 0 < value < float("inf") and not (limit.name == "workers" and value == 0):
                raise ConfigError(
                    f"{option_name(limit.name)} {value:g} is out of range: it must be above 0, or nothing could be served."
                )
        if self.workers == 0:
            object.__setattr__(self, "workers", min(available_cores(), MAX_WORKERS))
        if self.pixels > MAX_PIXELS:
            raise ConfigError(
                f"{option_name('megapixels')} {self.megapixels:g} is more than the {MAX_PIXELS / 1e6:g} ever decoded. Use less."
            )
        if self.held_mib < self.body_mib:
            raise ConfigError(
                f"{option_name('held_mib')} {self.held_mib:g} is less than {option_name('body_mib')} {self.body_mib:g}, so that "
                "the largest allowed request could never be read. Raise the one or lower the other."
            )
        if self.request_megapixels < self.megapixels:
            raise ConfigError(
                f"{option_name('request_megapixels')} {self.request_megapixels:g} is less than {option_name('megapixels')} "
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


def option_name(limit: str) -> str:
    """Return the command-line option of a limit."""
    return "--" + limit.replace("_", "-")
