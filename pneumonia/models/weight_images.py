"""Draw weights as images: blue is negative, white zero, red positive."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pneumonia.system.arrays import Floats32, Pixels

TILE_SIDE: Final = 192  # least pixels a side of one tile
GAP: Final = 12
TEXT: Final = 14
PAPER: Final = (255, 255, 255)
INK: Final = (32, 32, 32)
BORDER: Final = (200, 200, 200)
LOW: Final = np.array([33, 102, 172])  # ColorBrewer RdBu, which colour-blind readers can read too
HIGH: Final = np.array([178, 24, 43])
COLUMNS: Final = 8
Tile = tuple[Pixels, str]  # (H, W, 3) colours and their title


def weights_picture(weights: Mapping[str, torch.Tensor], title: str) -> Image.Image:
    """Draw weights ``(H, W)`` by name; full colour is the largest absolute value of all."""
    arrays = {name: weight.float().cpu().numpy() for name, weight in weights.items()}
    limit = largest(arrays.values())
    tiles = [(diverging(array, limit), name) for name, array in arrays.items()]
    return tile_page(tiles, title, f"red: up to {limit:.3g}   blue: down to -{limit:.3g}")


def largest(arrays: Iterable[Floats32]) -> float:
    """Return the largest absolute value of several arrays."""
    return max(float(np.abs(array).max()) for array in arrays)


def diverging(values: Floats32, limit: float) -> Pixels:
    """Return colours ``(H, W, 3)`` for values ``(H, W)`` from ``-limit`` (blue) over 0 (white) to ``limit`` (red)."""
    share = np.clip(values / limit, -1, 1)[:, :, None] if limit > 0 else np.zeros((*values.shape, 1))
    end = np.where(share < 0, LOW, HIGH)
    colours: Pixels = np.rint(255 + np.abs(share) * (end - 255)).astype(np.uint8)
    return colours


def tile_page(tiles: Sequence[Tile], title: str, legend: str, columns: int = COLUMNS) -> Image.Image:
    """Arrange tiles of one size in rows below a title and a legend; small tiles are enlarged."""
    height, width = tiles[0][0].shape[:2]
    times = max(1, -(-TILE_SIDE // max(height, width)))
    height, width = height * times, width * times
    font, bold = ImageFont.load_default(TEXT - 2), ImageFont.load_default(TEXT)
    across, rows = min(columns, len(tiles)), -(-len(tiles) // columns)
    top = 2 * (GAP + TEXT)
    text_width = int(max(bold.getlength(title), font.getlength(legend))) + 2 * GAP
    page = Image.new("RGB", (max(across * (width + GAP) + GAP, text_width), top + rows * (height + TEXT + 2 * GAP)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP // 2), title, INK, bold)
    draw.text((GAP, GAP // 2 + TEXT + 4), legend, INK, font)
    for number, (tile, name) in enumerate(tiles):
        x, y = GAP + number % columns * (width + GAP), top + number // columns * (height + TEXT + 2 * GAP)
        large = cv2.resize(tile, (width, height), interpolation=cv2.INTER_NEAREST)
        draw.text((x, y), name, INK, font)
        y += TEXT + GAP // 2
        page.paste(Image.fromarray(large), (x, y))
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=BORDER)
    return page
