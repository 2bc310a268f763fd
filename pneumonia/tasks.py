"""Classes and classification tasks."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pneumonia.errors import LabelError

NORMAL: Final = "NORMAL"
VIRUS: Final = "VIRUS"
BACTERIA: Final = "BACTERIA"
LABELS: Final = (NORMAL, VIRUS, BACTERIA)  # the study's order: 0, 1, 2
SUBSETS: Final = ("train", "val", "test")  # of a split
UNKNOWN_KIND: Final = "PNEUMONIA"  # viral or bacterial: binary sources do not say


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        name: Value of the config key ``task``.
        classes: In the order of the network's outputs.
        groups: Maps labels of the manifest to classes.
    """

    name: str
    classes: tuple[str, ...]
    groups: dict[str, str]

    @property
    def questions(self) -> tuple[str, ...]:
        """Return the binary questions of the task: pneumonia of any kind, then each kind that is a class."""
        return (UNKNOWN_KIND, *(name for name in self.classes if name not in {NORMAL, UNKNOWN_KIND}))

    def index(self, label: str) -> int:
        """Return the class index of a manifest label.

        Raises:
            LabelError: The task has no class for this label.
        """
        if label in self.groups:
            return self.classes.index(self.groups[label])
        if label == UNKNOWN_KIND:
            raise LabelError(
                f"Some images are labelled {UNKNOWN_KIND} without saying whether of a virus or of bacteria, so "
                f"task={self.name} has no class for them. Use task=pneumonia, which asks only for pneumonia or not."
            )
        raise LabelError(f"task={self.name} has no class for the label '{label}'; it knows {', '.join(self.groups)}.")

    def indices(self, labels: Iterable[str]) -> list[int]:
        """Return the class index of each label; see :meth:`index`."""
        names = list(labels)
        numbers = {name: self.index(name) for name in dict.fromkeys(names)}
        return [numbers[name] for name in names]

    def counts(self, labels: Iterable[str]) -> Counter[str]:
        """Count the labels of each class; see :meth:`index`."""
        found: Counter[str] = Counter()
        for label, count in Counter(labels).items():
            found[self.classes[self.index(label)]] += count
        return found


SUBTYPE: Final = Task("subtype", LABELS, {label: label for label in LABELS})
PNEUMONIA: Final = Task(
    "pneumonia",
    (NORMAL, UNKNOWN_KIND),
    {NORMAL: NORMAL, VIRUS: UNKNOWN_KIND, BACTERIA: UNKNOWN_KIND, UNKNOWN_KIND: UNKNOWN_KIND},
)
TASKS: Final = {task.name: task for task in (SUBTYPE, PNEUMONIA)}


def in_class_order(labels: Iterable[str]) -> list[str]:
    """Return each label once, in the order of the tasks' classes; labels of no task come last."""
    known = (*LABELS, UNKNOWN_KIND)
    return sorted(set(labels), key=lambda label: (known.index(label) if label in known else len(known), label))
