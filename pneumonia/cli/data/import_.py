"""`pneumonia data import`: recognise a release, print its contents, and write the manifest."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pneumonia.cli.parsing import FILE, PATH, Verb, cache_dir, on_bad_image, task
from pneumonia.errors import BrokenImagesError, ConfigError, LayoutError, broken_images, printable

if TYPE_CHECKING:
    import pandas as pd

    from pneumonia.tasks import Task

HOSTS: Final = ("kaggle", "huggingface", "medmnist")
SIZES: Final = (28, 64, 128, 224)


@click.command(
    cls=Verb,
    examples=[
        "pneumonia data import chest_xray --out manifest.parquet",
        "pneumonia data import --from medmnist --size 64",
        "pneumonia data import radiographs --task conf/task/covid.yaml",
    ],
)
@click.argument("source", metavar="[SOURCE]", required=False, type=PATH)
@click.option("--from", "host", type=click.Choice(HOSTS), help="Download a release first; see below.")
@click.option("--size", type=click.Choice(SIZES), help="Pixels a side, with --from medmnist.  [default: 28]")
@click.option("--repo", metavar="OWNER/NAME", help="Data set, with --from huggingface.")
@click.option("--labels", metavar="FILE.csv", type=FILE, help="Table of labels; see below.")
@task
@click.option("--out", metavar="FILE", type=FILE, default=Path("manifest.parquet"), help="The manifest.")
@on_bad_image
@cache_dir
def command(
    source: Path | None,
    host: str | None,
    size: int | None,
    repo: str | None,
    labels: Path | None,
    task: "Task | None",
    out: Path,
    on_bad_image: str,
    cache_dir: Path,
) -> None:
    """Recognise a release and write its manifest: one row per image, which all other commands take as SOURCE or data.root.

    SOURCE is a folder of X-rays (Kaggle, Mendeley v3, DICOM, or with a table of labels), a MedMNIST .npz, or a .zip, .tar or
    .tar.gz of these. No file of it is moved or changed.

    A table of labels has a column image (or path, file, filename, image_id) and a column label (or class): normal, virus,
    bacteria or pneumonia; optionally patient_id, and split (train, val, test). Numbers need a header that defines them: 'label
    (0=normal; 1=virus; 2=bacteria)', or 'pneumonia' for 0 and 1. The only table in a folder is used without --labels if names
    and folders do not tell the labels.

    --task FILE reads other classes than these: their names and synonyms in folders and tables, in any case. The manifest then
    holds these classes as labels.

    --from downloads a release and resumes an interrupted download: kaggle (1.2 GB), huggingface (default:
    hf-vision/chest-xray-pneumonia), medmnist (binary). It needs pip install "pneumonia[download]".
    """
    if (source is None) == (host is None):
        given = "both SOURCE and --from" if source else "neither SOURCE nor --from"
        raise ConfigError(f"There is {given}. Name what to import: a folder or file, or --from {'|'.join(HOSTS)}.")
    if size and host != "medmnist":
        raise ConfigError("--size goes with --from medmnist alone: other releases keep their sizes.")
    if repo and host != "huggingface":
        raise ConfigError("--repo goes with --from huggingface alone.")
    if out.suffix != ".parquet":
        raise ConfigError(f"--out {out} can't be the manifest; name a file that ends in .parquet.")
    if source and source.suffix == ".parquet":
        raise ConfigError(f"{source} is a manifest already; other commands take it as it is.")
    if source and not source.exists():
        raise LayoutError(f"{source} does not exist. Check the path.")
    if host:
        from pneumonia.data.sources.downloads import fetch

        with redirect_stdout(sys.stderr):  # messages of the clients; stdout is for the path of the manifest
            source = fetch(host, cache_dir, size or 28, repo)
    from pneumonia.tasks import SUBTYPE

    assert source is not None
    _import(source, labels, task or SUBTYPE, out, on_bad_image, cache_dir)
    print(out)


def _import(source: Path, labels: Path | None, task: "Task", out: Path, on_bad_image: str, cache_dir: Path) -> None:
    from pneumonia.data.manifest import load_manifest, write_manifest
    from pneumonia.data.sources.releases import recognise
    from pneumonia.system.console import say

    release = recognise(source, cache_dir, labels, task)
    manifest = load_manifest(source, cache_dir, labels, task=task)
    bad = manifest[manifest["problem"] != ""]
    if len(bad) and on_bad_image == "error":
        raise _broken(bad)
    good = manifest[manifest["problem"] == ""].reset_index(drop=True)
    if not len(good):
        raise _broken(bad)
    _show(f"{release.kind}: {source}", good)
    for note in release.notes:
        say(f"- {_plain(note)}")
    if len(bad):
        say(f"- Left out: {len(bad)} images that can't be read.")
        for path, reason in zip(bad["path"], bad["problem"], strict=True):
            say(f"    {_plain(path)}: {_plain(reason)}")
    write_manifest(good, out)


def _show(title: str, manifest: "pd.DataFrame") -> None:
    """Show counts by subset and class, patients, and the range of sizes."""
    from pneumonia.system.class_tables import print_class_counts
    from pneumonia.tasks import in_class_order

    labels = in_class_order(manifest["label"])
    subsets = [subset for subset in ("train", "val", "test", "") if (manifest["source_split"] == subset).any()]
    groups = [(subset or "no subset", manifest[manifest["source_split"] == subset]) for subset in subsets]
    if len(groups) > 1:
        groups.append(("all", manifest))
    rows = [
        (
            subset,
            *(str(int((rows["label"] == label).sum())) for label in labels),
            str(len(rows)),
            _patients(rows["patient_id"]),
            _range(rows["width"]),
            _range(rows["height"]),
        )
        for subset, rows in groups
    ]
    print_class_counts(title, labels, rows, ("images", "patients", "width px", "height px"))


def _patients(ids: "pd.Series[str]") -> str:
    """Count the known patients; images without one are not counted."""
    from pneumonia.data.sources.file_names import UNKNOWN_PATIENT

    unknown = ids.str.startswith(UNKNOWN_PATIENT)
    known = str(ids[~unknown].nunique())
    if not unknown.any():
        return known
    return "unknown" if unknown.all() else f"{known} + unknown"


def _range(values: "pd.Series[int]") -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _broken(bad: "pd.DataFrame") -> BrokenImagesError:
    return broken_images(
        dict(zip(bad["path"], bad["problem"], strict=True)),
        "No manifest was written. Replace them, or use --on-bad-image skip to leave them out.",
    )


def _plain(text: str) -> str:
    """Escape control characters and markup in foreign text."""
    from rich.markup import escape

    return escape(printable(text))
