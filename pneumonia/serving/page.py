"""The page at ``/``: one template, one stylesheet and one script, read and filled in once when the service starts."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final

import cv2

from pneumonia.data.sources.phantom import draw
from pneumonia.export.contract import Contract
from pneumonia.serving.limits import Limits
from pneumonia.tasks import BACTERIA, NORMAL, VIRUS

HTML: Final = "text/html; charset=utf-8"
CSS: Final = "text/css; charset=utf-8"
JAVASCRIPT: Final = "text/javascript; charset=utf-8"
EXAMPLES: Final = {
    "normal": (NORMAL, 3),
    "virus": (VIRUS, 4),
    "bacteria": (BACTERIA, 5),
}  # class and seed of each drawing
QUALITY: Final = 85  # of JPEG
SUBSETS: Final = {"train": "for training", "val": "for validation", "test": "held out"}
METRICS: Final = {"accuracy": "accuracy", "f1_macro": "macro F1", "auroc": "AUROC"}


@dataclass(frozen=True)
class Asset:
    """A file that the service sends as it is."""

    content: bytes
    media_type: str


def page_assets(contract: Contract, limits: Limits) -> dict[str, Asset]:
    """The page and its files, by path."""
    template = Template(_own("page.html").decode())
    html = template.substitute(
        classes=escape(", ".join(contract.classes)),
        body_bytes=limits.body_bytes,
        body_mib=f"{limits.body_mib:g}",
        limits=_list([*contract.limits, *([contract.caveat] if contract.caveat else [])]),
        facts="".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _facts(contract)),
    )
    return {
        "/": Asset(html.encode(), HTML),
        "/page.css": Asset(_own("page.css"), CSS),
        "/page.js": Asset(_own("page.js"), JAVASCRIPT),
    }


def docs_assets() -> dict[str, Asset]:
    """Swagger UI and its files, by path; all from this machine."""
    swagger = files("fastapi_offline") / "static"
    return {
        "/docs": Asset(_own("docs.html"), HTML),
        "/docs/start.js": Asset(_own("docs.js"), JAVASCRIPT),
        "/docs/swagger-ui.js": Asset((swagger / "swagger-ui-bundle.js").read_bytes(), JAVASCRIPT),
        "/docs/swagger-ui.css": Asset((swagger / "swagger-ui.css").read_bytes(), CSS),
    }


@cache
def example(name: str) -> bytes:
    """A drawn X-ray as a JPEG file; ``name`` is a key of ``EXAMPLES``."""
    label, seed = EXAMPLES[name]
    return cv2.imencode(".jpeg", draw(label, seed, 0), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def _own(name: str) -> bytes:
    return (files("pneumonia.serving") / name).read_bytes()


def _facts(contract: Contract) -> list[tuple[str, str]]:
    """What the model was trained on and its measured limits, as terms and their descriptions."""
    data, detector, parity = contract.data, contract.ood_detector, contract.parity
    counts = ", ".join(f"{data[subset]} {use}" for subset, use in SUBSETS.items() if data.get(subset))
    size = f"{contract.image.size} x {contract.image.size} pixels"
    return [
        ("Model", f"{contract.model.family}, {size}, run {contract.model.version}"),
        ("Bundle", contract.bundle_version),
        ("Trained on", f"{data.get('source', 'unknown')} images, split {data.get('split', 'unknown')}: {counts}"),
        *_metric_facts(contract.metrics),
        (
            "Out-of-distribution detector",
            f"{detector.false_alarms} false alarms in {detector.measured_on} unseen images ({detector.false_alarm_rate:.2%})",
        ),
        (
            "Exported model against trained model",
            f"largest difference {parity.largest:.1e} over {parity.images} images, {parity.changed} other predictions",
        ),
        ("License", contract.licence),
        ("Intended use", contract.intended_use),
    ]


def _metric_facts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    facts = []
    val = metrics.get("val") or {}
    found = [f"{words} {_value(val[name])}" for name, words in METRICS.items() if name in val]
    if found:
        facts.append(("Validation", ", ".join(found)))
    test = metrics.get("test") or {}
    found = [f"{words} {_interval(test[name])}" for name, words in METRICS.items() if isinstance(test.get(name), dict)]
    if found:
        facts.append((f"Test ({test['images']} images)", ", ".join(found)))
    return facts


def _value(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _interval(held: dict[str, float | None]) -> str:
    low, high = held.get("low"), held.get("high")
    between = f" ({_value(low)} to {_value(high)})" if low is not None and high is not None else ""
    return _value(held.get("value")) + between


def _list(items: Iterable[str]) -> str:
    return "".join(f"<li>{escape(item)}</li>" for item in items)
