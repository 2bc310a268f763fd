"""Assemble the service: a bundle, its threads, the routes, and the middleware around them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from pneumonia import __version__
from pneumonia.export.contract import ModelInfo
from pneumonia.export.runtime import Bundle
from pneumonia.serving.inference_pool import InferencePool
from pneumonia.serving.limits import Limits
from pneumonia.serving.middleware import Middleware
from pneumonia.serving.open_inference_routes import add_open_inference_routes
from pneumonia.serving.page import EXAMPLES, HTML, Asset, docs_assets, example, page_assets
from pneumonia.serving.problem import Problem
from pneumonia.serving.request_parsing import JPEG, JSON
from pneumonia.serving.routes import add_routes
from pneumonia.serving.telemetry import PAGE, Metrics

ABOUT: Final = "Classifies chest X-rays with a bundle. **Not a medical device**; no output may be used to decide about a person."
REMEDIES: Final = {404: "The paths are listed at /docs.", 405: "The methods of each path are listed at /docs."}


class Service:
    """The ASGI app of a bundle.

    Args:
        bundle: Predicts.
        limits: Of what one caller may use.
        token: Callers must send it; ``None`` where anyone may call.
        page: Whether there is a page at ``/``.
    """

    def __init__(self, bundle: Bundle, limits: Limits, token: str | None = None, page: bool = True) -> None:
        contract = bundle.contract
        self.pool = InferencePool(bundle, limits)
        self.metrics = Metrics(contract.bundle_version, contract.model.version)
        app = self._app(page)
        self.asgi = Middleware(app, limits, self.metrics, token, _route_names(app, contract.model))

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        yield
        self.pool.close()

    def _app(self, page: bool) -> FastAPI:
        app = FastAPI(
            title="pneumonia",
            version=__version__,
            description=ABOUT,
            docs_url=None,
            redoc_url=None,
            swagger_ui_oauth2_redirect_url=None,
            redirect_slashes=False,
            servers=[{"url": "."}],  # relative to the schema, so that a proxy may serve everything below a path
            lifespan=self._lifespan,
        )
        app.add_exception_handler(Problem, _problem)
        app.add_exception_handler(HTTPException, _http_error)
        add_routes(app, self.pool, self.metrics)
        add_open_inference_routes(app, self.pool, self.metrics)
        assets = docs_assets()
        if page:
            assets |= page_assets(self.pool.bundle.contract, self.pool.limits)
            for name in EXAMPLES:
                app.get(f"/examples/{name}", include_in_schema=False, name=PAGE)(self._example(name))
        for path, asset in assets.items():
            name = "" if asset.media_type == HTML else PAGE
            app.get(path, include_in_schema=False, name=name)(_asset(asset))
        return app

    def _example(self, name: str) -> Callable[[], Awaitable[Response]]:
        async def send() -> Response:
            return Response(await self.pool.run(partial(example, name)), media_type=JPEG)

        return send


def _route_names(app: FastAPI, model: ModelInfo) -> dict[str, str]:
    """Return the names in logs and metrics of all paths of a service; the templates of paths that name the model."""
    paths = {route.path: PAGE if route.name == PAGE else route.path for route in app.routes if isinstance(route, Route)}
    return {path.replace("{name}", model.name).replace("{version}", model.run_id): name for path, name in paths.items()}


def _asset(asset: Asset) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(asset.content, media_type=asset.media_type)

    return send


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    problem = error.on(request.scope["path"])
    return Response(problem.body, problem.status, headers=problem.headers, media_type=JSON)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    reason = f"{request.method[:20]} {request.scope['path'][:100]}: {HTTPStatus(status).phrase.lower()}."
    headers = {"Allow": _allowed_methods(request)} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}
    return await _problem(request, Problem(status, reason, REMEDIES.get(status, "See /docs."), headers))


def _allowed_methods(request: Request) -> str:
    """Return the methods of a path, which RFC 9110 requires of every 405."""
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    found = {method for route in matching for method in route.methods}
    return ", ".join(sorted(found | {"HEAD"} if "GET" in found else found))
