"""`pneumonia data import`: recognises a release, says what it found, and writes the manifest."""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pneumonia.cli import wants_help
from pneumonia.cli.data import Words
from pneumonia.errors import BrokenImagesError, ConfigError, LayoutError, broken_images, printable

if TYPE_CHECKING:
    import pandas as pd

HELP = """
usage: pneumonia data import SOURCE [--out manifest.parquet] [--labels FILE.csv]
       pneumonia data import --from kaggle|huggingface|medmnist [--size 28] [--repo OWNER/NAME]

Recognises a release by itself, says what it found, and writes its manifest: one row an image, which every other command
takes as SOURCE or data.root. Nothing is moved or changed.

  SOURCE              a folder of X-rays (Kaggle, Mendeley v3, DICOM, or with a table of labels), a MedMNIST .npz, or a
                      .zip, .tar or .tar.gz of these
  --labels FILE.csv   a table with a column image (or path, file, filename, image_id) and a column label (or class): normal,
                      virus, bacteria or pneumonia; perhaps patient_id, and split (train, val, test). Numbers need a header
                      that says what they mean: 'label (0=normal; 1=virus; 2=bacteria)', or 'pneumonia' for 0 and 1. The one
                      table in the folder is used by itself where names and folders do not say labels.
  --from HOST         downloads a release first; a broken download goes on where it was. Needs pip install
                      "pneumonia[download]". kaggle: 1.2 GB, kept by kagglehub; huggingface: the data set --repo
                      (hf-vision/chest-xray-pneumonia); medmnist: --size 28, 64, 128 or 224 px, binary
  --out FILE          where the manifest goes (manifest.parquet)
  --on-bad-image skip leaves out images that can't be read, and says so; without it they are listed and nothing is written
  --cache-dir DIR     where archives are unpacked and downloads kept (cache, or the environment variable PNEUMONIA_CACHE)
"""
HOSTS: Final = ("kaggle", "huggingface", "medmnist")


def run(arguments: list[str]) -> int:
    """Reads the words and imports; prints the path of the manifest on standard output.

    Raises:
        PneumoniaError: With the name of what is wrong; a manifest that was there stays as it was.
    """
    if wants_help(arguments, HELP):
        return 0
    words = _words(arguments)
    if words.host:
        from pneumonia.data.sources.downloads import fetch

        with redirect_stdout(sys.stderr):  # what the clients print is news; our answer is the manifest's path
            source = fetch(words.host, words.cache_dir, words.size or 28, words.repo)
    else:
        source = words.source
    _import(source, words)
    print(words.out)
    return 0


def _words(arguments: list[str]) -> argparse.Namespace:
    parser = Words("pneumonia data import", add_help=False, allow_abbrev=False)
    parser.add_argument("source", nargs="?")
    parser.add_argument("--from", dest="host", choices=HOSTS)
    parser.add_argument("--out", type=Path, default=Path("manifest.parquet"))
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--size", type=int, choices=(28, 64, 128, 224))
    parser.add_argument("--repo")
    parser.add_image_options()
    words = parser.parse_args(arguments)
    if bool(words.source) == bool(words.host):
        both = "both SOURCE and --from" if words.source else "neither SOURCE nor --from"
        raise ConfigError(f"There is {both}. Say what to import: a folder or file, or --from {'|'.join(HOSTS)}.")
    if words.size and words.host != "medmnist":
        raise ConfigError("--size goes with --from medmnist alone: other releases keep the size that they have.")
    if words.repo and words.host != "huggingface":
        raise ConfigError("--repo goes with --from huggingface alone.")
    if words.out.suffix != ".parquet" or words.out.is_dir():
        raise ConfigError(f"--out {words.out} can't be the manifest; name a file that ends in .parquet.")
    words.source = Path(words.source).expanduser() if words.source else None
    if words.source and words.source.suffix == ".parquet":
        raise ConfigError(f"{words.source} is a manifest already; other commands take it as it is.")
    if words.source and not words.source.exists():
        raise LayoutError(f"{words.source} does not exist. Check the path.")
    return words


def _import(source: Path, words: argparse.Namespace) -> None:
    from pneumonia.data.manifest import load_manifest, write_manifest
    from pneumonia.data.sources.releases import recognise
    from pneumonia.system.console import say

    release = recognise(source, words.cache_dir, words.labels)
    manifest = load_manifest(source, words.cache_dir, words.labels)
    bad = manifest[manifest["problem"] != ""]
    if len(bad) and words.on_bad_image == "error":
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
    write_manifest(good, words.out)


def _show(title: str, manifest: "pd.DataFrame") -> None:
    """Counts by subset and class, patients, and the range of sizes."""
    from pneumonia.system.console import table
    from pneumonia.tasks import LABELS, UNKNOWN_KIND

    labels = [label for label in (*LABELS, UNKNOWN_KIND) if (manifest["label"] == label).any()]
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
    table(title, ["subset", *labels, "images", "patients", "width px", "height px"], rows)


def _patients(ids: "pd.Series[str]") -> str:
    """How many are known; images that name none are no patients to be counted."""
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
        "No manifest was written. Replace them, or say --on-bad-image skip to leave them out.",
    )


def _plain(text: str) -> str:
    """Text from elsewhere, without power over the terminal or its markup."""
    from rich.markup import escape

    return escape(printable(text))
