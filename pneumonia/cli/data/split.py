"""`pneumonia data split`: divide images into subsets and folds, and write the split to a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

import click

from pneumonia.cli.parsing import FOLDER, PATH, Verb, cache_dir, options, task
from pneumonia.errors import some

if TYPE_CHECKING:
    from pneumonia.config.schema import SplitConfig
    from pneumonia.tasks import Task


class MethodOptions(TypedDict, total=False):
    """The options of :data:`method_options`; ``None`` for what the file of ``conf/split`` says."""

    method: str | None
    seed: int | None
    k: int | None
    fold: int | None
    holdout: str | None
    fraction: float | None


method_options: Final = options(
    click.option("--method", metavar="grouped|official|kfold|rotating|random|given", help="How to divide.  [default: grouped]"),
    click.option("--seed", type=int, metavar="N", help="Seed of the division.  [default: 0]"),
    click.option("--k", type=int, metavar="N", help="Number of folds.  [default: 5]"),
    click.option("--fold", type=int, metavar="N", help="Fold for validation, from 0.  [default: 0]"),
    click.option("--holdout", metavar="0.1|folder|none", help="Test subset of folds.  [default: 0.1]"),
    click.option("--fraction", type=float, metavar="X", help="Fraction of the training subset to keep.  [default: 1]"),
)


@click.command(
    cls=Verb,
    examples=[
        "pneumonia data split chest_xray --method kfold --k 5",
        "pneumonia train data=folder data.root=chest_xray split=given split.file=splits/split-<hash>.parquet",
    ],
)
@click.argument("source", metavar="SOURCE", type=PATH)
@method_options
@click.option("--leaky/--no-leaky", default=None, help="Allow leakage, or refuse it whatever the method.")
@task
@click.option("--out", metavar="DIR", type=FOLDER, default=Path("splits"), help="Folder of the file.")
@cache_dir
def command(
    source: Path, leaky: bool | None, task: "Task | None", out: Path, cache_dir: Path, **method: Unpack[MethodOptions]
) -> None:
    """Divide the images of SOURCE into train, val and test, and write DIR/split-<hash>.parquet (image_id, subset, fold).

    SOURCE is a folder of X-rays, an archive or a manifest.parquet. The counts are shown, and the path of the file is printed. A
    split that leaks patients or copies is refused (exit code 2), unless its method is known to leak.
    """
    plan = split_config(leaky, **method)
    from pneumonia.data.duplicates import groups
    from pneumonia.data.manifest import load_manifest
    from pneumonia.data.splits.files import load_split, write_split
    from pneumonia.data.splits.leaks import UNUSED, find_leaks
    from pneumonia.system.class_tables import print_class_counts
    from pneumonia.system.console import warn
    from pneumonia.tasks import SUBSETS, SUBTYPE, in_class_order

    manifest = load_manifest(source, cache_dir, task=task or SUBTYPE)
    bad = manifest[manifest["problem"] != ""]
    if len(bad):  # training with data.on_bad_image=skip leaves them out too
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
    print_class_counts(f"Split {plan.method}, images by class", labels, rows, ("all", "patients"))
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
        print_class_counts("Folds, images by class", labels, counted, ("all",))
    for leak in find_leaks(manifest, split, group, rotating=plan.rules.rotates):
        warn(
            f"LEAKY: {leak.images} of {leak.of} {leak.subset} images ({leak.fraction:.0%}) show a patient of the training split."
        )
    print(write_split(split, out))


def split_config(leaky: bool | None, **method: Unpack[MethodOptions]) -> "SplitConfig":
    """Return the checked ``SplitConfig`` of a file of ``conf/split`` with other values.

    Raises:
        ConfigError: An unknown method or value.
    """
    from pneumonia.config.compose import compose

    values = {"split" if key == "method" else f"split.{key}": value for key, value in method.items()}
    given = {key: value for key, value in (values | {"split.leaky": leaky}).items() if value is not None}
    return compose(*(f"{key}={value}" for key, value in given.items())).split
