"""Classes and classification tasks."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from pneumonia.errors import UNPRINTABLE, ConfigError, LabelError, nearest, printable

NORMAL: Final = "NORMAL"
VIRUS: Final = "VIRUS"
BACTERIA: Final = "BACTERIA"
LABELS: Final = (NORMAL, VIRUS, BACTERIA)  # the study's order: 0, 1, 2
SUBSETS: Final = ("train", "val", "test")  # of a split
UNKNOWN_KIND: Final = "PNEUMONIA"  # viral or bacterial: binary sources do not say
ANY_POSITIVE: Final = "ANY_POSITIVE"  # the question of several positive classes that are not the kinds of pneumonia
FEWEST_CLASSES: Final = 2
MOST_CLASSES: Final = 20
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", re.ASCII)  # keys of metrics and columns of tables hold it
# Names of a metric and of a question, and what readers of YAML and CSV take for something else than text.
RESERVED: Final = frozenset({"macro", ANY_POSITIVE.lower(), "true", "false", "null", "none", "nan", "na"})


def folded(text: str) -> str:
    """Return a text as names of classes are compared: in any case, with blanks, ``_`` and ``-`` alike."""
    return re.sub(r"[\s_-]+", " ", text.strip().casefold())


@dataclass(frozen=True)
class Task:
    """A classification task, valid by construction.

    Attributes:
        name: Value of the config key ``task``.
        classes: In the order of the network's outputs.
        positive: The classes that are positive in the first of the :attr:`questions`, in the same order.
        synonyms: Pairs of a class and its other names in folders and tables.

    Raises:
        ConfigError: The classes are too few, too many or alike, or the other values do not fit them.
    """

    name: str
    classes: tuple[str, ...]
    positive: tuple[str, ...]
    synonyms: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        _check_name("task.name", self.name)
        _check_classes(self.classes)
        _check_positive(self.positive, self.classes)
        _check_synonyms(self.synonyms, self.classes)
        if self != TASKS.get(self.name, self):
            raise ConfigError(
                f"task.name={self.name} is a built-in task, which has other values than these. Runs are compared by the name of "
                "their task, so give yours another one."
            )

    @classmethod
    def of(
        cls,
        name: str,
        classes: Sequence[str],
        positive: Sequence[str] | None = None,
        synonyms: Mapping[str, Sequence[str]] | None = None,
    ) -> "Task":
        """Build a task from the values of its file; without ``positive``, every class but the first is positive.

        Raises:
            ConfigError: See :class:`Task`.
        """
        chosen = classes[1:] if positive is None else sorted(positive, key=lambda label: (*classes, label).index(label))
        others = tuple((label, tuple(words)) for label, words in (synonyms or {}).items())
        return cls(name, tuple(classes), tuple(chosen), others)

    @classmethod
    def from_plain(cls, value: object) -> "Task":
        """Read what :meth:`to_plain` returns.

        Raises:
            ConfigError: It is neither the name of a built-in task, nor the values of a task.
        """
        if isinstance(value, str):
            if value not in TASKS:
                raise ConfigError(f"task={value} is not known; choose one of {', '.join(TASKS)}.{nearest(value, TASKS)}")
            return TASKS[value]
        try:
            return cls.of(**value)  # type: ignore[arg-type] # a value of another type raises
        except (TypeError, AttributeError) as error:
            raise ConfigError(
                f"task={printable(str(value)[:200])} has the wrong type: it must be the name of a task, or its values."
            ) from error

    def to_plain(self) -> str | dict[str, object]:
        """Return the name of a built-in task, the values of any other: for checkpoints and for the identity of a run."""
        if self.name in TASKS:
            return self.name
        synonyms = {label: list(words) for label, words in self.synonyms}
        return {"name": self.name, "classes": list(self.classes), "positive": list(self.positive), "synonyms": synonyms}

    @property
    def negative(self) -> tuple[str, ...]:
        """The classes that are not positive."""
        return tuple(label for label in self.classes if label not in self.positive)

    @property
    def questions(self) -> tuple[str, ...]:
        """The binary questions of the task: whether any positive class is shown, then each of several positive classes."""
        if len(self.positive) == 1:
            return self.positive
        return (UNKNOWN_KIND if {*self.positive} <= {VIRUS, BACTERIA} else ANY_POSITIVE, *self.positive)

    @property
    def title(self) -> str:
        """The classes in words, for example ``normal, virus or bacteria``."""
        known = (*LABELS, UNKNOWN_KIND)
        names = [label.lower() if label in known else label for label in self.classes]
        if len(names) > 6:
            return f"{self.name}, {len(names)} classes"
        return f"{', '.join(names[:-1])} or {names[-1]}"

    @cached_property
    def words(self) -> dict[str, str]:
        """The class of each :func:`folded` name of one."""
        known = {folded(label): label for label in self.classes}
        return known | {folded(word): label for label, words in self.synonyms for word in words}

    def class_of(self, label: str) -> str | None:
        """Return the class of a manifest label; ``None`` if the task has none for it."""
        return self.words.get(folded(label))

    def index(self, label: str) -> int:
        """Return the class index of a manifest label.

        Raises:
            LabelError: The task has no class for this label.
        """
        name = self.class_of(label)
        if name is not None:
            return self.classes.index(name)
        if label == UNKNOWN_KIND and {VIRUS, BACTERIA} <= {*self.classes}:
            raise LabelError(
                f"Some images are labelled {UNKNOWN_KIND} without saying whether of a virus or of bacteria, so "
                f"task={self.name} has no class for them. Use task=pneumonia, which asks only for pneumonia or not."
            )
        known = (*self.classes, *(word for _, words in self.synonyms for word in words))
        raise LabelError(
            f"task={self.name} has no class for the label '{printable(label)}'; it knows {', '.join(known)}. Add it "
            "to the synonyms of a class in the file of the task, or leave these images out."
        )

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


def _check_name(key: str, name: str) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"{key}={printable(name)} can't be a name: it becomes part of keys of metrics, columns of tables and file names. Use "
            "up to 40 letters (a to z), digits, _, - and ., a letter or digit first; other spellings of a class go into "
            "task.synonyms."
        )


def _check_classes(classes: Sequence[str]) -> None:
    shown = f"task.classes=[{', '.join(map(printable, classes))}]"
    if not FEWEST_CLASSES <= len(classes) <= MOST_CLASSES:
        some = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
        raise ConfigError(
            f"{shown} has {some}, and a classifier separates {FEWEST_CLASSES} to {MOST_CLASSES}. List all classes of the task."
        )
    known: dict[str, str] = {}
    for label in classes:
        _check_name("task.classes", label)
        if label.lower() in RESERVED:
            raise ConfigError(
                f"task.classes={label} can't be a class: the name has another meaning in tables and metrics. Choose another one, "
                "and name the folders and labels in task.synonyms."
            )
        if folded(label) in known:
            raise ConfigError(
                f"{shown} has one class twice, {known[folded(label)]} and {label}: names are compared in any case, with blanks, "
                "_ and - alike. Leave one out."
            )
        known[folded(label)] = label


def _check_positive(positive: Sequence[str], classes: Sequence[str]) -> None:
    shown = f"task.positive=[{', '.join(map(printable, positive))}]"
    for label in positive:
        if label not in classes:
            raise ConfigError(f"{shown}: {printable(label)} is no class of the task.{nearest(label, classes)} {_one_of(classes)}")
    if not positive or len({*positive}) != len(positive) or len(positive) == len(classes):
        raise ConfigError(
            f"{shown} must hold one class or more, each once, and leave one out: positive classes are separated from the others. "
            f"{_one_of(classes)}"
        )


def _check_synonyms(synonyms: Iterable[tuple[str, Sequence[str]]], classes: Sequence[str]) -> None:
    known = {folded(label): label for label in classes}
    for label, words in synonyms:
        if label not in classes:
            raise ConfigError(
                f"task.synonyms.{printable(label)} names no class of the task.{nearest(label, classes)} {_one_of(classes)}"
            )
        for word in words:
            if not isinstance(word, str) or not word.strip() or UNPRINTABLE.search(word):
                raise ConfigError(f"task.synonyms.{label}={printable(word)!r} can't name a class. Use printable text.")
            other = known.setdefault(folded(word), label)
            if other != label:
                raise ConfigError(
                    f"task.synonyms.{label}={word} names the class {other} too, so its images would be of two classes. Leave it "
                    "out of one."
                )


def _one_of(classes: Sequence[str]) -> str:
    return f"Classes are {', '.join(classes)}."


TASKS: Final[dict[str, Task]] = {}  # the built-in ones; conf/task has a file of each
SUBTYPE: Final = Task.of("subtype", LABELS)
PNEUMONIA: Final = Task.of("pneumonia", (NORMAL, UNKNOWN_KIND), synonyms={UNKNOWN_KIND: (VIRUS, BACTERIA)})
TASKS.update({task.name: task for task in (SUBTYPE, PNEUMONIA)})


def positive_of(questions: Sequence[str]) -> Sequence[str]:
    """Return the positive classes of a task with these :attr:`Task.questions`."""
    return questions[1:] or questions


def in_class_order(labels: Iterable[str]) -> list[str]:
    """Return each label once: the labels of the built-in tasks in the order of their classes, then all others by name."""
    known = (*LABELS, UNKNOWN_KIND)
    return sorted(set(labels), key=lambda label: (known.index(label) if label in known else len(known), label))
