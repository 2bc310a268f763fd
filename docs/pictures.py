"""Draw the pictures of the README and the docs.

.venv/bin/python docs/pictures.py phantoms|activations|architecture
.venv/bin/python docs/pictures.py training RUN
.venv/bin/python docs/pictures.py weights RUN     a few of the pictures that a perceptron's run keeps, side by side
"""

import sys
import textwrap
from pathlib import Path

import matplotlib
import pandas as pd
import torch
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from pneumonia.data.sources.phantom import draw
from pneumonia.models.components.activations import ACTIVATIONS
from pneumonia.tasks import LABELS

COLUMNS = 6
INK = {"train": "#0072B2", "val": "#D55E00"}  # Okabe and Ito: distinguishable with colour blindness


def phantoms(path: Path) -> None:
    """A contact sheet: one row a class, one column a patient."""
    figure, axes = plt.subplots(len(LABELS), COLUMNS, figsize=(9, 3.9))
    for row, label in zip(axes, LABELS, strict=True):
        for number, axis in enumerate(row):
            axis.imshow(draw(label, 900 + 3 * number, 0), cmap="gray", vmin=0, vmax=255, aspect="auto")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(label, fontsize=10)
    figure.subplots_adjust(left=0.04, right=0.995, top=0.995, bottom=0.005, wspace=0.03, hspace=0.04)
    figure.savefig(path, dpi=110)


def curves(run: Path, path: Path) -> None:
    """Loss and accuracy by epoch."""
    history = pd.read_csv(run / "metrics.csv")
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        for stage, ink in INK.items():
            axis.plot(history["epoch"], history[f"{stage}/{name}"], color=ink, marker="o", markersize=3, label=stage)
        axis.set(xlabel="epoch", title=name)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def activations(path: Path) -> None:
    """Every activation with its derivative; the softmax of two inputs, of which one stays at zero."""
    figure, axes = plt.subplots(3, 4, figsize=(11, 7.6), sharex=True)
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    for axis, (name, item) in zip(axes.flat, ACTIVATIONS.items(), strict=True):
        inputs = x.clone().requires_grad_()
        pair = torch.stack([inputs, torch.zeros_like(inputs)], dim=1)
        # A copy, since some activations work in place.
        y = item.build().double()(inputs * 1) if item.by_element else item.build()(pair)[:, 0]
        (slope,) = torch.autograd.grad(y.sum(), inputs)
        axis.plot(x, y.detach(), color=INK["train"], linewidth=2, label="f(x)")
        style = "--" if name == "binary_step" else "-"
        axis.plot(x, slope, style, color=INK["val"], linewidth=1.4, label="f'(x)")
        axis.set(title=name, ylim=(-1.8, 2.2), xlim=(-4, 4))
        axis.set_xlabel(_wrapped(item.formula), fontsize=8)
        axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, labelbottom=True)
    axes[0, 0].text(-3.8, 1.25, "dashed: the stand-in\nit is trained with", fontsize=8, color=INK["val"])
    axes[0, 0].legend(frameon=False, loc="lower right", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def weights(run: Path, path: Path) -> None:
    """The weights after the first, some middle and the last epoch."""
    pages = sorted((run / "pictures" / "weights").glob("*.png"))
    chosen = [pages[round(share * (len(pages) - 1))] for share in (0, 0.07, 0.33, 1)]
    pictures = [Image.open(page) for page in chosen]
    sheet = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height), (255, 255, 255))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number * picture.width, 0))
    sheet.save(path)


def architecture(path: Path) -> None:
    """The packages in the order of the data flow, and the files between them."""
    upper = ("storage", "data", "models", "training", "evaluation", "report")
    between = ("folder", "manifest, split,\ncache", "classifier", "run folder", "evaluation/*.json")
    figure, axis = plt.subplots(figsize=(12, 3.9))
    axis.set(xlim=(0, 24), ylim=(0, 7.6))
    axis.axis("off")

    def box(x: float, y: float, text: str, colour: str = "#E8F1F8") -> None:
        style = {"boxstyle": "round,pad=0.45", "facecolor": colour, "edgecolor": "#33576F"}
        axis.text(x, y, text, ha="center", va="center", fontsize=10.5, family="monospace", bbox=style)

    def arrow(start: tuple[float, float], end: tuple[float, float], text: str = "", above: float = 0.3) -> None:
        axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#33576F", "lw": 1.2})
        axis.text((start[0] + end[0]) / 2, start[1] + above, text, ha="center", va="bottom", fontsize=8, color="#444444")

    places = [1.5 + 4.2 * number for number in range(len(upper))]
    for number, name in enumerate(upper):
        box(places[number], 5.2, name)
        if number:
            arrow((places[number - 1] + 1.25, 5.2), (places[number] - 1.25, 5.2), between[number - 1], 0.55)
    box(places[3], 2.7, "export")
    box(places[4], 2.7, "serving")
    box(places[5], 2.7, "sweep")
    arrow((places[3], 4.8), (places[3], 3.1))
    arrow((places[3] + 1.1, 2.7), (places[4] - 1.2, 2.7), "bundle")
    axis.text(places[5], 3.35, "many runs from one file", ha="center", fontsize=8, color="#444444")
    for number, name in enumerate(("config", "system", "metrics", "runs")):
        box(places[number], 0.7, name, "#F4F4F4")
    axis.text(places[4], 0.7, "used by all of the above", ha="left", va="center", fontsize=9, color="#444444")
    box(places[1], 2.7, "cli", "#FBF3E4")
    axis.text(places[1], 3.35, "one thin file a verb, over all packages", ha="center", fontsize=8, color="#444444")
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None}, bbox_inches="tight")


def _wrapped(text: str, width: int = 34) -> str:
    return "\n".join(textwrap.wrap(text, width))


if __name__ == "__main__":
    images = Path(__file__).parent / "images"
    draws = {
        "phantoms": phantoms,
        "activations": activations,
        "architecture": architecture,
        "training": curves,
        "weights": weights,
    }
    kind, *runs = sys.argv[1:]
    draws[kind](*map(Path, runs), images / f"{kind}.png")
