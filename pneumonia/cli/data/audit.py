"""`pneumonia data audit`: finds leaks, copies and shortcuts; exit code 1 on a leak, so that a Makefile or CI can stop."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pneumonia.cli.data import Words
from pneumonia.errors import ConfigError, broken_images

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from pneumonia.config.schema import SplitConfig

SIZE: Final = 96  # pixels a side of what is measured and shown
SPLIT_WORD: Final = re.compile(r"split(\.\w+)?=")


def run(arguments: list[str]) -> int:
    """Audits, prints tables, writes ``audit.json``, ``pairs.csv`` and ``index.html``.

    Returns:
        1 where a patient or an X-ray stands in two subsets; 0 otherwise.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    parser = Words(
        "pneumonia data audit",
        usage="pneumonia data audit SOURCE [split=METHOD [split.KEY=VALUE ...]] [--split FILE] [--out DIR] [--json]",
        description="Holds a folder of X-rays, an archive or a manifest.parquet against what makes results false: patients or "
        "copies of an image in two subsets, labels that contradict each other, and what file format, a thumbnail or the subset "
        "alone give away. Exit code 1 where there is a leak.",
        epilog="split=METHOD audits that split instead of the release's own folders; the words are those of `pneumonia data "
        "split`.",
    )
    parser.add_argument("source", metavar="SOURCE", type=Path)
    parser.add_argument("--split", metavar="FILE", type=Path, help="audit a file of `pneumonia data split`")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("audit"), help="where the page goes (audit)")
    parser.add_argument("--labels", metavar="FILE.csv", type=Path, help="a table of labels")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON instead of the page's path")
    parser.add_image_options()
    words = [word for word in arguments if SPLIT_WORD.match(word)]  # they may stand anywhere
    options = parser.parse_args([word for word in arguments if word not in words])
    parser.check(options.out.is_dir() or not options.out.exists(), f"--out {options.out} is a file; name a folder")
    plan = _plan(words, options.split)
    import pandas as pd
    from rich.markup import escape

    from pneumonia.data.audit.audit import PAIR, audit
    from pneumonia.data.splits.files import load_split
    from pneumonia.report.audit_page import audit_page
    from pneumonia.system.console import say, warn
    from pneumonia.system.files import replacing, write_json

    manifest, pixels, problems = images(options, SIZE, options.labels)
    split = None if plan is None else load_split(manifest, plan)
    name = "folders" if plan is None else plan.file or plan.method
    found = audit(
        manifest, pixels, None if split is None else split["subset"], name, None if split is None else split["fold"]
    )
    found["skipped"] = problems
    _show(found)
    with replacing(options.out / "index.html") as part:
        part.write_text(audit_page(found, manifest, pixels, str(options.source)), encoding="utf-8")
    with replacing(options.out / "pairs.csv") as part:
        pd.DataFrame(found["pairs"], columns=PAIR).to_csv(part, index=False)
    write_json(options.out / "audit.json", found)
    for path, reason in problems.items():
        warn(f"left out {path}: {reason}")
    index = options.out / "index.html"
    say(f"Written: [bold]{escape(str(index))}[/], audit.json and pairs.csv beside it")
    print(json.dumps(found, indent=2, allow_nan=False) if options.json else index)
    return 1 if found["leaks"] else 0


def images(
    options: Any, size: int, labels: Path | None = None
) -> "tuple[pd.DataFrame, NDArray[np.uint8], dict[str, str]]":
    """The manifest and the pixels ``(N, size, size)`` of the images that can be read, and what is wrong with the others.

    Args:
        options: ``source``, ``cache_dir`` and ``on_bad_image``.
        size: Pixels a side.
        labels: A table of labels.

    Raises:
        BrokenImagesError: Some can't be read and may not be left out, or none can be read.
    """
    from pneumonia.data.cache import Shape, load_cache
    from pneumonia.data.manifest import load_manifest

    manifest = load_manifest(options.source.expanduser(), options.cache_dir, labels, Shape(size))
    cache = load_cache(manifest, size, "stretch", options.cache_dir)
    good = ~manifest["path"].isin(list(cache.problems)).to_numpy()
    if cache.problems and (options.on_bad_image == "error" or not good.any()):
        raise broken_images(
            dict(sorted(cache.problems.items())),
            "Nothing was written. Replace them, or say --on-bad-image skip to leave them out.",
        )
    pixels = cache.pixels if good.all() else cache.pixels[good]
    return manifest[good].reset_index(drop=True), pixels, cache.problems


def _plan(words: list[str], file: Path | None) -> "SplitConfig | None":
    """The split to audit; leaky ones too, since finding that out is the point."""
    from dataclasses import replace

    from pneumonia.cli import key_values
    from pneumonia.cli.data.split import KEYS, split_config

    settings = key_values(words, KEYS)
    if file is not None and settings:
        raise ConfigError("Both --split FILE and split=METHOD are there. Say one of them.")
    if file is not None:  # set here, and not as an override, which would stumble over brackets and commas in a path
        return replace(split_config({"split": "given", "split.leaky": "true"}), file=str(file.expanduser()))
    return split_config({**settings, "split.leaky": "true"}) if settings else None


def _show(found: dict[str, Any]) -> None:
    from rich.markup import escape

    from pneumonia.data.audit.findings import KINDS, TASKS, conclusion, likeness, ranged, remarks, with_all
    from pneumonia.system.console import say, table, warn
    from pneumonia.tasks import in_class_order

    labels = in_class_order(label for subset in found["subsets"].values() for label in subset["classes"])
    rows = [
        (
            escape(name) or "no subset",
            *(str(subset["classes"].get(label, 0)) for label in labels),
            str(subset["images"]),
            str(subset["patients"]) if found["patients_known"] else "unknown",
        )
        for name, subset in with_all(found).items()
    ]
    table("Subsets and classes", ("subset", *map(escape, labels), "images", "patients"), rows)
    counts = found["duplicates"]
    table("Copies", ("what", "count"), [(name.replace("_", " "), str(count)) for name, count in counts.items()])
    for task, title in TASKS.items():
        scores = {kind: found["baselines"][kind][task] for kind in KINDS}
        largest = scores["thumbnail"]["largest_class"]
        beside = "" if largest is None else f" (largest class: {largest:.3f})"
        rows = []
        for kind, score in scores.items():
            for name, one in ((kind, score), (f"{kind}, on val", score["on_val"])):
                if one is not None:
                    known = one["accuracy"] is not None
                    rows.append(
                        (name, ranged(one) if known else escape(one["reason"]), ranged(one, "auroc") if known else "")
                    )
        table(f"Without looking at lungs: {title}{beside}", ("from", "accuracy (95%)", "AUROC (95%)"), rows)
    rows = [
        (
            escape(f"{' against '.join(entry['subsets'])}, {kind}"),
            *(("", escape(likeness(score))) if score["auroc"] is None else (ranged(score, "auroc"), likeness(score))),
        )
        for entry in found["shift"]
        for kind, score in entry.items()
        if kind in KINDS
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
