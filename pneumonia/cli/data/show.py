"""`pneumonia data show`: contact sheets of what a model will see."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pneumonia.cli.data import Words

if TYPE_CHECKING:
    from pneumonia.config.schema import AugmentationConfig

MOST_ROWS: Final = 15  # of examples: three classes in five places
MOST_PIXELS: Final = 89_000_000  # where PIL begins to warn of what it opens


def run(arguments: list[str]) -> int:
    """Draws the sheets as PNG files and prints their paths.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    parser = Words(
        "pneumonia data show",
        description="Draws contact sheets of a folder of X-rays, an archive or a manifest.parquet: examples by class, by class "
        "and subset, and of one augmentation (rows: one image; columns: draws, as training would see them).",
    )
    parser.add_argument("source", metavar="SOURCE", type=Path)
    parser.add_argument("--labels", metavar="FILE.csv", type=Path, help="a table of labels")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("sheets"), help="where the PNGs go (sheets)")
    parser.add_argument("--augmentation", default="normal", metavar="NAME", help="a file of conf/augmentation (normal)")
    parser.add_argument(
        "--images", type=int, default=8, metavar="N", help="examples a row, and rows of augmentation (8)"
    )
    parser.add_argument("--draws", type=int, default=8, metavar="N", help="draws of each image (8)")
    parser.add_argument("--size", type=int, default=112, metavar="PX", help="pixels a side of each picture (112)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_image_options()
    options = parser.parse_args(arguments)
    parser.check(options.out.is_dir() or not options.out.exists(), f"--out {options.out} is a file; name a folder")
    for name, low, high in (("images", 1, 100), ("draws", 1, 100), ("size", 16, 1024), ("seed", 0, 2**32 - 1)):
        value = getattr(options, name)
        parser.check(low <= value <= high, f"--{name} {value} is out of range: it must be from {low} to {high}")
    largest = options.images * max(options.draws + 1, MOST_ROWS) * options.size**2
    parser.check(
        largest <= MOST_PIXELS,
        f"--images {options.images}, --draws {options.draws} and --size {options.size} make a picture of up to "
        f"{largest / 1e6:.0f} million pixels, and few programs open more than {MOST_PIXELS / 1e6:.0f} million. Ask for less",
    )
    strengths = _strengths(options.augmentation)
    import numpy as np

    from pneumonia.cli.data.audit import images
    from pneumonia.data.audit.contact_sheets import by_class, by_draw, by_subset
    from pneumonia.system.console import warn
    from pneumonia.system.files import replacing

    manifest, pixels, problems = images(options, options.size, options.labels)
    for path, reason in problems.items():
        warn(f"left out {path}: {reason}")
    count, seed = options.images, options.seed
    pages = {"classes": by_class(manifest, pixels, count, seed)}
    subset = manifest["source_split"].to_numpy(dtype=object)
    if np.isin(subset, ["train", "val", "test"]).any():
        pages["subsets"] = by_subset(manifest, pixels, subset, count, seed)
    pages[f"augmentation-{options.augmentation}"] = by_draw(
        manifest, pixels, strengths, options.augmentation, count, options.draws, seed
    )
    for name, page in pages.items():
        path = options.out / f"{name}.png"
        with replacing(path) as scratch:
            page.save(scratch, "PNG")
        print(path)
    return 0


def _strengths(name: str) -> "AugmentationConfig":
    """The strengths of a file of ``conf/augmentation``, merged as training would."""
    from pneumonia.config.compose import compose

    return compose(f"augmentation={name}").augmentation
