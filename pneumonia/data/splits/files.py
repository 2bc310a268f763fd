"""Read and write splits as files, checked against the images before use; describe classes that are too rare for a split."""

from pathlib import Path
from typing import Final

import pandas as pd

from pneumonia.config.schema import SplitConfig
from pneumonia.data.splits.assign import check_split, fold_view, make_split, split_sha256
from pneumonia.data.splits.deal import FEWEST, NO_FOLD
from pneumonia.data.splits.leaks import UNUSED
from pneumonia.errors import ConfigError, ManifestError, some
from pneumonia.system.arrays import Ints
from pneumonia.system.console import warn
from pneumonia.system.files import replacing
from pneumonia.tasks import SUBSETS, in_class_order

COLUMNS: Final = ("image_id", "subset", "fold")


def load_split(manifest: pd.DataFrame, config: SplitConfig, group: Ints | None = None) -> pd.DataFrame:
    """Return the split of a config: read from ``split.file`` if it is set, assigned otherwise.

    The subsets of a file are kept, except that ``split.fold`` selects the fold of ``kfold`` and ``rotating`` that validates.
    Classes with too few patients for the split are warned of.

    Raises:
        ManifestError: The file can't be read, or is not of these images.
        ConfigError, SplitError, SplitLeakageError: See :func:`pneumonia.data.splits.assign.make_split`.
    """
    split = make_split(manifest, config, group) if config.file is None else _from_file(manifest, config, group)
    for text in rare_classes(manifest, split):
        warn(text)
    return split


def rare_classes(manifest: pd.DataFrame, split: pd.DataFrame) -> list[str]:
    """Return a sentence or two for each class that a subset or fold lacks, or that has few patients."""
    columns = {"label": manifest["label"], "patient": manifest["patient_id"]}
    table = split[["subset", "fold"]].assign(**columns)[(split["subset"] != UNUSED).to_numpy()]
    subsets = [subset for subset in SUBSETS if (table["subset"] == subset).any()]
    folds = int(split["fold"].max()) + 1
    found = []
    for name in in_class_order(table["label"].unique()):
        own = table[table["label"] == name]
        patients = own["patient"].nunique()
        by_subset = own.groupby("subset")["patient"].nunique().reindex(subsets, fill_value=0)
        absent = [subset for subset in subsets if not by_subset[subset]]
        absent_folds = folds - own.loc[own["fold"] >= 0, "fold"].nunique()
        if patients >= FEWEST and not absent and not absent_folds:
            continue
        counts = ", ".join(f"{subset} {by_subset[subset]}" for subset in subsets)
        text = f"{name} has {patients} patients ({counts}), with {len(own)} images."
        if patients < FEWEST:
            text += " They are too few for the shares of the split, so metrics of this class are uncertain."
        if absent_folds:
            text += f" {absent_folds} of {folds} folds have no image of it."
        if absent:
            text += f" Metrics that need all classes are undefined on {some(absent)}."
        found.append(text)
    return found


def _from_file(manifest: pd.DataFrame, config: SplitConfig, group: Ints | None) -> pd.DataFrame:
    split = read_split(Path(str(config.file)), manifest)
    if config.rules.folded:
        folds = split["fold"].to_numpy()
        if not (folds == config.fold).any() or folds.max() == NO_FOLD:
            raise ConfigError(
                f"split.fold={config.fold} is no fold of {config.file}, which has {folds.max() + 1}. Choose another one, or "
                f"make the file with `pneumonia data split SOURCE --method {config.method}`."
            )
        split = fold_view(split, config.fold)
    check_split(manifest, split, config, group)
    return split


def read_split(path: Path, manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a split file in the order of the manifest.

    Raises:
        ManifestError: Missing, no parquet, missing columns, unknown subsets, or images that do not match.
    """
    check_split_file(path)
    try:
        split = pd.read_parquet(path, columns=list(COLUMNS))
        split = split.astype({"image_id": "str", "subset": "str", "fold": "int64"})
    except Exception as error:
        raise ManifestError(
            f"{path} is not a split file: it must be parquet with the columns {', '.join(COLUMNS)} ({error}). "
            "`pneumonia data split SOURCE` writes one."
        ) from error
    unknown = sorted(set(split["subset"]) - {*SUBSETS, UNUSED})
    if unknown:
        raise ManifestError(f"{path} has unknown subsets: {some(unknown)}. They must be {', '.join(SUBSETS)} or {UNUSED}.")
    twice = split["image_id"][split["image_id"].duplicated()]
    ours, theirs = set(manifest["image_id"]), set(split["image_id"])
    if len(twice) or ours != theirs:
        wrong = [
            f"{len(names)} {what}, for example {some(sorted(names), 3)}"
            for what, names in (
                ("images occur twice", set(twice)),
                ("images of the data are not in it", ours - theirs),
                ("of its images are not in the data", theirs - ours),
            )
            if names
        ]
        raise ManifestError(
            f"{path} does not match the data: {'; '.join(wrong)}. A split must assign every image. Make a new one with "
            "`pneumonia data split SOURCE`."
        )
    return split.set_index("image_id").loc[manifest["image_id"]].reset_index()[list(COLUMNS)]


def check_split_file(path: Path) -> None:
    """Check that a split file exists, before the expensive steps that precede reading it.

    Raises:
        ManifestError: There is no such file.
    """
    if not path.is_file():
        raise ManifestError(f"There is no split file {path}. `pneumonia data split SOURCE` writes one.")


def write_split(split: pd.DataFrame, folder: Path) -> Path:
    """Write ``split-<hash>.parquet`` atomically, and return its path."""
    path = folder / f"split-{split_sha256(split)[:12]}.parquet"
    with replacing(path) as part:
        split.to_parquet(part, index=False)
    return path


def as_trained(split: pd.DataFrame, sha256: str, path: Path) -> pd.DataFrame:
    """Return the split of a run, checked against the hash that the run recorded; ``path`` is named in the message.

    Raises:
        ManifestError: It is another split; its scores could be of images that the model was trained on.
    """
    if split_sha256(split) != sha256:
        raise ManifestError(
            f"{path} was changed since the run was trained: it assigns images to other subsets, so its scores could be of images "
            "that the model has seen. Put the file back, or train the run again with force=true."
        )
    return split


def row_by_row(split: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Return a split in the row order of a manifest with the same images."""
    return split.set_index("image_id").loc[manifest["image_id"]].reset_index()
