"""`pneumonia data audit`: find leakage, duplicates and shortcuts."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

import click

from pneumonia.cli.data.split import MethodOptions, method_options, split_config
from pneumonia.cli.parsing import FILE, FOLDER, PATH, Verb, cache_dir, on_bad_image, task
from pneumonia.errors import ConfigError, broken_images

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from pneumonia.config.schema import SplitConfig
    from pneumonia.data.audit.records import Audit
    from pneumonia.tasks import Task

SIZE: Final = 96  # pixels a side of the images that are measured and shown


@click.command(
    cls=Verb,
    examples=[
        "pneumonia data audit chest_xray",
        "pneumonia data audit chest_xray --method kfold --k 5",
    ],
)
@click.argument("source", metavar="SOURCE", type=PATH)
@click.option("--split", metavar="FILE", type=FILE, help="Audit a file of `pneumonia data split`.")
@method_options
@click.option("--labels", metavar="FILE.csv", type=FILE, help="Table of labels.")
@task
@click.option("--out", metavar="DIR", type=FOLDER, default=Path("audit"), help="Folder of the page.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON instead of the path of the page.")
@on_bad_image
@cache_dir
def command(
    source: Path,
    split: Path | None,
    labels: Path | None,
    task: "Task | None",
    out: Path,
    as_json: bool,
    on_bad_image: str,
    cache_dir: Path,
    **method: Unpack[MethodOptions],
) -> int:
    """Audit a folder of X-rays, an archive or a manifest.parquet: index.html, audit.json and pairs.csv.

    Finds patients and copies of an image in two subsets, contradicting labels, and how much file format, a thumbnail or the
    subset alone reveal about the label. Audits the subsets of the release's own folders; with --split FILE, or --method and its
    options as for `pneumonia data split`, that split. Exit code 1 on leakage.
    """
    plan = _plan(split, method)
    import pandas as pd
    from rich.markup import escape

    from pneumonia.data.audit.audit import PAIR, audit
    from pneumonia.data.splits.files import load_split
    from pneumonia.report.audit_page import audit_page
    from pneumonia.system.console import say, warn
    from pneumonia.system.files import replacing, write_json
    from pneumonia.tasks import TASKS

    manifest, pixels, problems = readable_images(source, SIZE, labels, on_bad_image, cache_dir, task)
    assigned = None if plan is None else load_split(manifest, plan)
    name = "folders" if plan is None else plan.file or plan.method
    subset, fold = (None, None) if assigned is None else (assigned["subset"], assigned["fold"])
    tasks = tuple(TASKS.values()) if task is None else (task,)
    found = replace(audit(manifest, pixels, subset, name, fold, tasks), skipped=problems)
    plain = asdict(found)
    _show(found)
    with replacing(out / "index.html") as part:
        part.write_text(audit_page(found, manifest, pixels, str(source)), encoding="utf-8")
    with replacing(out / "pairs.csv") as part:
        pd.DataFrame(plain["pairs"], columns=PAIR).to_csv(part, index=False)
    write_json(out / "audit.json", plain)
    for path, reason in problems.items():
        warn(f"left out {path}: {reason}")
    index = out / "index.html"
    say(f"Written: [bold]{escape(str(index))}[/], audit.json and pairs.csv beside it")
    print(json.dumps(plain, indent=2, allow_nan=False) if as_json else index)
    return 1 if found.leaks else 0


def readable_images(
    source: Path, size: int, labels: Path | None, on_bad_image: str, cache_dir: Path, task: "Task | None"
) -> "tuple[pd.DataFrame, NDArray[np.uint8], dict[str, str]]":
    """Load all images that can be read.

    Returns:
        Their manifest, their pixels ``(N, size, size)``, and a reason by path for each of the others.

    Raises:
        BrokenImagesError: Some can't be read and may not be left out, or none can be read.
    """
    from pneumonia.data.cache import Shape, load_cache
    from pneumonia.data.manifest import load_manifest
    from pneumonia.tasks import SUBTYPE

    manifest = load_manifest(source, cache_dir, labels, Shape(size), task or SUBTYPE)
    cache = load_cache(manifest, size, "stretch", cache_dir)
    good = ~manifest["path"].isin(list(cache.problems)).to_numpy()
    if cache.problems and (on_bad_image == "error" or not good.any()):
        raise broken_images(
            dict(sorted(cache.problems.items())),
            "Nothing was written. Replace them, or use --on-bad-image skip to leave them out.",
        )
    pixels = cache.pixels if good.all() else cache.pixels[good]
    return manifest[good].reset_index(drop=True), pixels, cache.problems


def _plan(file: Path | None, method: MethodOptions) -> "SplitConfig | None":
    """Return the split to audit, which may leak; ``None`` for the release's own folders."""
    chosen = any(value is not None for value in method.values())
    if file is not None and chosen:
        raise ConfigError("--split FILE and --method with its options exclude each other. Use one of them.")
    if file is not None:  # not as an override, which would need quotes around brackets and commas in the path
        return replace(split_config(True, method="given"), file=str(file.expanduser()))
    return split_config(True, **method) if chosen else None


def _show(found: "Audit") -> None:
    from rich.markup import escape

    from pneumonia.data.audit.findings import KINDS, conclusion, likeness, ranged, remarks
    from pneumonia.system.class_tables import print_class_counts
    from pneumonia.system.console import say, table, warn

    rows = [
        (
            escape(name) or "no subset",
            *(str(subset.classes.get(label, 0)) for label in found.labels),
            str(subset.images),
            str(subset.patients) if found.patients_known else "unknown",
        )
        for name, subset in found.subsets_and_all.items()
    ]
    print_class_counts("Subsets and classes", list(map(escape, found.labels)), rows, ("images", "patients"))
    counts = vars(found.duplicates).items()
    table("Copies", ("what", "count"), [(name.replace("_", " "), str(count)) for name, count in counts])
    for name, title in found.tasks.items():
        scores = {kind: found.baselines[kind][name] for kind in KINDS}
        largest = scores["thumbnail"].largest_class
        beside = "" if largest is None else f" (largest class: {largest:.3f})"
        rows = []
        for kind, score in scores.items():
            for name, one in ((kind, score), (f"{kind}, on val", score.on_val)):
                if one is not None:
                    accuracy, auroc = (ranged(one.intervals[metric]) for metric in ("accuracy", "auroc"))
                    unknown = (escape(str(one.reason)), "")
                    rows.append((name, *(unknown if one.accuracy is None else (accuracy, auroc))))
        table(f"Without looking at lungs: {title}{beside}", ("from", "accuracy (95%)", "AUROC (95%)"), rows)
    rows = [
        (
            escape(f"{' against '.join(shift.subsets)}, {kind}"),
            "" if score.auroc is None else ranged(score.intervals["auroc"]),
            escape(likeness(score)),
        )
        for shift in found.shift
        for kind, score in shift.scores.items()
    ]
    if rows:
        table("Telling subsets apart: 0.5 is chance", ("subsets, by", "AUROC (95%)", "they are"), rows)
    for text in remarks(found):
        warn(text)
    kind, verdict = conclusion(found)
    if kind == "leak":
        warn(verdict)
    else:
        say(escape(verdict))
