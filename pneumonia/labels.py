"""The classes, and the two tasks that are set on them."""

from dataclasses import dataclass
from typing import Final

NORMAL: Final = "NORMAL"
VIRUS: Final = "VIRUS"
BACTERIA: Final = "BACTERIA"
LABELS: Final = (NORMAL, VIRUS, BACTERIA)  # the study's order: 0, 1, 2


@dataclass(frozen=True)
class Task:
    """A classification task: its classes, in the order of the network's outputs.

    ``groups`` maps every label of the manifest to one of the classes.
    """

    name: str
    classes: tuple[str, ...]
    groups: dict[str, str]

    def index(self, label: str) -> int:
        """The class number of a manifest label."""
        return self.classes.index(self.groups[label])


SUBTYPE: Final = Task("subtype", LABELS, {label: label for label in LABELS})
PNEUMONIA: Final = Task("pneumonia", (NORMAL, "PNEUMONIA"), {NORMAL: NORMAL, VIRUS: "PNEUMONIA", BACTERIA: "PNEUMONIA"})
TASKS: Final = {task.name: task for task in (SUBTYPE, PNEUMONIA)}
