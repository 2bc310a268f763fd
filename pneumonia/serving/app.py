"""The routes: SageMaker's two, explanations, the contract, metrics, the OpenAPI page, and the page for people."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.routing import Match

from pneumonia import __version__
from pneumonia.export.runtime import Bundle, Prediction
from pneumonia.serving.explanation import ExplanationForm
from pneumonia.serving.inference_pool import InferencePool
from pneumonia.serving.limits import Limits
from pneumonia.serving.middleware import Middleware
from pneumonia.serving.page import EXAMPLES, Asset, docs_assets, example, page_assets
from pneumonia.serving.problem import Problem
from pneumonia.serving.request_parsing import DICOM, JPEG, JSON, PNG, media_type
from pneumonia.serving.response_schema import OnePrediction, Predictions, ProblemBody, as_json
from pneumonia.serving.telemetry import Metrics

ABOUT: Final = (
    "Classifies chest X-rays with a bundle. **Not a medical device**; no output may be used to decide about a person."
)
REFUSALS: Final = {
    400: "Empty body, or not JSON",
    401: "No token, or a wrong one",
    408: "The request came too slowly",
    413: "Too many bytes, pixels or images",
    415: "Not JPEG, PNG, DICOM or JSON, or not what it says",
    422: "The image can't be read",
    429: "Too much at once; see Retry-After",
    503: "No answer in time; see Retry-After",
}
BYTES: Final = {"schema": {"type": "string", "format": "binary"}}
TEXT: Final = {"type": "string", "contentEncoding": "base64"}
FILE: Final = {JPEG: BYTES, PNG: BYTES, DICOM: BYTES}
BODY: Final = {
    "required": True,
    "content": {
        **FILE,
        JSON: {
            "schema": {
                "oneOf": [
                    {"type": "object", "required": ["image"], "properties": {"image": TEXT}},
                    {
                        "type": "object",
                        "required": ["images"],
                        "properties": {"images": {"type": "array", "items": TEXT, "minItems": 1}},
                    },
                ]
            }
        },
    },
}
NO_LABEL: Final = "none"
REMEDIES: Final = {404: "The paths are listed at /docs.", 405: "The methods of each path are listed at /docs."}


class Service:
    """A bundle as an ASGI app.

    Args:
        bundle: Answers.
        limits: Of what one caller may ask.
        token: Callers must know it; ``None`` where any may ask.
        page: Whether there is a page at ``/``.
    """

    def __init__(self, bundle: Bundle, limits: Limits, token: str | None = None, page: bool = True) -> None:
        contract = bundle.contract
        self.pool = InferencePool(bundle, limits)
        self.metrics = Metrics(contract.bundle_version, contract.model.version)
        self.middleware = Middleware(self._routes(page), limits, self.metrics, token)

    def count(self, answers: list[Prediction]) -> None:
        """Count answered images; without a label where the bundle commits to none."""
        for one in answers:
            flags = str(one.abstained).lower(), str(one.out_of_distribution).lower()
            self.metrics.images.labels(one.label or NO_LABEL, *flags).inc()

    @asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        yield
        self.pool.close()

    def _routes(self, page: bool) -> FastAPI:
        app = FastAPI(
            title="pneumonia",
            version=__version__,
            description=ABOUT,
            docs_url=None,
            redoc_url=None,
            swagger_ui_oauth2_redirect_url=None,
            redirect_slashes=False,
            servers=[{"url": "."}],  # relative to the schema, so that a proxy may put all below a path
            lifespan=self._life,
        )
        app.add_exception_handler(Problem, _refused)
        app.add_exception_handler(HTTPException, _not_there)
        bundle, limits = self.pool.bundle, self.pool.limits
        versions = {"bundle_version": bundle.contract.bundle_version, "model_version": bundle.contract.model.version}

        @app.get("/ping", tags=["health"])
        async def ping() -> dict[str, str]:
            """200 once the bundle is loaded and can answer; needs no token."""
            return {"status": "ready", **versions}

        refused: dict[int | str, dict[str, Any]] = {
            status: {"model": ProblemBody, "description": text} for status, text in REFUSALS.items()
        }
        answered = {
            "model": OnePrediction | Predictions,
            "description": "One object, or a list where `images` was sent",
        }

        @app.post(
            "/invocations", tags=["answers"], responses={**refused, 200: answered}, openapi_extra={"requestBody": BODY}
        )
        async def invocations(request: Request) -> Response:
            """Probabilities by class of one image (raw bytes, or `image` in JSON) or of several (`images` in JSON)."""
            began = time.perf_counter()
            kind = _kind(request)
            asked, answers = await self.pool.predict(await request.body(), kind)
            self.count(answers)
            request.scope["told"] |= {"images": len(answers), "labels": [one.label for one in answers]}
            return JSONResponse(as_json(answers, asked.several, _ms_since(began)))

        @app.post(
            "/explanation",
            tags=["answers"],
            responses=refused,
            openapi_extra={"requestBody": {"required": True, "content": FILE}},
        )
        async def explanation(request: Request) -> ExplanationForm:
            """One image (raw bytes) as it was decoded, and a heat map of the places on which its likeliest class depends."""
            began = time.perf_counter()
            kind = _kind(request)
            if kind == JSON:
                raise Problem(
                    415, f"Content-Type {JSON} is not read here.", "Send the bytes of one JPEG, PNG or DICOM file."
                )
            found = await self.pool.explain(await request.body(), kind)
            request.scope["told"] |= {"images": 1}
            return found.form(bundle, _ms_since(began))

        @app.get("/contract", tags=["about"])
        async def contract() -> dict[str, Any]:
            """What the bundle promises: classes, preprocessing, thresholds, measured limits, hashes."""
            return bundle.contract.as_dict()

        @app.get("/metrics", tags=["health"], response_class=Response)
        async def metrics() -> Response:
            """Metrics for Prometheus."""
            return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

        assets = docs_assets()
        if page:
            assets |= page_assets(bundle.contract, limits)
            for name in EXAMPLES:
                app.get(f"/examples/{name}", include_in_schema=False)(self._example(name))
        for path, asset in assets.items():
            app.get(path, include_in_schema=False)(_sends(asset))
        return app

    def _example(self, name: str) -> Callable[[], Awaitable[Response]]:
        async def send() -> Response:
            return Response(await self.pool.run(partial(example, name)), media_type=JPEG)

        return send


def _sends(asset: Asset) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(asset.content, media_type=asset.media_type)

    return send


def _kind(request: Request) -> str:
    """The media type of a body.

    Raises:
        Problem: 415, it is none that is read here, or packed.
    """
    kind = media_type(request.headers.get("content-type", ""))
    packed = request.headers.get("content-encoding", "identity")
    if packed.strip().lower() != "identity":
        raise Problem(415, f"Content-Encoding {packed[:50]!r} is not read here.", "Send the bytes as they are.")
    return kind


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _response(error)


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    reason = f"{request.method[:20]} {request.scope['path'][:100]}: {HTTPStatus(status).phrase.lower()}."
    headers = {"Allow": _allowed(request)} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}
    return _response(Problem(status, reason, REMEDIES.get(status, "See /docs."), headers))


def _allowed(request: Request) -> str:
    """The methods of a path, as RFC 9110 asks of every 405."""
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    found = {method for route in matching for method in route.methods}
    return ", ".join(sorted(found | {"HEAD"} if "GET" in found else found))


def _response(refusal: Problem) -> Response:
    return Response(refusal.body, refusal.status, headers=refusal.headers, media_type=JSON)
