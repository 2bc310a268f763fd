"""The routes of the HTTP API: SageMaker's two, explanations, the contract and metrics. The OpenAPI page describes them."""

import time
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from pneumonia.export.contract import Contract
from pneumonia.export.prediction import Prediction
from pneumonia.serving.exchange import LOG_FIELDS
from pneumonia.serving.explanation import Explanation
from pneumonia.serving.inference_pool import InferencePool
from pneumonia.serving.problem import Problem
from pneumonia.serving.request_parsing import DICOM, JPEG, JSON, PNG, media_type
from pneumonia.serving.telemetry import Metrics

PROBLEMS: Final = {
    400: "Empty body, or not JSON",
    401: "No token, or a wrong one",
    408: "The request arrived too slowly",
    413: "Too many bytes, pixels or images",
    415: "Not JPEG, PNG, DICOM or JSON, or not of the declared type",
    422: "The image can't be read",
    429: "Too many requests at once; see Retry-After",
    503: "No response in time; see Retry-After",
}
FILE: Final = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in (JPEG, PNG, DICOM)}
BASE64: Final = {"type": "string", "contentEncoding": "base64"}
ONE: Final = {"type": "object", "required": ["image"], "properties": {"image": BASE64}}
LIST: Final = {
    "type": "object",
    "required": ["images"],
    "properties": {"images": {"type": "array", "items": BASE64, "minItems": 1}},
}
FILE_BODY: Final = {"requestBody": {"required": True, "content": FILE}}
ANY_BODY: Final = {"requestBody": {"required": True, "content": {**FILE, JSON: {"schema": {"oneOf": [ONE, LIST]}}}}}
NO_LABEL: Final = "none"
MS: Final = Field(description="Milliseconds from the request to the response")


class TimedPrediction(Prediction):
    """The prediction of one image."""

    ms: float = MS


class TimedExplanation(Explanation):
    """The explanation of one image."""

    ms: float = MS


class Predictions(BaseModel):
    """The predictions of a list of images, in their order."""

    predictions: list[Prediction]
    bundle_version: str
    model_version: str
    ms: float


class ProblemBody(BaseModel):
    """Why a request failed."""

    error: str = Field(examples=["unprocessable_entity"])
    reason: str
    remedy: str


def add_routes(app: FastAPI, pool: InferencePool, metrics: Metrics) -> None:
    """Add the routes of a service to its app. Add a route here; the middleware applies limits, token, logs and metrics to it."""
    contract = pool.bundle.contract
    versions = {"bundle_version": contract.bundle_version, "model_version": contract.model.version}
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": ProblemBody, "description": text} for status, text in PROBLEMS.items()
    }
    predicted = {
        "model": TimedPrediction | Predictions,
        "description": "One object, or a list where `images` was sent",
    }

    @app.get("/ping", tags=["health"])
    async def ping() -> dict[str, str]:
        """200 once the bundle is loaded; needs no token."""
        return {"status": "ready", **versions}

    @app.post("/invocations", tags=["predictions"], responses={**problems, 200: predicted}, openapi_extra=ANY_BODY)
    async def invocations(request: Request) -> Response:
        """Probabilities by class of one image (raw bytes, or `image` in JSON) or of several (`images` in JSON)."""
        start = time.perf_counter()
        parsed, predictions = await pool.predict(await request.body(), _media_type(request))
        record_predictions(request, metrics, predictions)
        if parsed.is_list:
            body = Predictions(predictions=predictions, **versions, ms=_ms_since(start)).model_dump_json()
        else:
            body = TimedPrediction(**predictions[0].model_dump(), ms=_ms_since(start)).model_dump_json()
        return Response(body, media_type=JSON)

    @app.post("/explanation", tags=["predictions"], responses=problems, openapi_extra=FILE_BODY)
    async def explanation(request: Request) -> TimedExplanation:
        """One image (raw bytes), decoded, and a heat map of the places on which its most probable class depends."""
        start = time.perf_counter()
        kind = _media_type(request)
        if kind == JSON:
            raise Problem(415, f"Content-Type {JSON} is not supported here.", "Send the bytes of one JPEG, PNG or DICOM file.")
        found = await pool.explain(await request.body(), kind)
        request.scope[LOG_FIELDS] |= {"images": 1}
        return TimedExplanation(**found.model_dump(), ms=_ms_since(start))

    @app.get("/contract", tags=["about"], name="contract")
    async def show_contract() -> Contract:
        """The contract of the bundle: classes, preprocessing, thresholds, measured limits, hashes."""
        return contract

    @app.get("/metrics", tags=["health"], name="metrics", response_class=Response)
    async def show_metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def record_predictions(request: Request, metrics: Metrics, predictions: list[Prediction]) -> None:
    """Add the predictions of a request to the metrics and to its log line."""
    count_images(metrics, predictions)
    request.scope[LOG_FIELDS] |= {"images": len(predictions), "labels": [one.label for one in predictions]}


def count_images(metrics: Metrics, predictions: list[Prediction]) -> None:
    """Count predicted images by label; images without a label have their own."""
    for one in predictions:
        flags = str(one.abstained).lower(), str(one.out_of_distribution).lower()
        metrics.images.labels(one.label or NO_LABEL, *flags).inc()


def _media_type(request: Request) -> str:
    """Return the media type of a body, which must not be compressed."""
    kind = media_type(request.headers.get("content-type", ""))
    check_uncompressed(request)
    return kind


def check_uncompressed(request: Request) -> None:
    """Refuse a compressed body, whose size no limit would know.

    Raises:
        Problem: 415.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise Problem(415, f"Content-Encoding {encoding[:50]!r} is not supported.", "Send the bytes uncompressed.")


def _ms_since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 3)
