"""Read and write ``wandb.json`` of a run folder: the W&B id of the run, and what was sent."""

from dataclasses import asdict, dataclass, field
from typing import Self

from pneumonia.runs.folder import RunFolder
from pneumonia.system.files import write_json
from pneumonia.system.records import parse_record


@dataclass
class Sent:
    """Rows of ``metrics.csv`` that were sent, and whether the result was."""

    rows: int = 0
    result: bool = False


@dataclass
class WandbRecord:
    """The W&B run of a run folder.

    Attributes:
        id: Of the W&B run; empty before there is one.
        online: What is on the server.
        offline: What is in files of W&B, which are not on the server.
        trouble: Why the last upload failed; ``None`` if it did not.
    """

    id: str = ""
    online: Sent = field(default_factory=Sent)
    offline: Sent = field(default_factory=Sent)
    trouble: str | None = None

    @classmethod
    def read(cls, folder: RunFolder) -> Self:
        """Read the record of a run folder; an empty one where it is missing or damaged."""
        try:
            return parse_record(cls, folder.wandb.read_bytes())
        except (OSError, ValueError):
            return cls()

    def write(self, folder: RunFolder) -> None:
        """Write the record into a run folder."""
        write_json(folder.wandb, asdict(self))

    def sent(self, *, online: bool) -> Sent:
        """Return what was sent to the server, or written for it."""
        return self.online if online else self.offline
