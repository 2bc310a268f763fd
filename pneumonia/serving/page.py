"""The web page and the OpenAPI page: files that are read, and filled in, once when the service starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

import cv2

from pneumonia.data.sources.phantom import draw
from pneumonia.export.contract import Contract, Interval, MetricInfo
from pneumonia.metrics.classification import metric_label
from pneumonia.serving.limits import Limits
from pneumonia.tasks import BACTERIA, NORMAL, UNKNOWN_KIND, VIRUS

HTML: Final = "text/html; charset=utf-8"
CSS: Final = "text/css; charset=utf-8"
JAVASCRIPT: Final = "text/javascript; charset=utf-8"
EXAMPLES: Final = {
    "normal": (NORMAL, 3),
    "virus": (VIRUS, 4),
    "bacteria": (BACTERIA, 5),
}  # class and seed of each drawing
TITLES: Final = {"normal": "Normal", "virus": "Viral", "bacteria": "Bacterial"}
JPEG_QUALITY: Final = 85
METRICS: Final = ("accuracy", "f1_macro", "auroc")


@dataclass(frozen=True)
class Asset:
    """A file of the page."""

    content: bytes
    media_type: str


def page_assets(contract: Contract, limits: Limits) -> dict[str, Asset]:
    """Return the files of the web page, by path."""
    sentences = [*contract.limitations, *filter(None, [contract.caveat])]
    examples = {name: label for name, (label, _) in EXAMPLES.items() if shows(contract, label)}
    html = Template(_read("page.html").decode()).substitute(
        classes=escape(", ".join(contract.classes)),
        examples="".join(f'<button type="button" data-example="{name}">{TITLES[name]}</button>' for name in examples),
        no_examples="" if examples else "hidden",
        body_bytes=limits.body_bytes,
        body_mib=f"{limits.body_mib:g}",
        limitations="".join(f"<li>{escape(sentence)}</li>" for sentence in sentences),
        facts="".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in _facts(contract).items()),
    )
    return {
        "/": Asset(html.encode(), HTML),
        "/page.css": Asset(_read("page.css"), CSS),
        "/page.js": Asset(_read("page.js"), JAVASCRIPT),
    }


def shows(contract: Contract, label: str) -> bool:
    """Return whether a drawn X-ray of this label is of a class of the bundle."""
    kinds = {UNKNOWN_KIND} if label in {VIRUS, BACTERIA} else set()
    return not {label, *kinds}.isdisjoint(name.upper() for name in contract.classes)


def docs_assets() -> dict[str, Asset]:
    """Return the files of the OpenAPI page, by path; none is loaded from another server."""
    swagger = files("fastapi_offline") / "static"
    return {
        "/docs": Asset(_read("docs.html"), HTML),
        "/docs/start.js": Asset(_read("docs.js"), JAVASCRIPT),
        "/docs/swagger-ui.js": Asset((swagger / "swagger-ui-bundle.js").read_bytes(), JAVASCRIPT),
        "/docs/swagger-ui.css": Asset((swagger / "swagger-ui.css").read_bytes(), CSS),
    }


@cache
def example(name: str) -> bytes:
    """Draw an X-ray as a JPEG file; ``name`` is a key of ``EXAMPLES``."""
    label, seed = EXAMPLES[name]
    return cv2.imencode(".jpeg", draw(label, seed, 0), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _read(name: str) -> bytes:
    return (files("pneumonia.serving") / name).read_bytes()


def _facts(contract: Contract) -> dict[str, str]:
    """Return training data and measured limits, as terms and descriptions."""
    data, detector, parity, size = contract.data, contract.ood_detector, contract.parity, contract.preprocessing.size
    counts = f"{data.train} for training, {data.val} for validation" + (f", {data.test} held out" if data.test else "")
    return {
        "Model": f"{contract.model.family}, {size} x {size} pixels, run {contract.model.version}",
        "Bundle": contract.bundle_version,
        "Trained on": f"{data.source} images, split {data.split}: {counts}",
        **_metrics(contract.metrics),
        "Out-of-distribution detector": f"{detector.false_alarms} false alarms in {detector.measured_on} unseen images "
        f"({detector.false_alarm_rate:.2%})",
        "Exported model against trained model": f"largest difference {parity.max_difference:.1e} over {parity.images} images, "
        f"{parity.changed_labels} changed predictions",
        "License": contract.licence,
        "Intended use": contract.intended_use,
    }


def _metrics(metrics: MetricInfo) -> dict[str, str]:
    found = {"Validation": _listed({name: _value(value) for name, value in metrics.val.items()})}
    if metrics.test is not None:
        test = {name: _interval(interval) for name, interval in metrics.test.metrics.items()}
        found[f"Test ({metrics.test.images} images)"] = _listed(test)
    return found


def _listed(shown: Mapping[str, str]) -> str:
    return ", ".join(f"{metric_label(name)} {shown[name]}" for name in METRICS if name in shown)


def _value(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _interval(metric: Interval) -> str:
    has_interval = metric.low is not None and metric.high is not None
    return _value(metric.value) + (f" ({_value(metric.low)} to {_value(metric.high)})" if has_interval else "")
