"""The typed content of ``result.json``, written at the end of a training and checked when it is read."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeVar

from pneumonia.config.convert import class_name, from_plain, task_node
from pneumonia.config.schema import TrainConfig
from pneumonia.data.splits.leaks import Leak
from pneumonia.errors import RunError, some
from pneumonia.runs.folder import RunFolder
from pneumonia.system.files import write_json
from pneumonia.tasks import Task

COMPLETED: Final = "completed"  # training ended as its config says
DEBUG: Final = "debug"  # training was shortened for debugging
REMEDY: Final = (
    "Delete it and run the same `pneumonia train` again, which resumes from the last checkpoint; or use force=true to "
    "train from the start."
)
T = TypeVar("T")


@dataclass(frozen=True)
class RunData:
    """The images of a run.

    Attributes:
        manifest_sha256: Hash of all images and labels.
        split_sha256: Hash of the split.
        train, val, test: Number of images.
        leaks: Subsets that share patients or copies of an image with the training images.
        skipped: Unreadable images that were left out, with the reason.
        phantoms: Whether most training images are drawn phantoms.
    """

    manifest_sha256: str
    split_sha256: str
    train: int
    val: int
    test: int
    leaks: list[Leak]
    skipped: dict[str, str]
    phantoms: bool

    def count(self, subset: str) -> int:
        """Return the number of images of a subset."""
        return {"train": self.train, "val": self.val, "test": self.test}[subset]

    def to_json(self) -> dict[str, object]:
        """Return the content of the key ``data``."""
        return {**asdict(self), "leaks": [leak.to_json() for leak in self.leaks]}


@dataclass(frozen=True)
class Confusion:
    """``(K, K)`` counts by true class (rows) and predicted class (columns)."""

    classes: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class Cost:
    """Time, memory and money of a training; rates exclude validation."""

    device: str
    precision: str
    fit_s: float
    images_per_s: float | None
    batches_per_s: float | None
    peak_memory_mib: float
    usd: float | None


@dataclass(frozen=True)
class RunResult:
    """The outcome of a training.

    Attributes:
        status: :data:`COMPLETED` or :data:`DEBUG`.
        shortened_by: The overrides that shortened a training of status :data:`DEBUG`.
        name: Name of the run or its sweep.
        run_id: See :func:`pneumonia.runs.identity.run_identity`.
        config: The resolved config.
        epochs: Number of trained epochs.
        best_epoch: Epoch of ``best.ckpt``, counted from 1.
        metrics: Values by subset (``train``, ``val``) and metric; ``None`` where undefined.
        confusion: Of the validation images.
        versions: Versions of the packages that decide a result.
    """

    status: str
    shortened_by: list[str]
    name: str
    run_id: str
    config: TrainConfig
    data: RunData
    epochs: int
    best_epoch: int
    metrics: dict[str, dict[str, float | None]]
    confusion: Confusion
    cost: Cost
    versions: dict[str, str]

    @property
    def completed(self) -> bool:
        """Whether training ended as the config says."""
        return self.status == COMPLETED

    @property
    def shortened(self) -> str:
        """Why a result of status :data:`DEBUG` is not usable, as the end of a sentence."""
        return f"was shortened for debugging by {some(self.shortened_by)}, so its metrics and weights are no result"

    @property
    def task(self) -> Task:
        return self.config.task.build()

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def family(self) -> str:
        """Class of the model, for example ``PseudoResNet``."""
        return class_name(self.config.model)

    def write(self, folder: RunFolder) -> None:
        """Write ``result.json`` atomically, as the last file of a run."""
        values = asdict(self) | {"data": self.data.to_json()}
        facts = {"task": self.task.name, "classes": list(self.task.classes), "seed": self.seed}
        write_json(folder.result, {**values, **facts, "model": values["config"]["model"]})


def read_result(folder: RunFolder) -> RunResult | None:
    """Read the result of a run that has nothing left to train; ``None`` while there is none.

    Raises:
        RunError: ``result.json`` is damaged.
    """
    if not folder.result.is_file():
        return None
    try:
        found = json.loads(folder.result.read_text(encoding="utf-8"))
        return _result(found) if found["status"] in {COMPLETED, DEBUG} else None
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {some(error.args)}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise RunError(f"{folder.result} is damaged: {reason}. {REMEDY}") from error


def _result(found: Mapping[str, Any]) -> RunResult:
    _check_keys(found, ("task", *(item.name for item in fields(RunResult))))
    config = found["config"]
    later = {item.name for item in fields(TrainConfig) if item.metadata.get("added_later", False)}
    _check_keys(config, [item.name for item in fields(TrainConfig) if item.name not in later], "config.")
    name = task_node(config["task"]).name
    if found["task"] != name:
        raise ValueError(f"task={found['task']}, and config.task has the name {name}")
    leaks = [Leak(leak["part"], leak["images"], leak["of"], leak["example"]) for leak in found["data"].get("leaks", ())]
    data = _typed(RunData, found["data"], "data.", leaks=leaks)
    confusion = _typed(Confusion, found["confusion"], "confusion.")
    cost = _typed(Cost, found["cost"], "cost.")
    return _typed(RunResult, found, "", config=from_plain(config), data=data, confusion=confusion, cost=cost)


def _typed(kind: type[T], found: Mapping[str, Any], prefix: str, **converted: Any) -> T:
    names = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    _check_keys(found, names, prefix)
    return kind(**{name: found[name] for name in names} | converted)


def _check_keys(found: Mapping[str, Any], keys: Any, prefix: str = "") -> None:
    if lacking := [prefix + key for key in keys if key not in found]:
        raise KeyError(*lacking)
