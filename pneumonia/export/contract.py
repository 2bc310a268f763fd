"""Define ``contract.json``, all that a bundle promises: the type, the range and the meaning of each field."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from pneumonia.config.names import NORMALISATIONS, RESIZES, TTA
from pneumonia.metrics.calibration import TEMPERATURE_RANGE
from pneumonia.system.files import digest
from pneumonia.tasks import TASKS, Task, positive_of

SCHEMA_VERSION: Final = 3  # 3: `ood_detector`, `preprocessing`; 2: thresholds on the calibrated scale
OPSET: Final = 20  # of the ONNX graphs; another opset may compute differently
CONTRACT: Final = "contract.json"
MODEL: Final = "model.onnx"
OOD_DETECTOR: Final = "ood_detector.npz"
ARCHIVE: Final = "model.tar.gz"
MAX_TEXT: Final = 10_000  # characters
MAX_METRIC: Final = 1e300
LOSS: Final = "loss"  # the metric that may exceed 1
ROUNDING: Final = 1e-9  # of a coverage
SPACES: Final = "\n\t\u3000\u00a0\u202f\u2009"  # allowed besides printable characters


def _check_text(text: str) -> str:
    if not text.strip() or not all(letter.isprintable() or letter in SPACES for letter in text):
        raise PydanticCustomError("text", "Text should not be blank and should have no control characters")
    return text


def _one_of(*choices: str | int) -> AfterValidator:
    def check(value: str | int) -> str | int:
        if value not in choices:
            raise PydanticCustomError("choice", f"Input should be one of {', '.join(map(str, choices))}")
        return value

    return AfterValidator(check)


Text = Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(_check_text)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]  # from a list, as JSON has it
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,99}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(ge=0.001, le=1)]
Count = Annotated[int, Field(ge=0, le=2**53)]
PositiveCount = Annotated[int, Field(ge=1, le=2**53)]
FileName = Literal["model.onnx", "ood_detector.npz"]
Metric = Annotated[float, Field(ge=0, le=MAX_METRIC)] | None  # null where undefined


class Section(BaseModel):
    """A part of the contract. It is immutable, has every field and no other, and converts no type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    at_most: ClassVar[dict[str, str]] = {}  # fields that must not exceed another field

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for name, limit in self.at_most.items():
            if getattr(self, name) > getattr(self, limit):
                raise ValueError(f"{name}={getattr(self, name)} should be at most {limit}={getattr(self, limit)}")
        return self


class Explained(Section):
    """Values that are either all given, or all null with a reason."""

    nullable: ClassVar[tuple[str, ...]]
    reason: Text | None

    @model_validator(mode="after")
    def _check_reason(self) -> Self:
        if {getattr(self, name) is None for name in self.nullable} != {self.reason is not None}:
            raise ValueError(f"{', '.join(self.nullable)} should be given without a reason, or null with a reason")
        return self


class ModelInfo(Section):
    """The exported run: its name and id, the class of its model, and the epoch of its weights, counted from 1."""

    model_config = ConfigDict(regex_engine="python-re")  # for the look-ahead

    name: Annotated[str, StringConstraints(pattern=r"^(?!\.{1,2}\Z)[^/\\\x00-\x1f\x7f]{1,255}\Z")]
    run_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}\Z")]
    family: Word
    seed: int = Field(ge=0, lt=2**32)
    epoch: PositiveCount

    @property
    def version(self) -> str:
        """``name/run_id``."""
        return f"{self.name}/{self.run_id}"


class Normalization(Section):
    """``(grey - shift) / scale``, part of the graph."""

    method: Annotated[str, _one_of(*NORMALISATIONS)]
    shift: float = Field(ge=-1e6, le=1e6)
    scale: float = Field(ge=1e-6, le=1e6)


class Preprocessing(Section):
    """From an image file to the input of the graph; see :func:`pneumonia.data.images.decode.decode`.

    ``size`` is in pixels a side, ``decoder`` the version of the decoding, ``channels`` the inputs of the network, to which the
    graph repeats its one grey channel. Test-time augmentation (``tta``) is part of the graph.
    """

    size: int = Field(ge=8, le=2048)
    resize: Annotated[str, _one_of(*RESIZES)]
    decoder: Text
    channels: Annotated[int, _one_of(1, 3)]
    normalisation: Normalization
    tta: Annotated[str, _one_of(*TTA)]


class Calibration(Explained):
    """The temperature fitted on ``images`` validation images, or why there is none."""

    nullable = ("temperature",)

    temperature: float | None = Field(ge=TEMPERATURE_RANGE[0], le=TEMPERATURE_RANGE[1])
    images: Count


class OperatingPoint(Explained):
    """A binary question. Calibrated scores from ``threshold`` on are positive, with this sensitivity in validation."""

    nullable = ("threshold",)

    positive: Text
    sensitivity: PositiveShare
    threshold: Share | None


class Abstention(Explained):
    """The model abstains where its highest calibrated probability is below ``confidence``.

    ``coverage`` is the fraction of validation images with a prediction, at least ``target``; ``risk`` the error rate of these.
    """

    nullable = ("confidence", "coverage", "risk")

    target: PositiveShare
    confidence: Share | None
    coverage: PositiveShare | None
    risk: Share | None

    @model_validator(mode="after")
    def _check_coverage(self) -> Self:
        if self.coverage is not None and self.coverage < self.target - ROUNDING:
            raise ValueError(f"coverage={self.coverage} should be at least target={self.target}")
        return self


class OodDetectorInfo(Section):
    """The out-of-distribution detector, and its ``false_alarms`` among ``measured_on`` X-rays that it was not fitted on."""

    at_most = {"prototypes": "fitted_on", "false_alarms": "measured_on"}

    threshold: float = Field(gt=0, le=2)
    prototypes: PositiveCount
    side: int = Field(ge=1, le=2048)
    fitted_on: PositiveCount
    false_alarms: Count
    measured_on: PositiveCount

    @property
    def false_alarm_rate(self) -> float:
        return self.false_alarms / self.measured_on


class Parity(Section):
    """Differences between bundle and trained model over the validation images, from file bytes to probabilities.

    ``max_difference`` is the largest difference of a probability, ``changed_labels`` the number of images with another label:
    uncalibrated and calibrated against torch, and uncalibrated against the predictions that the run recorded.
    """

    at_most = dict.fromkeys(("changed_labels", "changed_labels_calibrated", "changed_labels_recorded"), "images")

    passed: bool
    images: PositiveCount
    tolerance: float = Field(gt=0, le=0.01)
    max_difference: Share
    max_difference_calibrated: Share
    max_difference_recorded: Share
    changed_labels: Count
    changed_labels_calibrated: Count
    changed_labels_recorded: Count

    @model_validator(mode="after")
    def _check_result(self) -> Self:
        largest = max(self.max_difference, self.max_difference_calibrated)
        changed = max(self.changed_labels, self.changed_labels_calibrated)
        if self.passed and (largest > self.tolerance or changed):
            raise ValueError(f"passed=true contradicts max_difference={largest:.2g} and changed_labels={changed}")
        return self


class SubsetLeak(Section):
    """How many of the ``total`` images of a subset share a patient with, or copy, a training image."""

    at_most = {"images": "total"}

    subset: Word
    images: Count
    total: Count


class DataInfo(Section):
    """The images of the run: hashes, split method, number of images by subset, leaks."""

    source: Word
    manifest_sha256: Sha256
    split_sha256: Sha256
    split: Word
    train: PositiveCount
    val: PositiveCount
    test: Count
    leaks: Annotated[tuple[SubsetLeak, ...], Field(strict=False)]


class Interval(Section):
    """A metric with its 95% interval."""

    value: Metric
    low: Metric
    high: Metric


class TestMetrics(Section):
    """An evaluation of the run on its test split."""

    images: PositiveCount
    patients: PositiveCount
    metrics: dict[Key, Interval]


class MetricInfo(Section):
    """Metrics of the validation split; those of the test split where the run was evaluated on it."""

    val: dict[Key, Metric]
    test: TestMetrics | None

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if "accuracy" not in self.val:
            raise ValueError("val.accuracy is missing")
        test = {} if self.test is None else self.test.metrics
        found = [*self.val.items(), *((name, end) for name in test for end in test[name].model_dump().values())]
        for name, value in found:
            if value is not None and value > 1 and name != LOSS:
                raise ValueError(f"{name}={value} should be at most 1")
        return self


class OnnxInfo(Section):
    """Versions of the graph."""

    opset: int = Field(ge=1, le=1000)
    ir_version: int = Field(ge=1, le=1000)


class Contract(Section):
    """The content of ``contract.json``.

    Attributes:
        digest: SHA-256 of all other fields; see :meth:`with_digest`.
        task: Its name.
        classes: In the order of the outputs.
        operating_points: Of the questions of the task: the positive classes together, then each of several.
        licence: Terms of the weights.
        warnings: The limitations that make every prediction useless, such as a model that predicts one class.
        limitations: Sentences with the measured values.
        caveat: What users must know of the scores where they are no probabilities; else empty.
        files: SHA-256 by name.
        versions: Versions of the exporting packages.
    """

    schema_version: Literal[3] = SCHEMA_VERSION
    digest: Sha256 = ""
    task: Text
    classes: Annotated[Texts, Field(min_length=2)]
    model: ModelInfo
    preprocessing: Preprocessing
    calibration: Calibration
    operating_points: Annotated[tuple[OperatingPoint, ...], Field(min_length=1, strict=False)]
    abstention: Abstention
    ood_detector: OodDetectorInfo
    parity: Parity
    data: DataInfo
    metrics: MetricInfo
    licence: Text
    intended_use: Text
    warnings: Texts
    limitations: Annotated[Texts, Field(min_length=1)]
    caveat: Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(lambda text: text and _check_text(text))]
    files: Annotated[dict[FileName, Sha256], Field(min_length=2)]
    onnx: OnnxInfo
    versions: dict[Word, Text]

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        """Refuse sections that contradict each other."""
        images, positive = self.parity.images, tuple(point.positive for point in self.operating_points)
        task = TASKS.get(self.task) or Task.of(self.task, self.classes, positive_of(positive))
        if self.classes != task.classes:
            raise ValueError(f"classes={self.classes} should be {task.classes}, those of task={task.name}")
        if positive != task.questions:
            raise ValueError(f"operating_points={positive} should be {task.questions}, the questions of task={task.name}")
        if images != self.data.val:
            raise ValueError(f"parity.images={images} should be data.val={self.data.val}")
        if self.calibration.images != images and (self.calibration.images or self.calibration.temperature is not None):
            raise ValueError(f"calibration.images={self.calibration.images} should be parity.images={images}")
        if not {*self.warnings} <= {*self.limitations}:
            raise ValueError("warnings should be among the limitations")
        return self

    @property
    def bundle_version(self) -> str:
        """Twelve hexadecimal digits that identify every byte of the bundle."""
        return self.digest[:12]

    def with_digest(self) -> "Contract":
        """Return a copy with its digest."""
        return self.model_copy(update={"digest": digest_of(self.model_dump(mode="json"))})


def digest_of(plain: Mapping[str, object]) -> str:
    """Return the SHA-256 of all fields but ``digest``."""
    return digest({key: value for key, value in plain.items() if key != "digest"})
