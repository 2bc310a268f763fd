"""The routes: SageMaker's two, the contract, the figures, the OpenAPI page, and the page for people."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from pneumonia import __version__
from pneumonia.bundle.answers import Answer, Bundle
from pneumonia.serve.answer_form import OnePrediction, Predictions, Refused, as_json
from pneumonia.serve.desk import Desk
from pneumonia.serve.guard import Guard
from pneumonia.serve.intake import DICOM, JPEG, JSON, PNG, media_type
from pneumonia.serve.limits import Limits
from pneumonia.serve.page import Page
from pneumonia.serve.refusal import Refusal
from pneumonia.serve.telemetry import Figures

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
BODY: Final = {
    "required": True,
    "content": {
        JPEG: BYTES,
        PNG: BYTES,
        DICOM: BYTES,
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
REMEDIES: Final = {404: "The paths are listed at /docs.", 405: "The methods of each path are listed at /docs."}


class Service:
    """A bundle as an ASGI app.

    Args:
        bundle: That answers.
        limits: Of what one caller may ask.
        token: That callers must know; ``None`` where any may ask.
        page: Whether there is a page at ``/``.
    """

    def __init__(self, bundle: Bundle, limits: Limits, token: str | None = None, page: bool = True) -> None:
        contract = bundle.contract
        self.desk = Desk(bundle, limits)
        self.figures = Figures(contract.bundle_version, contract.model.version)
        self.page = Page(self.desk, self.count) if page else None
        self.guard = Guard(self._routes(), limits, self.figures, token)

    def count(self, answers: list[Answer]) -> None:
        """Counts answered images."""
        for one in answers:
            flags = str(one.abstained).lower(), str(one.out_of_distribution).lower()
            self.figures.images.labels(one.label or "none", *flags).inc()

    @asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        await self.desk.run(self.desk.warm_up)
        yield
        if self.page is not None:
            await self.page.close()
        self.desk.close()

    def _routes(self) -> FastAPI:
        app = FastAPIOffline(
            title="pneumonia",
            version=__version__,
            description=ABOUT,
            redoc_url=None,
            lifespan=self._life,
        )
        app.add_exception_handler(Refusal, _refused)
        app.add_exception_handler(HTTPException, _not_there)
        app.add_exception_handler(Exception, _failed)
        contract = self.desk.bundle.contract
        versions = {"bundle_version": contract.bundle_version, "model_version": contract.model.version}

        @app.head("/ping", include_in_schema=False)
        @app.get("/ping", tags=["health"])
        async def ping() -> dict[str, str]:
            """200 once the bundle is loaded and can answer; needs no token."""
            return {"status": "ready", **versions}

        responses: dict[int | str, dict[str, Any]] = {
            status: {"model": Refused, "description": text} for status, text in REFUSALS.items()
        }
        responses[200] = {
            "model": OnePrediction | Predictions,
            "description": "One object, or a list where `images` was sent",
        }

        @app.post("/invocations", tags=["answers"], responses=responses, openapi_extra={"requestBody": BODY})
        async def invocations(request: Request) -> Response:
            """Probabilities by class of one image (raw bytes, or `image` in JSON) or of several (`images` in JSON)."""
            began = time.perf_counter()
            kind = media_type(request.headers.get("content-type", ""))
            packed = request.headers.get("content-encoding", "identity")
            if packed.strip().lower() != "identity":
                raise Refusal(415, f"Content-Encoding {packed[:50]!r} is not read here.", "Send the bytes as they are.")
            asked, answers = await self.desk.run(partial(self.desk.work, await request.body(), kind))
            self.count(answers)
            request.scope["told"] |= {"images": len(answers), "labels": [one.label for one in answers]}
            return JSONResponse(as_json(answers, asked.several, (time.perf_counter() - began) * 1000))

        @app.get("/contract", tags=["about"])
        async def promises() -> dict[str, Any]:
            """What the bundle promises: classes, preprocessing, thresholds, measured limits, hashes."""
            return contract.as_dict()

        @app.get("/metrics", tags=["health"], response_class=Response)
        async def metrics() -> Response:
            """Figures for Prometheus."""
            return Response(self.figures.text(), media_type=CONTENT_TYPE_LATEST)

        if self.page is not None:
            app.mount("/", self.page)
        return app


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _response(error)


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    reason = f"{request.method} {request.url.path[:100]}: {HTTPStatus(status).phrase.lower()}."
    return _response(Refusal(status, reason, REMEDIES.get(status, "See /docs."), dict(error.headers or {})))


async def _failed(request: Request, _: Exception) -> Response:  # the guard logs it, with its trace
    return _response(Refusal(500, "The service failed.", "Report it with the X-Request-Id of this answer."))


def _response(refusal: Refusal) -> Response:
    return Response(refusal.body, refusal.status, headers=refusal.headers, media_type=JSON)
