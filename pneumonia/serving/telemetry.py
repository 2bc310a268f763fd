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
from typing import Final, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

LOGGER: Final = logging.getLogger("pneumonia.serving")
THREAD_PREFIX: Final = "inference"  # of the threads that read callers' files
PAGE: Final = "page"  # the route of all files of the page
OTHER: Final = "other"  # the route of all unknown paths
MAX_LINE: Final = 200  # characters of a line that a library prints
MAX_FRAMES: Final = 30  # of a trace, the innermost
BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class JsonLines(logging.Formatter):
    """Format a record, with its attribute ``fields``, as one line of JSON.

    An exception is logged by type and place in the code: its message may quote what a caller sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": when,
            "level": record.levelname.lower(),
            "event": record.getMessage().strip(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= _describe(record.exc_info[1])
        return json.dumps(line, default=str)


def _describe(error: BaseException) -> dict[str, object]:
    frames = traceback.extract_tb(error.__traceback__, limit=-MAX_FRAMES)
    trace = [f"{Path(at.filename).name}:{at.lineno} {at.name}" for at in frames]
    fields: dict[str, object] = {"error": type(error).__name__, "trace": trace}
    cause = error.__cause__ or error.__context__
    return fields if cause is None else {**fields, "cause": _describe(cause)}


def _may_log(record: logging.LogRecord) -> bool:
    """Return whether a record may be logged: libraries that read a caller's file log its faults as errors, and quote it."""
    return record.name.startswith(LOGGER.name) or not (record.threadName or "").startswith(THREAD_PREFIX)


def log_to(stream: TextIO) -> None:
    """Send every record, warning and unhandled exception of this process to a stream, as lines of JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    handler.addFilter(_may_log)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # of libraries
    LOGGER.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are about requests, which have a line already
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a failure to write to the stream must not be reported in that stream
    sys.excepthook = lambda kind, error, trace: LOGGER.critical("crashed", exc_info=(kind, error, trace))
    sys.unraisablehook = lambda found: _log_unhandled(found.exc_value)
    threading.excepthook = lambda found: _log_unhandled(found.exc_value)


def _log_unhandled(error: BaseException | None) -> None:
    LOGGER.error("unhandled exception", exc_info=error)


@contextmanager
def standard_error() -> Iterator[TextIO]:
    """Yield standard error for :func:`log_to`; what C libraries print there becomes lines of JSON as well."""
    sys.stderr.flush()
    real = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8")  # stays open, for what is logged at the very end
    faulthandler.enable(real)  # for crashes of the process
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
        reader.join(timeout=1)  # until the last line


def _forward(outlet: int) -> None:
    with os.fdopen(outlet, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            log_event("library output", text=line.strip()[:MAX_LINE])


def log_event(event: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Log one line."""
    LOGGER.log(level, event, extra={"fields": fields})


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self, bundle_version: str, model_version: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU and open files, on Linux
        self.requests = Counter("pneumonia_requests", "Requests by route and status", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "pneumonia_request_seconds",
            "Seconds from the headers of a request to the end of its response",
            ["route"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.images = Counter(
            "pneumonia_images",
            "Predicted images by label, abstention and out-of-distribution flag",
            ["label", "abstained", "out_of_distribution"],
            registry=registry,
        )
        self.in_flight = Gauge("pneumonia_requests_in_flight", "Requests in flight", registry=registry)
        self.held = Gauge("pneumonia_held_bytes", "Bytes of the requests in flight", registry=registry)
        info = Gauge("pneumonia_bundle_info", "The served bundle", ["bundle", "model"], registry=registry)
        info.labels(bundle_version, model_version).set(1)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
