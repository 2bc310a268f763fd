"""Draws the README's pictures: phantoms by class, and the curves of a run.   .venv/bin/python docs/pictures.py RUN."""

import sys
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from pneumonia.data.phantom import draw
from pneumonia.labels import LABELS

COLUMNS = 6
INK = {"train": "#0072B2", "val": "#D55E00"}  # Okabe and Ito: told apart by colour-blind readers


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
            axis.plot(
                history["epoch"] + 1, history[f"{stage}/{name}"], color=ink, marker="o", markersize=3, label=stage
            )
        axis.set(xlabel="epoch", title=name)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    images = Path(__file__).parent / "images"
    phantoms(images / "phantoms.png")
    curves(Path(sys.argv[1]), images / "training.png")
