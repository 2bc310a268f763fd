"""The routes of the Open Inference Protocol (V2), beside SageMaker's: health, metadata and inference."""

from functools import partial
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from pneumonia import __version__
from pneumonia.serving.inference_pool import InferencePool
from pneumonia.serving.open_inference import (
    BINARY,
    INPUT,
    NOT_BINARY,
    InferenceResponse,
    ModelMetadata,
    infer_response,
    model_metadata,
    parse_inference,
)
from pneumonia.serving.problem import OPEN_INFERENCE, Problem
from pneumonia.serving.request_parsing import JSON, media_type
from pneumonia.serving.routes import PROBLEMS, check_uncompressed, record_predictions
from pneumonia.serving.telemetry import Metrics

BINARY_HEADER: Final = "inference-header-content-length"
MODEL: Final = f"{OPEN_INFERENCE}/models/{{name}}"
VERSION: Final = f"{MODEL}/versions/{{version}}"
TENSOR: Final = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"const": INPUT},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"enum": ["BYTES", "UINT8", "FP32"]},
        "data": {"type": "array"},
    },
}
SCHEMA: Final = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": TENSOR, "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
}
BODY: Final = {"requestBody": {"required": True, "content": {JSON: {"schema": SCHEMA}}}}


class OpenInferenceError(BaseModel):
    """Why a request failed."""

    error: str


class ServerHealth(BaseModel):
    """The service runs."""

    live: bool = True
    ready: bool = True


class ServerMetadata(BaseModel):
    """Name and version of the service."""

    name: str = "pneumonia"
    version: str = __version__
    extensions: list[str] = []


class ModelReady(BaseModel):
    """The model can predict."""

    name: str
    ready: bool = True


def add_open_inference_routes(app: FastAPI, pool: InferencePool, metrics: Metrics) -> None:
    """Add the routes to an app; the middleware applies limits, token, logs and metrics to them as to all others."""
    contract = pool.bundle.contract
    model = contract.model
    described = model_metadata(contract)
    texts = {**PROBLEMS, 400: "Not of the protocol, or other tensors than the model has", 404: "No such model or version"}
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": OpenInferenceError, "description": text} for status, text in texts.items()
    }

    def check_model(name: str, version: str | None) -> None:
        if name != model.name:
            raise Problem(404, f"There is no model {name[:100]!r}.", f"The model is {model.name!r}.")
        if version not in {None, model.run_id}:
            raise Problem(404, f"There is no version {str(version)[:100]!r} of the model.", f"The version is {model.run_id!r}.")

    @app.get(f"{OPEN_INFERENCE}/health/live", tags=["open inference protocol"])
    @app.get(f"{OPEN_INFERENCE}/health/ready", tags=["open inference protocol"])
    async def health() -> ServerHealth:
        """200 once the bundle is loaded and has predicted a first image; needs no token."""
        return ServerHealth()

    @app.get(OPEN_INFERENCE, tags=["open inference protocol"])
    @app.get(f"{OPEN_INFERENCE}/", include_in_schema=False)
    async def server_metadata() -> ServerMetadata:
        """Name and version of the service, and the extensions of the protocol that it supports: none."""
        return ServerMetadata()

    @app.get(MODEL, tags=["open inference protocol"], responses={404: problems[404]}, response_model_exclude_none=True)
    @app.get(VERSION, tags=["open inference protocol"], responses={404: problems[404]}, response_model_exclude_none=True)
    async def describe_model(name: str, version: str | None = None) -> ModelMetadata:
        """Tensors that the model takes and returns."""
        check_model(name, version)
        return described

    @app.get(f"{MODEL}/ready", tags=["open inference protocol"], responses={404: problems[404]})
    @app.get(f"{VERSION}/ready", tags=["open inference protocol"], responses={404: problems[404]})
    async def model_ready(name: str, version: str | None = None) -> ModelReady:
        """200 once the model can predict."""
        check_model(name, version)
        return ModelReady(name=name)

    found = {"model": InferenceResponse, "description": "One tensor an output, in the order of the request"}

    @app.post(f"{MODEL}/infer", tags=["open inference protocol"], responses={**problems, 200: found}, openapi_extra=BODY)
    @app.post(f"{VERSION}/infer", tags=["open inference protocol"], responses={**problems, 200: found}, openapi_extra=BODY)
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        """Predictions of one image or of several, as tensors."""
        check_model(name, version)
        _check_json(request)
        parse = partial(parse_inference, await request.body(), contract, pool.limits)
        call, predictions = await pool.predict_parsed(parse)
        record_predictions(request, metrics, predictions)
        return Response(infer_response(call, contract, predictions).model_dump_json(exclude_none=True), media_type=JSON)


def _check_json(request: Request) -> None:
    """Refuse a body that is not plain JSON; clients of the protocol may leave out the content type."""
    check_uncompressed(request)
    if BINARY_HEADER in request.headers:
        raise Problem(400, BINARY, NOT_BINARY)
    kind = request.headers.get("content-type", "")
    if kind and media_type(kind) != JSON:
        raise Problem(415, f"Content-Type {kind[:100]!r} is not supported here.", f"Send {JSON}.")
