"""The page at ``/``: Gradio, loaded when someone first opens it, offline, answered at the same desk as everything else."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from pneumonia.bundle.answers import Answer
from pneumonia.bundle.occlusion import occlusion_map
from pneumonia.data.images import UnreadableImageError, decode, read_header
from pneumonia.labels import BACTERIA, NORMAL, VIRUS
from pneumonia.serve import page_words as words
from pneumonia.serve.desk import Desk
from pneumonia.serve.intake import check_file, unreadable
from pneumonia.serve.refusal import Refusal, busy
from pneumonia.serve.telemetry import ROUTES, tell

WAIT: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="1">
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<title>pneumonia</title><body style="font-family:system-ui;margin:3em">
<p>Loading the page; this takes some seconds the first time.</p>"""
# What the page needs of Gradio's routes. Its proxy, its file server for other sites, its API and its history stay shut.
NEEDED: Final = (
    "/assets/",
    "/static/",
    "/svelte/",
    "/gradio_api/queue/",
    "/gradio_api/upload",
    "/gradio_api/heartbeat/",
    "/gradio_api/file=/",
    "/gradio_api/startup-events",
    "/gradio_api/reset",
    "/gradio_api/cancel",
    "/gradio_api/info",
    "/gradio_api/app_id",
)
NEEDED_EXACTLY: Final = {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/gradio_api/theme.css"}
EXAMPLES: Final = {"Drawn, healthy": (NORMAL, 3), "Drawn, viral": (VIRUS, 4), "Drawn, bacterial": (BACTERIA, 5)}
KEEP_S: Final = 60  # an uploaded file that was never read is deleted after this, and when the service ends
POLL_S: Final = 0.05  # between two looks at an empty queue; Gradio's own 1 ms costs a twentieth of a core day and night
Shown = tuple[str, str]


class Page:
    """An ASGI app that becomes Gradio's when it is first asked for.

    Args:
        desk: That answers.
        count: Told of each answer.
    """

    def __init__(self, desk: Desk, count: Callable[[list[Answer]], None]) -> None:
        self._desk, self._count = desk, count
        self._app: Any = None
        self._loading: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()
        self._folder: Path | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        path = scope["path"]
        if path in ROUTES - {"/"}:  # of the service's own, which take other methods
            raise HTTPException(405)
        if path in NEEDED_EXACTLY and scope["method"] not in {"GET", "HEAD"}:
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        if not (path in NEEDED_EXACTLY or path.startswith(NEEDED)):
            raise HTTPException(404)
        if self._app is not None:
            await self._app(scope, receive, send)
            return
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        elif self._loading.done():
            self._loading.result()  # raises what went wrong
        if path != "/":
            raise busy("The page is still loading.", 503)
        await HTMLResponse(WAIT)(scope, receive, send)

    async def close(self) -> None:
        """Ends Gradio and deletes what was uploaded."""
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
        await self._stack.aclose()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _load(self) -> None:
        began = time.perf_counter()
        self._folder = Path(tempfile.mkdtemp(prefix="pneumonia-page-"))  # for its owner alone
        os.environ |= {
            "GRADIO_TEMP_DIR": str(self._folder),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_OFFLINE": "1",
        }
        app = await asyncio.to_thread(self._build)
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        app.get_blocks().run_startup_events()
        await app.get_blocks().run_extra_startup_events()
        self._app = app
        tell("page loaded", ms=round((time.perf_counter() - began) * 1000))

    def _build(self) -> Any:
        import gradio as gr
        from fastapi import FastAPI

        with gr.Blocks(title="pneumonia", analytics_enabled=False, delete_cache=(KEEP_S, KEEP_S)) as blocks:
            gr.Markdown(f"# {words.TITLE}")
            gr.HTML(words.NOT_A_DEVICE)
            with gr.Row():
                with gr.Column():
                    file = gr.File(label="X-ray: JPEG, PNG or DICOM", type="filepath", height=150)
                    with gr.Row():
                        buttons = {name: gr.Button(name, size="sm", min_width=90) for name in EXAMPLES}
                    verdict = gr.HTML(words.EMPTY)
                with gr.Column():
                    film = gr.HTML()
            with gr.Accordion("What the model was trained on, and its measured limits", open=True):
                gr.HTML(words.about(self._desk.bundle.contract))
            quiet: Any = {"outputs": [verdict, film], "show_progress": "hidden", "api_visibility": "private"}
            file.upload(self._uploaded, inputs=[file], **quiet)
            file.clear(lambda: (words.EMPTY, ""), **quiet)
            for name, button in buttons.items():
                button.click(partial(self._example, name), **quiet)
        blocks.queue(max_size=self._desk.limits.at_once, default_concurrency_limit=self._desk.limits.workers)
        blocks._queue.sleep_when_free = POLL_S
        font = ["system-ui", "sans-serif"]
        outer = gr.mount_gradio_app(
            FastAPI(),
            blocks,
            "/",
            footer_links=[],
            run_history=False,
            show_error=False,
            max_file_size=self._desk.limits.body_bytes,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            theme=gr.themes.Default(font=font, font_mono=["ui-monospace", "monospace"]),
            css=words.CSS,
        )
        return next(route.app for route in outer.routes if hasattr(getattr(route, "app", None), "get_blocks"))

    async def _example(self, name: str) -> AsyncIterator[Shown]:
        label, seed = EXAMPLES[name]
        raw = await self._desk.run(partial(_drawn, label, seed))
        async for shown in self._show(raw):
            yield shown

    async def _uploaded(self, path: str) -> AsyncIterator[Shown]:
        raw = await self._desk.run(partial(_taken, Path(path)))
        async for shown in self._show(raw):
            yield shown

    async def _show(self, raw: bytes) -> AsyncIterator[Shown]:
        """First the answer, then the heat map."""
        began = time.perf_counter()
        try:
            answer = await self._desk.run(partial(self._answer, raw))
        except Refusal as refusal:
            tell("page refused", status=refusal.status)  # the reason may quote the file: a name in a DICOM tag
            yield words.problem(refusal), ""
            return
        self._count([answer])
        said = words.verdict(answer, (time.perf_counter() - began) * 1000)
        yield said, await self._desk.run(partial(self._film, raw, answer, heat=False))
        yield said, await self._desk.run(partial(self._film, raw, answer, heat=True))

    def _answer(self, raw: bytes) -> Answer:
        if not raw:
            raise Refusal(400, "The file is empty (0 bytes).", "Choose another.")
        check_file(raw, None, self._desk.limits)
        try:
            square = self._desk.bundle.square(raw)
        except UnreadableImageError as error:
            raise unreadable(error) from error
        return self._desk.bundle.answer_square(square)

    def _film(self, raw: bytes, answer: Answer, heat: bool) -> str:
        bundle, header = self._desk.bundle, read_header(raw)
        resize = bundle.contract.image.resize
        aspect = 1.0 if resize == "pad" else header.width / header.height
        found = occlusion_map(bundle, raw, label=answer.likeliest) if heat else None
        return words.film(decode(raw, words.SHOWN, resize), aspect, answer, found)


def _taken(path: Path) -> bytes:
    """An uploaded file, which is then deleted: patients' images are not to lie about."""
    raw = path.read_bytes()
    path.unlink()
    return raw


def _drawn(label: str, seed: int) -> bytes:
    """A phantom as a JPEG file."""
    from pneumonia.data.phantom import draw

    film = cv2.imencode(".jpeg", draw(label, seed, 0), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return bytes(np.asarray(film).tobytes())
