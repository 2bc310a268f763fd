"""`pneumonia data show`: draw contact sheets of the images that a model sees."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pneumonia.cli.parsing import FILE, FOLDER, PATH, Verb, cache_dir, on_bad_image, task
from pneumonia.errors import ConfigError

if TYPE_CHECKING:
    from pneumonia.config.schema import AugmentationConfig
    from pneumonia.tasks import Task

MOST_ROWS: Final = 15  # of examples: three classes in five places
MOST_PIXELS: Final = 89_000_000  # above it PIL warns when it opens a picture


@click.command(cls=Verb, examples=["pneumonia data show chest_xray --augmentation clinical"])
@click.argument("source", metavar="SOURCE", type=PATH)
@click.option("--labels", metavar="FILE.csv", type=FILE, help="Table of labels.")
@task
@click.option("--out", metavar="DIR", type=FOLDER, default=Path("sheets"), help="Folder of the PNG files.")
@click.option("--augmentation", metavar="NAME", default="normal", help="File of conf/augmentation.")
@click.option(
    "--images",
    type=click.IntRange(1, 100),
    default=8,
    help="Examples per row, and rows of the augmentation sheet.",
)
@click.option("--draws", type=click.IntRange(1, 100), default=8, help="Augmented draws per image.")
@click.option("--size", type=click.IntRange(16, 1024), default=112, help="Pixels a side per picture.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of examples and draws.")
@on_bad_image
@cache_dir
def command(
    source: Path,
    labels: Path | None,
    task: "Task | None",
    out: Path,
    augmentation: str,
    images: int,
    draws: int,
    size: int,
    seed: int,
    on_bad_image: str,
    cache_dir: Path,
) -> None:
    """Draw contact sheets: examples by class, by class and subset, and of one augmentation.

    SOURCE is a folder of X-rays, an archive or a manifest.parquet. Each row of the augmentation sheet is one image, each column
    one draw, as training sees it. The paths of the PNG files are printed.
    """
    largest = images * max(draws + 1, MOST_ROWS) * size**2
    if largest > MOST_PIXELS:
        raise ConfigError(
            f"--images {images}, --draws {draws} and --size {size} make a picture of up to {largest / 1e6:.0f} million pixels, "
            f"and few programs open more than {MOST_PIXELS / 1e6:.0f} million. Use less."
        )
    strengths = _strengths(augmentation)
    import numpy as np

    from pneumonia.cli.data.audit import readable_images
    from pneumonia.data.audit.contact_sheets import by_class, by_draw, by_subset
    from pneumonia.system.console import warn
    from pneumonia.system.files import replacing

    manifest, pixels, problems = readable_images(source, size, labels, on_bad_image, cache_dir, task)
    for path, reason in problems.items():
        warn(f"left out {path}: {reason}")
    pages = {"classes": by_class(manifest, pixels, images, seed)}
    subset = manifest["source_split"].to_numpy(dtype=object)
    if np.isin(subset, ["train", "val", "test"]).any():
        pages["subsets"] = by_subset(manifest, pixels, subset, images, seed)
    pages[f"augmentation-{augmentation}"] = by_draw(manifest, pixels, strengths, augmentation, images, draws, seed)
    for name, page in pages.items():
        file = out / f"{name}.png"
        with replacing(file) as scratch:
            page.save(scratch, "PNG")
        print(file)


def _strengths(name: str) -> "AugmentationConfig":
    """Return the settings of a file of ``conf/augmentation``."""
    from pneumonia.config.compose import compose

    return compose(f"augmentation={name}").augmentation
