"""Read and write ``wandb.json`` and its like in a run folder: the id of the run in a tracker, and what was sent."""

from dataclasses import asdict, dataclass, field
from typing import Final, Self

from pneumonia.runs.folder import RunFolder
from pneumonia.system.files import write_json
from pneumonia.system.records import parse_record

TRACKERS: Final = ("wandb", "tensorboard", "mlflow")


@dataclass
class Sent:
    """Rows of ``metrics.csv`` that were sent, whether the result was, and the hashes of evaluations by name."""

    rows: int = 0
    result: bool = False
    evaluations: dict[str, str] = field(default_factory=dict)


@dataclass
class TrackerRecord:
    """The run of a tracker that mirrors a run folder.

    Attributes:
        id: Of the run in the tracker; empty before there is one.
        online: What is in the tracker.
        offline: What is in files of W&B, which are not on the server.
        trouble: Why the last upload failed; ``None`` if it did not.
        place: Address of an MLflow server, or project of W&B, that holds the run.
    """

    id: str = ""
    online: Sent = field(default_factory=Sent)
    offline: Sent = field(default_factory=Sent)
    trouble: str | None = None
    place: str = ""

    @classmethod
    def read(cls, folder: RunFolder, tracker: str) -> Self:
        """Read the record of a run folder; an empty one where it is missing or damaged."""
        try:
            return parse_record(cls, folder.tracker(tracker).read_bytes())
        except (OSError, ValueError):
            return cls()

    def write(self, folder: RunFolder, tracker: str) -> None:
        """Write the record into a run folder."""
        write_json(folder.tracker(tracker), asdict(self))

    def sent(self, *, online: bool) -> Sent:
        """Return what was sent to the tracker, or written for it."""
        return self.online if online else self.offline
