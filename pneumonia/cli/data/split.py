"""`pneumonia data split`: divides a manifest into subsets and folds, and keeps the split as a file."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.cli import key_values, wants_help
from pneumonia.errors import ConfigError, some

if TYPE_CHECKING:
    from pneumonia.config.schema import SplitConfig

HELP = """
usage: pneumonia data split SOURCE [split=METHOD] [split.KEY=VALUE ...] [--out DIR]

Divides the images of a folder, archive or manifest.parquet into train, val and test, prints what stands where, and writes
DIR/split-<hash>.parquet (image_id, subset, fold). A split that leaks patients or copies is refused (exit code 2) unless its
method is named leaky. Train on it:

  pneumonia train data=folder data.root=SOURCE split=given split.file=DIR/split-<hash>.parquet

  split=grouped|official|random|kfold|rotating|given
  split.seed=0  split.k=5  split.fold=0  split.holdout=0.1|folder|none  split.fraction=1  split.leaky=true
  --out DIR        default: splits
  cache_dir=cache
"""
KEYS = ("split", "split.seed", "split.k", "split.fold", "split.holdout", "split.fraction", "split.leaky", "cache_dir")


def run(arguments: list[str]) -> int:
    """Makes the split and prints the path of its file.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    if wants_help(arguments, HELP):
        return 0
    out, words = option(arguments, "--out", "splits")
    sources = [word for word in words if "=" not in word]
    if len(sources) != 1 or sources[0].startswith("-"):
        raise ConfigError(
            f"Name one SOURCE, a folder of X-rays or a manifest.parquet; there are {len(sources)}: {', '.join(sources)}."
        )
    settings = key_values([word for word in words if "=" in word], KEYS)
    plan = split_config({key: value for key, value in settings.items() if key.startswith("split")})
    cache_dir = Path(settings.get("cache_dir") or os.environ.get("PNEUMONIA_CACHE") or "cache")
    from pneumonia.data.duplicates import groups
    from pneumonia.data.manifest import load_manifest
    from pneumonia.data.splits.files import load_split, write_split
    from pneumonia.data.splits.leaks import UNUSED, find_leaks
    from pneumonia.system.console import table, warn
    from pneumonia.tasks import SUBSETS, in_class_order

    manifest = load_manifest(Path(sources[0]).expanduser(), cache_dir)
    bad = manifest[manifest["problem"] != ""]
    if len(bad):  # a run leaves them out too, with data.on_bad_image=skip, or stops
        warn(f"Images that can't be read are not in the split: {some(bad['path'], 3)}")
        manifest = manifest[manifest["problem"] == ""].reset_index(drop=True)
    group = groups(manifest)
    split = load_split(manifest, plan, group)
    labels = in_class_order(manifest["label"].unique())
    rows = []
    for subset in (*SUBSETS, UNUSED):
        inside = (split["subset"] == subset).to_numpy()
        if inside.any():
            counts = [str((inside & (manifest["label"] == label)).sum()) for label in labels]
            rows.append((subset, *counts, str(inside.sum()), str(manifest["patient_id"][inside].nunique())))
    table(f"Split {plan.method}, images by class", ("subset", *labels, "all", "patients"), rows)
    if (split["fold"] >= 0).any():
        folds = split[split["fold"] >= 0].groupby("fold").size()
        counted = [
            (
                str(fold),
                *(str(((split["fold"] == fold) & (manifest["label"] == label)).sum()) for label in labels),
                str(size),
            )
            for fold, size in folds.items()
        ]
        table("Folds, images by class", ("fold", *labels, "all"), counted)
    for leak in find_leaks(manifest, split, group, rotating=plan.rules.rotates):
        warn(
            f"LEAKY: {leak.images} of {leak.of} {leak.subset} images ({leak.fraction:.0%}) show a patient of the training split."
        )
    print(write_split(split, Path(out)))
    return 0


def split_config(words: dict[str, str]) -> "SplitConfig":
    """A checked ``SplitConfig`` from ``split=METHOD`` and ``split.KEY=VALUE`` words, over the method's own file.

    Raises:
        ConfigError: An unknown method or value.
    """
    from pneumonia.config.compose import compose

    return compose(*(f"{key}={value}" for key, value in words.items())).split


def option(arguments: list[str], name: str, default: str) -> tuple[str, list[str]]:
    """The value after an option (or behind its ``=``), and the other words."""
    words, value = [], default
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if word == name:
            if not queue:
                raise ConfigError(f"{name} has no value. Say {name} DIR.")
            value = queue.pop(0)
        elif word.startswith(f"{name}="):
            value = word.partition("=")[2]
        else:
            words.append(word)
    return value, words
