"""Row 1: files at full size to a decoded cache, against ImageFolder with PIL, and against a scaled decode alone.

- ours: `load_images` into an empty cache folder: hashes, headers, perceptual hashes, manifest, scaled decoding, cache file.
- baseline: torchvision's ImageFolder with PIL's RGB loader and Resize, stacked into one array; nothing else.
- limit: reading the files and a scaled decode alone.

Each with as many threads as there are cores.
"""

import io
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import Resize

from benchmarks.harness import Arm, Differs, Goal, Row, unheard
from benchmarks.world import SIDE, World
from pneumonia.config.schema import DataConfig
from pneumonia.data.decoded_images import load_images
from pneumonia.system.parallel import available_cores

MOST: Final = 600  # files a round
LARGEST_ERROR: Final = 0.5  # grey levels, on average


def rows(world: World) -> list[Row]:
    """The arms over a sample of the files at full size."""
    tree = sample(world)
    count = len(files_of(tree))
    found = Row(
        key="ingest",
        what=f"{count} JPEG files at full size to a cache at {SIDE} px",
        items=count,
        unit="images",
        arms={
            "ours": Arm(lambda: ours(tree)),
            "baseline": Arm(lambda: baseline(tree)),
            "limit": Arm(lambda: limit(tree)),
        },
        goals=(Goal("baseline", "faster", 2.5), Goal("limit", "faster", 0.75)),
        guard=lambda: guard(tree),
        rounds=world.rounds,
    )
    return [found]


def sample(world: World) -> Path:
    """Links to at most :data:`MOST` files, a folder a class."""
    tree = world.scratch / "ingest"
    if tree.exists():
        return tree
    every = files_of(world.full_size)
    for path in every[:: max(1, len(every) // MOST)][:MOST]:
        folder = tree / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).symlink_to(path.resolve())
    return tree


def files_of(tree: Path) -> list[Path]:
    """Its images, in the order of the manifest."""
    return sorted(path for path in tree.rglob("*") if path.suffix.lower() in {".jpeg", ".jpg", ".png"})


def ours(tree: Path) -> NDArray[np.uint8]:
    """Everything that a first training run does before it can train."""
    with tempfile.TemporaryDirectory() as cache_dir, unheard():
        images = load_images(DataConfig("folder", str(tree)), SIDE, Path(cache_dir))
        return np.array(images.pixels[images.rows])


def baseline(tree: Path) -> NDArray[np.uint8]:
    """ImageFolder, RGB, resize."""
    folder = ImageFolder(str(tree), transform=Resize((SIDE, SIDE)))
    with ThreadPoolExecutor(available_cores()) as pool:
        return np.stack([np.asarray(image) for image, _ in pool.map(folder.__getitem__, range(len(folder)))])


def limit(tree: Path) -> None:
    """Reads and decodes at the smallest scale that keeps twice the size."""

    def decode(path: Path) -> None:
        image = Image.open(io.BytesIO(path.read_bytes()))
        image.draft("L", (2 * SIDE, 2 * SIDE))
        image.load()

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(decode, files_of(tree)))


def guard(tree: Path) -> str:
    """Ours against a full decode and area resize."""
    grey = [np.asarray(Image.open(path).convert("L")) for path in files_of(tree)]
    wanted = np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in grey])
    error = float(np.abs(ours(tree).astype(float) - wanted).mean())
    if error > LARGEST_ERROR:
        raise Differs(f"ours is {error:.2f} grey levels from a full decode on average, and {LARGEST_ERROR} are allowed")
    return f"ours is {error:.2f} grey levels from a full decode with area resize, on average"
