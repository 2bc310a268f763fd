"""The JSON that the service answers with, and its schema for the OpenAPI page."""

from typing import Any

from pydantic import BaseModel, Field

from pneumonia.export.runtime import Prediction


class PredictionBody(BaseModel):
    """What the bundle predicts for one image; all but `raw` is on the scale of `probabilities`."""

    label: str | None = Field(
        description="The likeliest class; null where `abstained` or `out_of_distribution`", examples=["BACTERIA"]
    )
    probabilities: dict[str, float] = Field(description="By class; calibrated where `calibrated` is true")
    raw: dict[str, float] = Field(description="By class, as the network gives them, uncalibrated")
    calibrated: bool = Field(description="Whether the bundle has a temperature")
    temperature: float | None
    confidence: float = Field(description="The highest of `probabilities`")
    abstained: bool = Field(description="Too unsure: the image belongs before a person")
    out_of_distribution: bool = Field(
        description="Unlike the X-rays that the model knows: no probability here means anything"
    )
    ood_score: float = Field(description="How unlike them it is")
    ood_threshold: float
    decisions: dict[str, bool | None] = Field(
        description="Each yes-or-no question at its threshold; null where there is none, and where `label` is null"
    )
    bundle_version: str
    model_version: str


class OnePrediction(PredictionBody):
    """The answer to one image."""

    ms: float = Field(description="Milliseconds from the whole request to the answer")


class Predictions(BaseModel):
    """The answer to a list of images, in their order."""

    predictions: list[PredictionBody]
    bundle_version: str
    model_version: str
    ms: float


class ProblemBody(BaseModel):
    """Why a request is not answered."""

    error: str = Field(examples=["unprocessable_entity"])
    reason: str
    remedy: str


def as_json(answers: list[Prediction], several: bool, ms: float) -> dict[str, Any]:
    """The answer to a request.

    Args:
        answers: In the order of the images; at least one.
        several: Whether a list was asked.
        ms: Milliseconds that it took.
    """
    plain = [answer.as_dict() for answer in answers]
    if not several:
        return {**plain[0], "ms": round(ms, 3)}
    versions = {"bundle_version": answers[0].bundle_version, "model_version": answers[0].model_version}
    return {"predictions": plain, **versions, "ms": round(ms, 3)}
