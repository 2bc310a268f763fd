"""Draw contact sheets of the classes, the subsets and the augmentation."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from pneumonia.config.schema import AugmentationConfig
from pneumonia.data.splits.leaks import in_subset_order
from pneumonia.system.arrays import Ints, Objects, Pixels
from pneumonia.system.console import track
from pneumonia.tasks import in_class_order

GAP: Final = 4  # pixels between images
TEXT: Final = 16  # pixels of a line of text
PAPER: Final = (255, 255, 255)
INK: Final = (32, 32, 32)


def grid(rows: Sequence[Sequence[Pixels]], names: Sequence[str], title: str, columns: Sequence[str] = ()) -> Image.Image:
    """Draw a titled table of grey pictures ``(H, W)`` of one size, with a name before each row and column headings."""
    font, bold = ImageFont.load_default(TEXT - 2), ImageFont.load_default(TEXT)
    height, width = rows[0][0].shape
    margin = GAP * 3 + max(int(font.getlength(name)) for name in names)
    top = 2 * GAP + TEXT + (GAP + TEXT if columns else 0) + GAP
    across = max(len(row) for row in rows) * (width + GAP)
    page = Image.new("RGB", (max(margin + across, int(bold.getlength(title)) + 4 * GAP), top + len(rows) * (height + GAP)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((2 * GAP, GAP), title, INK, bold)
    for number, heading in enumerate(columns):
        draw.text((margin + number * (width + GAP), top - TEXT - GAP), heading, INK, font)
    for line, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = top + line * (height + GAP)
        draw.text((2 * GAP, y + (height - TEXT) // 2), name, INK, font)
        for number, picture in enumerate(row):
            page.paste(Image.fromarray(picture), (margin + number * (width + GAP), y))
    return page


def chosen(manifest: pd.DataFrame, rows: Ints, count: int, seed: int) -> Ints:
    """Draw up to ``count`` of some rows by the seed, of as many patients as possible."""
    order = np.random.default_rng(seed).permutation(rows)
    patients = manifest["patient_id"].to_numpy()[order]
    first = ~pd.Series(patients).duplicated().to_numpy()
    return np.concatenate([order[first], order[~first]])[:count]


def by_class(manifest: pd.DataFrame, pixels: Pixels, count: int, seed: int) -> Image.Image:
    """Draw a row of examples for each class, of as many patients as possible."""
    label = manifest["label"].to_numpy()
    rows = {name: np.flatnonzero(label == name) for name in in_class_order(label)}
    return _examples(manifest, pixels, rows, count, seed, "Examples by class")


def by_subset(manifest: pd.DataFrame, pixels: Pixels, subset: Objects, count: int, seed: int) -> Image.Image:
    """Draw a row of examples for each class of each subset, to show differences between subsets."""
    label = manifest["label"].to_numpy()
    rows = {
        f"{name}, {where or 'no subset'}": np.flatnonzero((label == name) & (subset == where))
        for name in in_class_order(label)
        for where in in_subset_order(subset)
    }
    return _examples(manifest, pixels, rows, count, seed, "Examples by class and subset")


def _examples(manifest: pd.DataFrame, pixels: Pixels, rows: dict[str, Ints], count: int, seed: int, title: str) -> Image.Image:
    present = {name: pixels[chosen(manifest, those, count, seed)] for name, those in rows.items() if len(those)}
    return grid([list(pictures) for pictures in present.values()], list(present), title)


def by_draw(
    manifest: pd.DataFrame,
    pixels: Pixels,
    strengths: AugmentationConfig,
    name: str,
    images: int,
    draws: int,
    seed: int,
    kind: str = "batch",
) -> Image.Image:
    """Draw a row for each image: the original, then the augmented image of each epoch, as in training. Classes alternate."""
    # It loads torch, which the page of an audit does not need.
    from pneumonia.data.augmentation.augmenter import augmenter

    changes = augmenter(strengths, kind)
    label = manifest["label"].to_numpy()
    classes = in_class_order(label)
    queues = [chosen(manifest, np.flatnonzero(label == kind), images, seed) for kind in classes]
    rows = [int(row) for turn in zip_longest(*queues) for row in turn if row is not None][:images]
    pictures = []
    for row in track(rows, len(rows), "Drawing augmented images"):
        line = [pixels[row]]
        for epoch in range(draws):
            same = pixels[row][None]
            line.append(same[0] if changes is None else changes(same, seed, epoch, np.array([row]))[0])
        pictures.append(line)
    columns = ["original", *(f"draw {number + 1}" for number in range(draws))]
    return grid(pictures, label[rows].tolist(), f"augmentation={name}", columns)
