"""What each field of ``contract.json`` may hold, and which fields must agree; a seal that fits says nothing of either."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pneumonia.config.names import NORMALISATIONS, RESIZES, TTA
from pneumonia.metrics.calibration import TEMPERATURE_RANGE
from pneumonia.tasks import TASKS

LONGEST: Final = 10_000  # characters of a text
MOST: Final = 10_000  # entries of a list or a table
LARGEST: Final = 1e300
COUNT: Final = 2**53
SLACK: Final = 1e-9  # of a share that was rounded
SHOWN: Final = 80  # characters of a wrong value


@dataclass(frozen=True)
class Field:
    """A value of one kind: a test, and a description of its range."""

    good: Callable[[Any], bool]
    wanted: str


@dataclass(frozen=True)
class Each:
    """A list whose items all have one shape."""

    item: "Shape"
    least: int = 0


@dataclass(frozen=True)
class Table:
    """An object with any keys, whose values all have one shape; ``first`` are those that it must have, with their own."""

    value: "Shape"
    first: Mapping[str, "Shape"]
    or_null: bool = False


Shape = Field | Each | Table | Mapping[str, Any]


def number(low: float, high: float, *, above: bool = False) -> Field:
    """A finite number from ``low`` (not itself, with ``above``) to ``high``; true and false are none."""

    def good(value: Any) -> bool:
        return type(value) in (int, float) and (low < value if above else low <= value) and bool(value <= high)

    return Field(good, f"a number {'above' if above else 'from'} {low:g} {'and up to' if above else 'to'} {high:g}")


def whole(low: int, high: int = COUNT) -> Field:
    """A whole number in a range."""
    wanted = f"a whole number from {low} to {high}" if high < COUNT else f"a whole number, {low} or more"
    return Field(lambda value: type(value) is int and low <= value <= high, wanted)


def one_of(*choices: str) -> Field:
    """One of some texts."""
    return Field(lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}")


def matching(pattern: str, wanted: str) -> Field:
    """A text that a pattern describes from end to end."""
    known = re.compile(pattern, re.ASCII)
    return Field(lambda value: isinstance(value, str) and known.fullmatch(value) is not None, wanted)


def text(*, empty: bool = False) -> Field:
    """A text that a terminal and a page can show."""

    def good(value: Any) -> bool:
        return (
            isinstance(value, str) and (empty or bool(value.strip())) and len(value) <= LONGEST and is_showable(value)
        )

    return Field(
        good, f"a text{'' if empty else ', not empty,'} of at most {LONGEST} characters without control characters"
    )


def is_showable(value: str) -> bool:
    """Whether a text holds no control character but line breaks and tabs, and nothing that UTF-8 can't hold."""
    return all(letter.isprintable() or letter in "\n\t\u3000\u00a0\u202f\u2009" for letter in value)


def or_null(field: Field) -> Field:
    """The same, or null."""
    return Field(lambda value: value is None or field.good(value), f"null or {field.wanted}")


SHARE: Final = number(0, 1)
SOME: Final = number(0.001, 1)
SHA256: Final = matching("[0-9a-f]{64}", "64 hexadecimal digits")
FLAG: Final = Field(lambda value: isinstance(value, bool), "true or false")
WORD: Final = matching(r"[A-Za-z_]\w{0,99}", "a word of at most 100 letters")
LOSSES: Final = ("loss",)  # metrics that may be above 1
METRIC: Final = or_null(number(0, LARGEST))
REASON: Final = or_null(text())
PLAIN_NAME: Final = matching(r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f]{1,255}", "a name without separators")

FIELDS: Final[Mapping[str, Any]] = {
    "schema": whole(1),
    "bundle_version": matching("[0-9a-f]{12}", "12 hexadecimal digits"),
    "seal": SHA256,
    "task": one_of(*TASKS),
    "classes": Each(text(), 2),
    "model": {
        "name": PLAIN_NAME,
        "run_id": matching("[0-9a-f]{12}", "12 hexadecimal digits"),
        "family": WORD,
        "seed": whole(0, 2**32 - 1),
        "epoch": whole(1),
        "version": text(),
    },
    "image": {
        "size": whole(8, 2048),
        "resize": one_of(*RESIZES),
        "decoder": text(),
        "channels": Field(lambda value: type(value) is int and value in (1, 3), "1 or 3"),
        "normalisation": {
            "method": one_of(*NORMALISATIONS),
            "shift": number(-1e6, 1e6),
            "scale": number(1e-6, 1e6),
        },
        "views": one_of(*TTA),
    },
    "calibration": {"temperature": or_null(number(*TEMPERATURE_RANGE)), "reason": REASON, "images": whole(0)},
    "operating_points": Each(
        {"positive": text(), "sensitivity": SOME, "threshold": or_null(SHARE), "reason": REASON}, 1
    ),
    "abstention": {
        "asked": SOME,
        "confidence": or_null(SHARE),
        "coverage": or_null(SOME),
        "risk": or_null(SHARE),
        "reason": REASON,
    },
    "ood_detector": {
        "threshold": number(0, 2, above=True),
        "prototypes": whole(1, MOST),
        "side": whole(1, 2048),
        "fitted_on": whole(1),
        "false_alarms": whole(0),
        "measured_on": whole(1),
        "false_alarm_rate": SHARE,
    },
    "parity": {
        "passed": FLAG,
        "images": whole(1),
        "tolerance": number(0, 0.01, above=True),
        "largest": SHARE,
        "largest_calibrated": SHARE,
        "changed": whole(0),
        "changed_calibrated": whole(0),
        "largest_recorded": SHARE,
        "changed_recorded": whole(0),
    },
    "data": {
        "source": WORD,
        "manifest_sha256": SHA256,
        "split_sha256": SHA256,
        "split": WORD,
        "train": whole(1),
        "val": whole(1),
        "test": whole(0),
        "leaks": Each({"part": WORD, "images": whole(0), "of": whole(0)}),
    },
    "metrics": {
        "val": Table(METRIC, {"accuracy": METRIC}),
        "test": Table(
            {"value": METRIC, "low": METRIC, "high": METRIC}, {"images": whole(1), "patients": whole(1)}, or_null=True
        ),
    },
    "licence": text(),
    "intended_use": text(),
    "warnings": Each(text()),
    "limits": Each(text(), 1),
    "caveat": text(empty=True),
    "files": {"model.onnx": SHA256, "ood_detector.npz": SHA256},
    "onnx": {"opset": whole(1, 1000), "ir_version": whole(1, 1000)},
    "versions": Table(text(), {}),
}


def wrong_field(plain: Any) -> str:
    """The first field of a contract that is not what it must be, with its value and its range; empty where all are right.

    Args:
        plain: As JSON gives it.
    """
    return _wrong(plain, FIELDS, "") or _contradiction(plain)


def _wrong(value: Any, shape: Shape, name: str) -> str:
    if isinstance(shape, Field):
        return "" if shape.good(value) else f"{name}={_shown(value)}, and it must be {shape.wanted}"
    if isinstance(shape, Each):
        if not isinstance(value, list) or not shape.least <= len(value) <= MOST:
            return f"{name}={_shown(value)}, and it must be a list of {shape.least} to {MOST} entries"
        return next(filter(None, (_wrong(item, shape.item, f"{name}[{n}]") for n, item in enumerate(value))), "")
    if isinstance(shape, Table) and shape.or_null and value is None:
        return ""
    if not isinstance(value, dict):
        return f"{name or 'the file'}={_shown(value)}, and it must be an object"
    inside = shape.first if isinstance(shape, Table) else shape
    place = f"{name}." if name else ""
    for key, one in inside.items():
        if key not in value:
            return f"no {place}{key}, which every contract has"
        if found := _wrong(value[key], one, place + key):
            return found
    others = [key for key in value if key not in inside]
    if not isinstance(shape, Table):
        return f"{place}{_shown(others[0])}, which no contract has" if others else ""
    if len(others) > MOST:
        return f"{len(others)} entries in {name}, and there must be at most {MOST}"
    if strange := [key for key in others if not WORD.good(key)]:
        return f"{place}{_shown(strange[0])}, and a name must be {WORD.wanted}"
    return next(filter(None, (_wrong(value[key], shape.value, place + key) for key in others)), "")


def _contradiction(plain: Mapping[str, Any]) -> str:
    """What two fields say that can't both be."""
    task, ood_detector, parity, abstention = (
        TASKS[plain["task"]],
        plain["ood_detector"],
        plain["parity"],
        plain["abstention"],
    )
    model, calibration, points = plain["model"], plain["calibration"], plain["operating_points"]
    answered = [abstention[key] is None for key in ("confidence", "coverage", "risk")]
    positive = [point["positive"] for point in points]
    rules = [
        ("classes", plain["classes"], list(task.classes), f"those of task={task.name}"),
        ("operating_points", positive, list(task.questions), f"one for each question of task={task.name}"),
        ("model.version", model["version"], f"{model['name']}/{model['run_id']}", "name/run_id"),
        ("bundle_version", plain["bundle_version"], plain["seal"][:12], "the first digits of the seal"),
    ]
    for name, value, expected, why in rules:
        if value != expected:
            return f"{name}={_shown(value)}, and it must be {_shown(expected)}, {why}"
    for place, without, reason in (
        ("calibration.temperature", calibration["temperature"] is None, calibration["reason"]),
        *((f"operating_points[{n}].threshold", p["threshold"] is None, p["reason"]) for n, p in enumerate(points)),
        ("abstention.confidence", answered[0], abstention["reason"]),
    ):
        if without != (reason is not None):
            return f"{place} {'without a' if without else 'with a'} reason, and there is one where it is null"
    if len(set(answered)) > 1:
        return "abstention with some of confidence, coverage and risk, and there are all or none"
    if not answered[0] and abstention["coverage"] < abstention["asked"] - SLACK:
        return f"abstention.coverage={abstention['coverage']}, and it must be abstention.asked={abstention['asked']} or more"
    for name, value in _shares(plain["metrics"]):
        if value > 1:
            return f"{name}={value}, and it must be at most 1"
    most = [
        ("ood_detector.prototypes", ood_detector["prototypes"], "ood_detector.fitted_on", ood_detector["fitted_on"]),
        *(
            (f"parity.{key}", parity[key], "parity.images", parity["images"])
            for key in parity
            if key.startswith("changed")
        ),
        (
            "ood_detector.false_alarms",
            ood_detector["false_alarms"],
            "ood_detector.measured_on",
            ood_detector["measured_on"],
        ),
        *(("data.leaks", leak["images"], "the images of its split", leak["of"]) for leak in plain["data"]["leaks"]),
    ]
    for name, value, other, high in most:
        if value > high:
            return f"{name}={value}, and it must be at most {other}={high}"
    if ood_detector["false_alarm_rate"] != ood_detector["false_alarms"] / ood_detector["measured_on"]:
        return f"ood_detector.false_alarm_rate={ood_detector['false_alarm_rate']}, and it must be false_alarms / measured_on"
    if calibration["images"] != parity["images"] and (calibration["images"] or calibration["temperature"] is not None):
        return f"calibration.images={calibration['images']}, and it must be parity.images={parity['images']}"
    if parity["images"] != plain["data"]["val"]:
        return f"parity.images={parity['images']}, and it must be data.val={plain['data']['val']}"
    if parity["passed"]:
        far = [key for key in ("largest", "largest_calibrated") if parity[key] > parity["tolerance"]]
        far += [key for key in ("changed", "changed_calibrated") if parity[key]]
        if far:
            return f"parity.passed=true with parity.{far[0]}={parity[far[0]]}, which is more than it allows"
    if not set(plain["warnings"]) <= set(plain["limits"]):
        return "warnings that are not among its limits, and all must be"
    return ""


def _shares(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Name and value of each metric, and of the ends of its interval, that can't be above 1."""
    for name, value in metrics["val"].items():
        if name not in LOSSES and value is not None:
            yield f"metrics.val.{name}", value
    for name, interval in (metrics["test"] or {}).items():
        for end, value in interval.items() if isinstance(interval, dict) and name not in LOSSES else ():
            if value is not None:
                yield f"metrics.test.{name}.{end}", value


def _shown(value: Any) -> str:
    """A value as JSON, cut short."""
    shown = json.dumps(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
