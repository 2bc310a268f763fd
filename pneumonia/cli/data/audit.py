"""`pneumonia data audit`: finds leaks, copies and shortcuts; exit code 1 on a leak, so that a Makefile or CI can stop."""

import json
import os
from pathlib import Path
from typing import Any

from pneumonia.cli.data import Words
from pneumonia.errors import ConfigError

SIZE = 96  # pixels a side of what is measured and shown


def run(arguments: list[str]) -> int:
    """Audits, prints tables, writes ``audit.json``, ``pairs.csv`` and ``index.html``.

    Returns:
        1 where a patient or an X-ray stands in two parts; 0 otherwise.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    parser = Words(
        "pneumonia data audit",
        usage="pneumonia data audit SOURCE [split=METHOD [split.KEY=VALUE ...]] [--split FILE] [--out DIR] [--json]",
        description="Holds a folder of X-rays, an archive or a manifest.parquet against what makes results false: patients or "
        "copies of an image in two parts, labels that contradict each other, and what file format, a thumbnail or the part "
        "alone give away. Exit code 1 where there is a leak.",
        epilog="split=METHOD audits that split instead of the release's own folders; the words are those of `pneumonia data "
        "split`.",
    )
    parser.add_argument("source", metavar="SOURCE", type=Path)
    parser.add_argument("--split", metavar="FILE", type=Path, help="audit a file of `pneumonia data split`")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("audit"), help="where the page goes (audit)")
    parser.add_argument("--labels", metavar="FILE.csv", type=Path, help="a table of labels")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON instead of the page's path")
    parser.add_argument("--on-bad-image", choices=("error", "skip"), default="error")
    parser.add_argument(
        "--cache-dir", metavar="DIR", type=Path, default=Path(os.environ.get("PNEUMONIA_CACHE", "cache"))
    )
    words = [word for word in arguments if word.startswith("split") and "=" in word]  # they may stand anywhere
    options = parser.parse_args([word for word in arguments if word not in words])
    plan = _plan(words, options.split)
    import numpy as np
    import pandas as pd

    from pneumonia.console import say, warn
    from pneumonia.data.audit import audit
    from pneumonia.data.audit_page import page
    from pneumonia.data.cache import Shape, load_cache
    from pneumonia.data.manifest import broken, load_manifest
    from pneumonia.data.split_files import load_split
    from pneumonia.storage.local import replacing, write_json

    manifest = load_manifest(options.source.expanduser(), options.cache_dir, options.labels, Shape(SIZE))
    cache = load_cache(manifest, SIZE, "squash", options.cache_dir)
    if cache.problems and options.on_bad_image == "error":
        raise broken(cache.problems)
    rows = np.flatnonzero(~manifest["path"].isin(list(cache.problems)).to_numpy())
    pixels = np.asarray(cache.pixels[rows])
    manifest = manifest.iloc[rows].reset_index(drop=True)
    parts = None if plan is None else load_split(manifest, plan)["part"]
    found = audit(manifest, pixels, parts, "folders" if plan is None else plan.file or plan.method)
    found["skipped"] = cache.problems
    _show(found)
    with replacing(options.out / "index.html") as part:
        part.write_text(page(found, manifest, pixels, str(options.source)), encoding="utf-8")
    with replacing(options.out / "pairs.csv") as part:
        pd.json_normalize(found["pairs"]).to_csv(part, index=False)
    write_json(options.out / "audit.json", found)
    for path, reason in cache.problems.items():
        warn(f"left out {path}: {reason}")
    say(f"Written: [bold]{options.out / 'index.html'}[/], audit.json and pairs.csv beside it")
    print(json.dumps(found, indent=2, allow_nan=False) if options.json else options.out / "index.html")
    return 1 if found["leaks"] else 0


def _plan(words: list[str], file: Path | None) -> Any:
    """The split to audit; leaky ones too, since finding that out is the point."""
    from pneumonia.cli import key_values
    from pneumonia.cli.data.split import KEYS, split_config

    settings = key_values(words, KEYS)
    if file is not None and settings:
        raise ConfigError("Both --split FILE and split=METHOD are there. Say one of them.")
    if file is not None:
        settings = {"split": "given", "split.file": str(file)}
    return split_config({**settings, "split.leaky": "true"}) if settings else None


def _show(found: dict[str, Any]) -> None:
    from pneumonia.console import figure, say, table, warn
    from pneumonia.data.audit_page import KINDS, TASKS, conclusion

    labels = sorted({label for part in found["parts"].values() for label in part["classes"]})
    rows = [
        (
            name or "all",
            *(str(part["classes"].get(label, 0)) for label in labels),
            str(part["images"]),
            str(part["patients"]),
        )
        for name, part in found["parts"].items()
    ]
    table("Parts and classes", ("part", *labels, "images", "patients"), rows)
    counts = found["duplicates"]
    table("Copies", ("what", "count"), [(name.replace("_", " "), str(count)) for name, count in counts.items()])
    rows = [
        (KINDS[kind], TASKS[task], score["reason"], "", "")
        if "reason" in score
        else (
            KINDS[kind],
            TASKS[task],
            figure(score["accuracy"], 3),
            figure(score["auroc"], 3),
            figure(score["largest_class"], 3),
        )
        for kind, by_task in found["baselines"].items()
        for task, score in by_task.items()
    ]
    table("Without looking at lungs", ("what a model sees", "task", "accuracy", "AUROC", "largest class"), rows)
    rows = [
        (
            " against ".join(entry["parts"]),
            *(entry[kind].get("reason") or figure(entry[kind]["auroc"], 3) for kind in KINDS),
        )
        for entry in found["shift"]
    ]
    if rows:
        table("Telling parts apart: AUROC, 0.5 is chance", ("parts", *KINDS), rows)
    kind, verdict = conclusion(found)
    (warn if kind == "leak" else say)(verdict)
