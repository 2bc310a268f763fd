"""Files to a decoded cache, against what one would write by hand: images per second, side by side in one process.

    .venv/bin/python benchmarks/ingest.py DATA_ROOT [--size 75] [--rounds 5] [--out FILE.json]

DATA_ROOT holds NORMAL and PNEUMONIA with full-size JPEGs. The arms, interleaved, each with as many threads as there are cores:

- ours: `load_images` into an empty cache folder: hashes, headers, perceptual hashes, manifest, scaled decoding, cache file.
- baseline: torchvision's ImageFolder with PIL's RGB loader and Resize, stacked into one array; nothing else.
- limit: reading the files and a scaled decode alone.

Guard: ours may differ from a full decode with area resize by half a grey level on average, or no ratio counts.
"""

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import Resize

from pneumonia.config import DataConfig
from pneumonia.console import CONSOLE, table
from pneumonia.data.datamodule import load_images
from pneumonia.parallel import available_cores

LARGEST_ERROR = 0.5  # grey levels, on average


def ours(root: Path, size: int) -> NDArray[np.uint8]:
    """Everything that a first training run does before it can train."""
    with tempfile.TemporaryDirectory() as cache_dir:
        images = load_images(DataConfig("folder", str(root)), size, Path(cache_dir))
        return np.array(images.pixels[images.rows])


def baseline(root: Path, size: int) -> NDArray[np.uint8]:
    """ImageFolder, RGB, resize."""
    folder = ImageFolder(str(root), transform=Resize((size, size)))
    with ThreadPoolExecutor(available_cores()) as pool:
        return np.stack([np.asarray(image) for image, _ in pool.map(folder.__getitem__, range(len(folder)))])


def limit(root: Path, size: int) -> None:
    """Reads and decodes at the smallest scale that keeps twice the size."""

    def decode(path: Path) -> None:
        image = Image.open(io.BytesIO(path.read_bytes()))
        image.draft("L", (2 * size, 2 * size))
        image.load()

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(decode, sorted(root.rglob("*.jpeg"))))


def reference(root: Path, size: int) -> NDArray[np.uint8]:
    """Full decode and area resize, in the order of the manifest."""
    grey = [np.asarray(Image.open(path).convert("L")) for path in sorted(root.rglob("*.jpeg"))]
    return np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in grey])


def seconds(work: Callable[[Path, int], object], root: Path, size: int) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work(root, size)
    return time.perf_counter() - start


def main() -> None:
    """Interleaves the arms and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--size", type=int, default=75)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    CONSOLE.quiet = True
    error = np.abs(ours(options.root, options.size).astype(float) - reference(options.root, options.size)).mean()
    if error > LARGEST_ERROR:
        raise SystemExit(f"ours is {error:.2f} grey levels from a full decode on average; no ratio counts")
    arms = {"ours": ours, "baseline": baseline, "limit": limit}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.rounds):
        for name, work in arms.items():
            times[name].append(seconds(work, options.root, options.size))
    CONSOLE.quiet = False
    count = len(list(options.root.rglob("*.jpeg")))
    ratio = [b / a for a, b in zip(times["ours"], times["baseline"], strict=True)]
    of_limit = [b / a for a, b in zip(times["ours"], times["limit"], strict=True)]
    rows = [(name, f"{count / statistics.median(spent):.0f}") for name, spent in times.items()]
    table(f"{count} files to {options.size} px, {available_cores()} threads", ("arm", "images/s"), rows)
    result = {
        "images": count,
        "size": options.size,
        "threads": available_cores(),
        "mean_error_grey_levels": round(float(error), 3),
        "times_baseline": {"median": statistics.median(ratio), "low": min(ratio), "high": max(ratio)},
        "of_limit": {"median": statistics.median(of_limit), "low": min(of_limit), "high": max(of_limit)},
        "versions": {"pillow": PIL.__version__, "numpy": np.__version__, "python": platform.python_version()},
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
