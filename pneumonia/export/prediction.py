"""Define the prediction of a bundle for one image, and decide its binary questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, Field

from pneumonia.export.contract import Calibration, OperatingPoint
from pneumonia.tasks import positive_of

ROUNDING: Final = 1e-6  # of arithmetic on another machine; must not decide on the image that a threshold was taken from


class Prediction(BaseModel):
    """The prediction for one image; all but `raw` is on the scale of `probabilities`."""

    label: str | None = Field(
        description="The most probable class; null where `abstained` or `out_of_distribution`", examples=["BACTERIA"]
    )
    probabilities: dict[str, float] = Field(description="By class; calibrated where `calibrated` is true")
    raw: dict[str, float] = Field(description="By class, uncalibrated, as the network and `pneumonia evaluate` give them")
    calibrated: bool = Field(description="Whether the bundle has a temperature")
    temperature: float | None = Field(description="The divisor of the logits")
    confidence: float = Field(description="The highest of `probabilities`")
    abstained: bool = Field(description="`confidence` is below the threshold of the contract: a person must read the image")
    out_of_distribution: bool = Field(
        description="The image does not look like the X-rays of the training: no probability means anything"
    )
    ood_score: float = Field(description="Distance from the X-rays of the training, 0 to 2")
    ood_threshold: float = Field(description="An image with a higher `ood_score` is out of distribution")
    decisions: dict[str, bool | None] = Field(
        description="Each binary question at its threshold; null where there is none, and where `label` is null"
    )
    bundle_version: str
    model_version: str = Field(description="The exported run")

    @property
    def most_probable(self) -> str:
        """The most probable class, also where the bundle gives no label."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


class RunPrediction(BaseModel):
    """The prediction of a run for one image, with the fields of :class:`Prediction`.

    A run has no out-of-distribution detector and no target coverage, so some are always null.
    """

    label: str
    probabilities: dict[str, float]
    raw: dict[str, float]
    calibrated: bool
    temperature: float | None
    confidence: float
    abstained: None = None
    out_of_distribution: None = None
    ood_score: None = None
    ood_threshold: None = None
    decisions: dict[str, bool | None]
    bundle_version: None = None
    model_version: str


@dataclass(frozen=True)
class PredictedFile:
    """An image file with its prediction, or with the reason why it can't be read.

    Attributes:
        image: Path of the file.
        prediction: ``None`` if the file can't be read.
        error: Why it can't be read.
        explanation: Path of a picture that explains the prediction, if one was drawn.
    """

    image: str
    prediction: Prediction | RunPrediction | None = None
    error: str = ""
    explanation: str = ""

    def to_json(self) -> dict[str, object]:
        """Return ``image`` with the fields of the prediction and ``explanation``, or with ``error``."""
        if self.prediction is None:
            return {"image": self.image, "error": self.error}
        drawn = {"explanation": self.explanation} if self.explanation else {}
        return {"image": self.image, **self.prediction.model_dump(), **drawn}


def rounding(calibration: Calibration) -> float:
    """Return the rounding error of a calibrated probability; a temperature below 1 magnifies it."""
    return ROUNDING / min(calibration.temperature or 1.0, 1.0)


def decide(
    points: Sequence[OperatingPoint],
    classes: Sequence[str],
    probabilities: Sequence[float],
    calibration: Calibration,
) -> dict[str, bool | None]:
    """Decide for each binary question whether its score reaches its threshold; ``None`` where there is no threshold.

    The score of a class is its probability, that of the first question 1 minus the probability of all classes that are not
    positive.

    Args:
        points: The :attr:`pneumonia.tasks.Task.questions`.
        classes: Of the task.
        probabilities: ``(K,)``, calibrated.
        calibration: That of the probabilities.
    """
    by_class = dict(zip(classes, probabilities, strict=True))
    positive = positive_of([point.positive for point in points])
    together = 1 - sum(probability for name, probability in by_class.items() if name not in positive)
    decisions: dict[str, bool | None] = {}
    for number, point in enumerate(points):
        score = by_class[point.positive] if number else together
        decisions[point.positive] = None if point.threshold is None else score >= point.threshold - rounding(calibration)
    return decisions
