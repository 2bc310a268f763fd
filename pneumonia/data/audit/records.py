"""The findings of an audit as typed records; ``audit.json`` holds their fields."""

from dataclasses import dataclass, field

from pneumonia.tasks import in_class_order

Interval = tuple[float | None, float | None, float | None]  # a value and its 95% bounds


@dataclass(frozen=True)
class Score:
    """How well a baseline predicts classes or subsets.

    Bounds are 95%, by group; AUROC is macro, one class against the rest. An undefined value is ``None``, with its ``reason``;
    bounds are ``None`` too if no resample differs. ``largest_class`` is the accuracy of always predicting it.
    """

    reason: str | None
    n: int  # images
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    balanced_accuracy: float | None = None
    balanced_accuracy_low: float | None = None
    balanced_accuracy_high: float | None = None
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    largest_class: float | None = None

    @property
    def least_auroc(self) -> float:
        """The lower bound of the AUROC; the AUROC itself without a bound, and 0 without either."""
        return next((value for value in (self.auroc_low, self.auroc) if value is not None), 0.0)

    @property
    def intervals(self) -> dict[str, Interval]:
        """Accuracy, balanced accuracy and AUROC, each with its bounds."""
        return {
            "accuracy": (self.accuracy, self.low, self.high),
            "balanced_accuracy": (self.balanced_accuracy, self.balanced_accuracy_low, self.balanced_accuracy_high),
            "auroc": (self.auroc, self.auroc_low, self.auroc_high),
        }


@dataclass(frozen=True)
class TaskScore(Score):
    """The cross-validated score of a task; ``on_val`` is that on val after a fit on train, where the audit has a split."""

    on_val: Score | None = None


@dataclass(frozen=True)
class Shift:
    """How well a classifier separates two subsets, from file metadata and from thumbnails."""

    subsets: tuple[str, str]
    metadata: Score
    thumbnail: Score

    @property
    def scores(self) -> dict[str, Score]:
        """The scores by the kind of their features."""
        return {"metadata": self.metadata, "thumbnail": self.thumbnail}


@dataclass(frozen=True)
class SubsetCounts:
    """Images, patients, and images by class."""

    images: int
    patients: int
    classes: dict[str, int]


@dataclass(frozen=True)
class SharedGroups:
    """Groups that two subsets or folds share: a leak."""

    subsets: tuple[str, str]
    groups: int
    images: dict[str, int]  # in shared groups, by subset
    share: dict[str, float]  # the same as fractions of the subset
    patients: int  # in both
    copies: int  # pairs of copies between the two
    examples: list[str]  # some of the patients


@dataclass(frozen=True)
class Duplicates:
    """Counts of all pairs of copies; an exact group is a set of byte-identical files."""

    exact_groups: int
    exact_images: int
    exact_pairs: int
    near_pairs: int
    across_patients: int
    across_subsets: int
    label_conflicts: int


@dataclass(frozen=True)
class Pair:
    """Two images that are one X-ray, by their ids; ``kind`` is ``exact`` or ``near``, ``bits`` their distance of 256."""

    first: str
    second: str
    kind: str
    bits: int
    first_patient: str
    second_patient: str
    first_label: str
    second_label: str
    first_subset: str
    second_subset: str


@dataclass(frozen=True)
class Audit:
    """All findings; ``leaks`` is empty if no group is in two subsets or two folds."""

    manifest_sha256: str
    images: int
    patients: int
    patients_by_class: dict[str, int]
    patients_known: bool  # whether any image names its patient
    images_without_patient: int
    groups: int
    subsets_from: str  # their origin
    subsets: dict[str, SubsetCounts]
    leaks: list[SharedGroups]
    duplicates: Duplicates
    pairs: list[Pair]  # of copies, the most serious first
    quantities: dict[str, dict[str, list[float] | None]]  # 5, 25, 50, 75 and 95% points by class; None if no image has it
    modes: dict[str, dict[str, int]]  # files by class and colour mode
    tasks: dict[str, str]  # title by name
    baselines: dict[str, dict[str, TaskScore]]  # by kind of features (metadata, thumbnail) and task
    shift: list[Shift]
    skipped: dict[str, str] = field(default_factory=dict)  # reasons by path of the images that can't be read

    @property
    def labels(self) -> list[str]:
        """The classes that occur, in class order."""
        return in_class_order(label for subset in self.subsets.values() for label in subset.classes)

    @property
    def subsets_and_all(self) -> dict[str, SubsetCounts]:
        """The counts of each subset, and the total if there are several."""
        subsets = self.subsets
        if len(subsets) < 2:
            return subsets
        counts = {label: sum(subset.classes.get(label, 0) for subset in subsets.values()) for label in self.labels}
        return {**subsets, "all": SubsetCounts(self.images, self.patients, counts)}
