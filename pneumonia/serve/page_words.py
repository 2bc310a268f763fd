"""What the page says and shows, as HTML: the verdict, the bars, the heat map over the image, the measured limits."""

import base64
from collections.abc import Iterable
from html import escape
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pneumonia.bundle.answers import Answer
from pneumonia.bundle.contract import Contract
from pneumonia.serve.refusal import Refusal

TITLE: Final = "Chest X-rays: normal, virus or bacteria?"
NOT_A_DEVICE: Final = (
    "<p class='px-device'><strong>Not a medical device.</strong> For research and teaching. "
    "No output may be used to decide about a person.</p>"
)
EMPTY: Final = (
    "<p class='px-hint'>Drop an X-ray, or try a drawn one. It is answered here, on this machine, and not kept.</p>"
)
FALLS: Final = (226, 74, 51)  # covering it lowers the probability: red
RISES: Final = (52, 138, 189)  # covering it raises it: blue
FAINT: Final = 0.02  # of a probability; maps of smaller effects are paler, so that noise does not look like a finding
SHOWN: Final = 512  # pixels a side of the image on the page
CSS: Final = """
.px-device{border-left:4px solid #b45309;padding:.4em .8em;background:#f59e0b22;margin:0}
.px-verdict{padding:.6em .8em;border-left:4px solid #475569;background:#64748b1a;margin:0 0 .8em}
.px-verdict.warn{border-color:#b45309;background:#f59e0b22}
.px-verdict.bad{border-color:#b91c1c;background:#ef444422}
.px-bar{display:grid;grid-template-columns:6.5em 1fr 4em;gap:.6em;align-items:center;margin:.35em 0}
.px-bar .track{background:#64748b33;height:1.1em;border-radius:3px;overflow:hidden}
.px-bar .fill{background:#2563eb;height:100%;display:block}
.px-bar .value{text-align:right;font-variant-numeric:tabular-nums}
.px-film{position:relative;max-width:100%;margin:0 auto;background:#000}
.px-film img{position:absolute;inset:0;width:100%;height:100%;display:block}
.px-opacity{display:flex;gap:.8em;align-items:center;margin:.6em 0}
.px-opacity input{flex:1;min-width:0;accent-color:#2563eb}
.px-note,.px-hint{opacity:.8;font-size:.92em}
.px-about dl{display:grid;grid-template-columns:8.5em 1fr;gap:.35em 1em;margin:1em 0 0}
.px-about dt{font-weight:600}
.px-about dd{margin:0;overflow-wrap:anywhere}
@media (max-width:480px){.px-about dl{grid-template-columns:1fr;gap:0}.px-about dd{margin-bottom:.6em}}
.gradio-container{max-width:1100px!important}
"""


def verdict(answer: Answer, ms: float) -> str:
    """What is said of an image in a sentence, and the probabilities as bars."""
    label = escape(answer.likeliest)
    share = answer.probabilities[answer.likeliest]
    if answer.out_of_distribution:
        kind, said = (
            "bad",
            (
                "<strong>This does not look like the X-rays that the model knows.</strong> "
                f"Unlikeness {answer.gate_score:.2f}, and {answer.gate_threshold:.2f} is the most it takes. "
                "The figures below mean nothing."
            ),
        )
    elif answer.abstained:
        kind, said = (
            "warn",
            (
                f"<strong>Too unsure to say.</strong> {label} is the likeliest, at {share:.0%}; "
                "the image belongs before a person."
            ),
        )
    else:
        kind, said = "", f"<strong>{label}</strong>, with a probability of {share:.0%}."
    bars = "".join(_bar(name, value) for name, value in answer.probabilities.items())
    how = "calibrated" if answer.calibrated else "not calibrated"
    note = f"Probabilities are {how}. Answered in {ms:.0f} ms by {escape(answer.model_version)}."
    return f"<div class='px-verdict {kind}' role='status'>{said}</div>{bars}<p class='px-note'>{note}</p>"


def problem(refusal: Refusal) -> str:
    """Why a file is not answered."""
    return (
        f"<div class='px-verdict bad' role='alert'><strong>This file can't be answered.</strong> {escape(refusal.reason)} "
        f"{escape(refusal.remedy)}</div>"
    )


def film(square: NDArray[np.uint8], aspect: float, answer: Answer, heat: NDArray[np.float32] | None) -> str:
    """The image, with the heat map over it and a slider of its opacity.

    Args:
        square: ``(S, S)`` uint8.
        aspect: Width over height at which it is shown.
        answer: Of the image.
        heat: ``(s, s)``, by how much the probability falls where a place is covered; ``None`` while it is computed.
    """
    label = escape(answer.likeliest)
    image = f"<img alt='The X-ray' src='{_uri(square)}'>"
    width = min(SHOWN, round(SHOWN * aspect))
    frame = f"<div class='px-film' style='width:{width}px;aspect-ratio:{aspect:.4f}'>"
    if heat is None:
        return (
            f"{frame}{image}</div><p class='px-note'>Covering it patch by patch, to see what the answer hangs on.</p>"
        )
    over = f"<img class='px-heat' alt='Heat map' style='opacity:.6' src='{_uri(_coloured(heat))}'>"
    act = "this.closest('.px-map').querySelector('.px-heat').style.opacity=this.value/100"
    slider = (
        "<label class='px-opacity'>Heat map <input type='range' min='0' max='100' value='60' "
        f'aria-label="Opacity of the heat map" oninput="{act}"></label>'
    )
    lowers, raises = max(float(heat.max()), 0.0), max(-float(heat.min()), 0.0)
    weak = " No single place matters much." if max(lowers, raises) < FAINT else ""
    note = (
        f"<p class='px-note'>Red: covering this place lowers the probability of {label}, by up to {lowers:.3f}. "
        f"Blue: it raises it, by up to {raises:.3f}.{weak}</p>"
    )
    return f"<div class='px-map'>{frame}{image}{over}</div>{slider}{note}</div>"


def about(contract: Contract) -> str:
    """What the model was trained on and its measured limits."""
    data, gate, parity = contract.data, contract.gate, contract.parity
    parts = ", ".join(f"{data[part]} {name}" for part, name in _PARTS if data.get(part))
    rows = [
        (
            "Model",
            f"{contract.model.family}, {contract.image.size} x {contract.image.size} pixels, run {contract.model.version}",
        ),
        ("Bundle", contract.bundle_version),
        ("Trained on", f"{data.get('source', 'unknown')} images, split {data.get('split', 'unknown')}: {parts}"),
        *_metric_rows(contract.metrics),
        (
            "Input gate",
            f"{gate.false_alarms} false alarms in {gate.measured_on} unseen images ({gate.false_alarm_rate:.2%})",
        ),
        (
            "Same as trained",
            f"largest difference {parity.largest:.1e} over {parity.images} images, {parity.changed} other labels",
        ),
        ("Licence", contract.licence),
        ("Use", contract.intended_use),
    ]
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    told = [*contract.limits, *([contract.caveat] if contract.caveat else [])]
    return f"<div class='px-about'>{_list(told)}<dl>{facts}</dl></div>"


_PARTS: Final = (("train", "for training"), ("val", "for validation"), ("test", "held out"))


def _metric_rows(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    val = {name: value for name, value in (metrics.get("val") or {}).items() if name in _SHOWN_METRICS}
    if val:
        rows.append(
            ("Validation", ", ".join(f"{_SHOWN_METRICS[name]} {_figure(value)}" for name, value in val.items()))
        )
    test = metrics.get("test") or {}
    found = [
        f"{words} {_interval(test[name])}" for name, words in _SHOWN_METRICS.items() if isinstance(test.get(name), dict)
    ]
    if found:
        rows.append((f"Test ({test['images']} images)", ", ".join(found)))
    return rows


_SHOWN_METRICS: Final = {"accuracy": "accuracy", "f1_macro": "macro F1", "auroc": "AUROC"}


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _interval(held: dict[str, float | None]) -> str:
    low, high = held.get("low"), held.get("high")
    between = f" ({_figure(low)} to {_figure(high)})" if low is not None and high is not None else ""
    return _figure(held.get("value")) + between


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _bar(name: str, value: float) -> str:
    return (
        f"<div class='px-bar'><span>{escape(name)}</span><span class='track' role='meter' aria-valuemin='0' aria-valuemax='1' "
        f"aria-valuenow='{value:.4f}' aria-label='{escape(name)}'>"
        f"<span class='fill' style='width:{100 * value:.2f}%'></span></span>"
        f"<span class='value'>{value:.1%}</span></div>"
    )


def _coloured(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """``(S, S, 4)``, blue first as OpenCV writes it; the larger the effect, the less transparent."""
    smooth = cv2.resize(heat, (SHOWN // 2, SHOWN // 2), interpolation=cv2.INTER_CUBIC)
    top = max(float(np.abs(heat).max()), FAINT)
    image = np.zeros((*smooth.shape, 4), dtype=np.uint8)
    image[..., :3] = np.where(smooth[..., None] > 0, FALLS[::-1], RISES[::-1])
    image[..., 3] = np.clip(np.abs(smooth) / top * 255, 0, 255)
    return image


def _uri(pixels: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
