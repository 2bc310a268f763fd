"""The typed content of an evaluation's JSON file, checked when it is read; imports no torch."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pneumonia.metrics.bootstrap import Difference, Estimate
from pneumonia.metrics.calibration import CalibrationMetrics
from pneumonia.metrics.classification import defined
from pneumonia.metrics.thresholds import SelectivePrediction
from pneumonia.runs.identity import EvaluationIdentity
from pneumonia.runs.result import Confusion
from pneumonia.system.files import write_json
from pneumonia.system.records import parse_record

BASELINES: Final = ("metadata", "thumbnail")


@dataclass(frozen=True)
class Gain(Estimate):
    """The difference of a model and a baseline, with its p-value."""

    p: float | None

    @classmethod
    def of(cls, found: Difference) -> "Gain":
        """Return a difference with ``None`` where it is undefined."""
        return cls(*map(defined, (found.value, found.low, found.high, found.p)))


@dataclass(frozen=True)
class Baseline:
    """All metrics of a baseline, and some differences of the model and the baseline."""

    metrics: dict[str, Estimate]
    gain: dict[str, Gain]


@dataclass(frozen=True)
class Baselines:
    """The baselines of an evaluation, or why there are none."""

    reason: str | None
    metadata: Baseline | None = None
    thumbnail: Baseline | None = None

    def by_kind(self) -> dict[str, Baseline]:
        """Return the baselines by name; empty without them."""
        return {kind: found for kind in BASELINES if (found := getattr(self, kind)) is not None}


@dataclass(frozen=True)
class Calibrated(CalibrationMetrics):
    """Calibration and cross-entropy of calibrated probabilities."""

    loss: float


@dataclass(frozen=True)
class FittedOn:
    """The images on which the temperature was fitted, and whether they are the evaluated ones."""

    part: str
    n: int
    same_images: bool


@dataclass(frozen=True)
class Calibration(CalibrationMetrics):
    """Calibration of uncalibrated probabilities, and with the temperature (``scaled``), or the reason why there is none."""

    temperature: float | None
    reason: str | None
    fitted_on: FittedOn | None
    scaled: Calibrated | None


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold chosen on validation images and its metrics on the evaluated ones, or the reason why there is none."""

    positive: str
    wanted: dict[str, float]
    chosen_on: str
    threshold: float | None
    reason: str | None
    metrics: dict[str, Estimate] | None


@dataclass(frozen=True)
class PredictionValues:
    """What an evaluation computes from predictions alone.

    Attributes:
        split: The evaluated subset.
        n: Number of images.
        patients: Number of patients.
        metrics: With 95% intervals by patient.
        confusion: Images by true class and predicted class.
        calibration: Before and after temperature scaling.
        operating_points: One for each positive class.
        abstention: Selective prediction.
    """

    split: str
    n: int
    patients: int
    metrics: dict[str, Estimate]
    confusion: Confusion
    calibration: Calibration
    operating_points: list[OperatingPoint]
    abstention: SelectivePrediction


@dataclass(frozen=True)
class EvaluationResult(PredictionValues):
    """The content of the JSON file.

    Attributes:
        baselines: Models that see only file metadata or thumbnails.
        trained_on: Number of evaluated images that the model was trained on.
        phantoms: Whether most evaluated images are drawn phantoms.
        of: What was evaluated.
    """

    baselines: Baselines
    trained_on: int
    phantoms: bool
    of: EvaluationIdentity

    def write(self, path: Path) -> None:
        """Write the JSON file atomically, without the baselines that there are none of."""
        found = {kind: asdict(baseline) for kind, baseline in self.baselines.by_kind().items()}
        write_json(path, asdict(self) | {"baselines": {"reason": self.baselines.reason, **found}})


def read_evaluation(path: Path) -> EvaluationResult:
    """Read the JSON file of an evaluation.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, or older than this version; in one line.
    """
    return parse_record(EvaluationResult, path.read_bytes())
