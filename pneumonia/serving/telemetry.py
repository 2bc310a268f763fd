"""Logs of one JSON object a line, and metrics for Prometheus. Never image content, file names, addresses or tokens."""

import faulthandler
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

LOGGER: Final = logging.getLogger("pneumonia.serving")
WORKER: Final = "inference"  # names the threads in which callers' files are read
ROUTES: Final = {"/ping", "/invocations", "/explanation", "/metrics", "/contract", "/docs", "/openapi.json", "/"}
PAGE_FILES: Final = ("/page.", "/examples/", "/docs/")  # paths that begin so count as one route
PAGE: Final = "page"
OTHER: Final = "other"  # a name for all paths that there are not, so that no caller can add series without end
REMARK: Final = 200  # characters
FRAMES: Final = 30  # of a trace, the innermost
BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class JsonLines(logging.Formatter):
    """A record as one line of JSON; fields are in the record's ``told``.

    Of an exception it has the names and the places in the code: its message may quote what a caller sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "event": record.getMessage().strip()}
        line |= getattr(record, "told", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= _described(record.exc_info[1])
        return json.dumps(line, default=str)


def _described(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__, limit=-FRAMES)
    told = {
        "error": type(error).__name__,
        "trace": [f"{Path(at.filename).name}:{at.lineno} {at.name}" for at in frames],
    }
    cause = error.__cause__ or error.__context__
    return told if cause is None else {**told, "cause": _described(cause)}


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record may be shown: libraries that read a caller's file log its faults as errors, and quote it."""
    return record.name.startswith(LOGGER.name) or not (record.threadName or "").startswith(WORKER)


def log_to(stream: TextIO) -> None:
    """Send every record, warning and unhandled exception of this process to a stream, as lines of JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    handler.addFilter(_is_ours)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # of libraries
    LOGGER.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are of requests, and have a line of ours
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a stream that no one reads any more must not be complained of in that stream
    sys.excepthook = lambda kind, error, trace: LOGGER.critical("crashed", exc_info=(kind, error, trace))
    sys.unraisablehook = lambda found: _unhandled(found.exc_value)
    threading.excepthook = lambda found: _unhandled(found.exc_value)


def _unhandled(error: BaseException | None) -> None:
    LOGGER.error("unhandled exception", exc_info=error)


@contextmanager
def standard_error() -> Iterator[TextIO]:
    """Standard error for :func:`log_to`; what libraries written in C print there becomes lines of JSON as well."""
    sys.stderr.flush()
    real = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8")  # stays open, for what is logged at the very end
    faulthandler.enable(real)  # for what ends the process in the middle of a line
    outlet, inlet = os.pipe()
    os.dup2(inlet, 2)
    os.close(inlet)
    reader = threading.Thread(target=_forward, args=(outlet,), name="standard error", daemon=True)
    reader.start()
    try:
        yield real
    finally:
        sys.stderr.flush()
        os.dup2(real.fileno(), 2)
        reader.join(timeout=1)  # until the end of what was printed


def _forward(outlet: int) -> None:
    with os.fdopen(outlet, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            log_event("library remark", text=line.strip()[:REMARK])


def log_event(event: str, level: int = logging.INFO, **told: Any) -> None:
    """One line."""
    LOGGER.log(level, event, extra={"told": told})


class Metrics:
    """The figures of one service, in a registry of their own.

    Args:
        bundle_version: Shown as a label of ``pneumonia_bundle_info``.
        model_version: The same.
    """

    def __init__(self, bundle_version: str, model_version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU and open files, on Linux
        self.requests = Counter(
            "pneumonia_requests", "Requests by route and status", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "pneumonia_request_seconds",
            "Seconds from the headers of a request to the end of its answer",
            ["route"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.images = Counter(
            "pneumonia_images",
            "Answered images by label, and whether they were abstained from or out of distribution",
            ["label", "abstained", "out_of_distribution"],
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "pneumonia_requests_in_flight", "Requests being read or answered", registry=self.registry
        )
        self.held = Gauge("pneumonia_held_bytes", "Bytes of the requests in flight", registry=self.registry)
        info = Gauge("pneumonia_bundle_info", "What answers", ["bundle", "model"], registry=self.registry)
        info.labels(bundle_version, model_version).set(1)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
