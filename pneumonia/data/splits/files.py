"""Keeps splits as files, and believes one only after it was held against the images."""

from pathlib import Path
from typing import Final

import pandas as pd

from pneumonia.config.schema import SplitConfig
from pneumonia.data.splits.assign import (
    NO_FOLD,
    check_split,
    make_split,
    rare_classes,
    split_sha256,
    subsets_of_fold,
)
from pneumonia.data.splits.leaks import UNUSED
from pneumonia.errors import ConfigError, ManifestError, some
from pneumonia.system.arrays import Ints
from pneumonia.system.console import warn
from pneumonia.system.files import replacing
from pneumonia.tasks import SUBSETS

COLUMNS: Final = ("image_id", "subset", "fold")


def load_split(manifest: pd.DataFrame, config: SplitConfig, group: Ints | None = None) -> pd.DataFrame:
    """The split that a config names: read from ``split.file`` where there is one, made otherwise.

    A file's subsets stand as they are, but for ``kfold`` and ``rotating``, where ``split.fold`` says which fold validates.
    Warns of classes with too few patients for the split.

    Raises:
        ManifestError: The file can't be read, or is not of these images.
        ConfigError, SplitError, SplitLeakageError: See :func:`pneumonia.data.splits.assign.make_split`.
    """
    split = make_split(manifest, config, group) if config.file is None else _from_file(manifest, config, group)
    for text in rare_classes(manifest, split):
        warn(text)
    return split


def _from_file(manifest: pd.DataFrame, config: SplitConfig, group: Ints | None) -> pd.DataFrame:
    split = read_split(Path(str(config.file)), manifest)
    if config.rules.folded:
        folds = split["fold"].to_numpy()
        if not (folds == config.fold).any() or folds.max() == NO_FOLD:
            raise ConfigError(
                f"split.fold={config.fold} is no fold of {config.file}, which has {folds.max() + 1}. Choose another one, or "
                f"make the file with `pneumonia data split SOURCE split={config.method}`."
            )
        split["subset"] = subsets_of_fold(split["subset"].to_numpy(dtype=object), folds, config.fold)
    check_split(manifest, split, config, group)
    return split


def read_split(path: Path, manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows of a split file in the order of the manifest.

    Raises:
        ManifestError: Missing, no parquet, columns or subsets that are not ours, or images that do not match.
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
    strange = sorted(set(split["subset"]) - {*SUBSETS, UNUSED})
    if strange:
        raise ManifestError(
            f"{path} has subsets that we do not know: {some(strange)}. They must be {', '.join(SUBSETS)} or {UNUSED}."
        )
    twice = split["image_id"][split["image_id"].duplicated()]
    ours, theirs = set(manifest["image_id"]), set(split["image_id"])
    if len(twice) or ours != theirs:
        wrong = [
            f"{len(names)} {what}, for example {some(sorted(names), 3)}"
            for what, names in (
                ("images stand in it twice", set(twice)),
                ("images of the data are not in it", ours - theirs),
                ("of its images are not in the data", theirs - ours),
            )
            if names
        ]
        raise ManifestError(
            f"{path} does not fit the data: {'; '.join(wrong)}. A split says for every image where it goes. Make it anew with "
            "`pneumonia data split SOURCE`."
        )
    return split.set_index("image_id").loc[manifest["image_id"]].reset_index()[list(COLUMNS)]


def check_split_file(path: Path) -> None:
    """Says that a split file is missing, before hours are spent on what comes before it is read.

    Raises:
        ManifestError: There is no such file.
    """
    if not path.is_file():
        raise ManifestError(f"There is no split file {path}. `pneumonia data split SOURCE` writes one.")


def write_split(split: pd.DataFrame, folder: Path) -> Path:
    """Writes ``split-<hash>.parquet`` atomically, and returns its path."""
    path = folder / f"split-{split_sha256(split)[:12]}.parquet"
    with replacing(path) as part:
        split.to_parquet(part, index=False)
    return path


def as_trained(split: pd.DataFrame, sha256: str, path: Path) -> pd.DataFrame:
    """A split that a run has kept, once it is known to be the one that it was trained on.

    Args:
        split: As it was read.
        sha256: That the run recorded, from :func:`pneumonia.data.splits.assign.split_sha256`.
        path: Where it was read, for the message.

    Raises:
        ManifestError: It is another one; scores by it could be of images that the model was trained on.
    """
    if split_sha256(split) != sha256:
        raise ManifestError(
            f"{path} was changed since the run was trained: it divides the images otherwise, so scores by it could be of images "
            "that the model has seen. Put the file back, or train the run again with force=true."
        )
    return split


def row_by_row(split: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """A split with the rows of a manifest, in its order; the two name the same images."""
    return split.set_index("image_id").loc[manifest["image_id"]].reset_index()
