"""What is told of requests: one line of JSON each, and figures for Prometheus. Never image content, file names or tokens."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

LOGGER: Final = logging.getLogger("pneumonia.serve")
ROUTES: Final = {"/ping", "/invocations", "/metrics", "/contract", "/docs", "/openapi.json", "/"}
PAGE: Final = "page"  # what the page loads and sends
OTHER: Final = "other"  # a name for all paths that there are not, so that no caller can add series without end
BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class JsonLines(logging.Formatter):
    """A record as one line of JSON; fields are in the record's ``told``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "told", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to(stream: TextIO | None = None) -> None:
    """Sends every record of this process to a stream (standard error) as lines of JSON."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # of libraries
    LOGGER.setLevel(logging.INFO)


def tell(event: str, level: int = logging.INFO, **told: Any) -> None:
    """One line."""
    LOGGER.log(level, event, extra={"told": told})


class Figures:
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
