"""Seconds of an audit by stage, the cache warm: what `pneumonia data audit` takes once the images are decoded.

    PNEUMONIA_XRAYS=DIR .venv/bin/python benchmarks/audit.py [DATA_ROOT] [--rounds 3] [--cache-dir cache] [--out FILE.json]

Starting Python and importing is timed in a process of its own. The stages add up to what `audit` does; `audit` itself is timed
too, so that what no stage covers is seen. Guard: every round must find the same, to the last digit, or no figure counts.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

from pneumonia.data.audit.audit import audit, copies, measured
from pneumonia.data.audit.baselines import shortcuts
from pneumonia.data.cache import Shape, load_cache
from pneumonia.data.duplicates import groups
from pneumonia.data.manifest import load_manifest
from pneumonia.report.audit_page import audit_page
from pneumonia.system.console import CONSOLE, table
from pneumonia.system.parallel import available_cores
from pneumonia.tasks import TASKS

SIZE = 96  # as `pneumonia data audit` reads them


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long one call takes, and what it gives."""
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def start() -> None:
    """A fresh process that imports what an audit needs."""
    subprocess.run([sys.executable, "-c", "import pneumonia.report.audit_page, pneumonia.data.splits.files"], check=True)


def one_round(root: Path, cache_dir: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds by stage, and the findings."""
    spent: dict[str, float] = {}
    spent["start and imports"], _ = seconds(start)
    spent["manifest"], manifest = seconds(lambda: load_manifest(root, cache_dir, shape=Shape(SIZE)))
    spent["pixels"], cache = seconds(lambda: load_cache(manifest, SIZE, "stretch", cache_dir))
    if cache.problems:
        raise SystemExit(f"{len(cache.problems)} images can't be read; audit them first")
    subset = manifest["source_split"].to_numpy(dtype=object)
    spent["groups"], group = seconds(lambda: groups(manifest))
    spent["copies"], _ = seconds(lambda: copies(manifest, subset))
    spent["quantities"], _ = seconds(lambda: measured(manifest, cache.pixels))
    named = [name for name in ("train", "val", "test") if (subset == name).any()]
    spent["baselines and shift"], _ = seconds(
        lambda: shortcuts(manifest, cache.pixels, subset, group, named, tuple(TASKS.values()), False)
    )
    spent["audit, all of these"], found = seconds(lambda: audit(manifest, cache.pixels))
    spent["page"], text = seconds(lambda: audit_page(found, manifest, cache.pixels, str(root)))
    return spent, {**asdict(found), "page_bytes": len(text)}


def main() -> None:
    """Prints medians by stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", default=os.environ.get("PNEUMONIA_XRAYS"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache-dir", type=Path, default=Path("cache"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.root is None:
        raise SystemExit("Name DATA_ROOT, or set PNEUMONIA_XRAYS to a folder of X-rays.")
    root = Path(options.root)
    load_cache(load_manifest(root, options.cache_dir, shape=Shape(SIZE)), SIZE, "stretch", options.cache_dir)  # warm
    CONSOLE.quiet = True
    rounds = [one_round(root, options.cache_dir) for _ in range(options.rounds)]
    CONSOLE.quiet = False
    if any(found != rounds[0][1] for _, found in rounds):
        raise SystemExit("two rounds found different things; no figure counts")
    found = rounds[0][1]
    medians = {stage: statistics.median(spent[stage] for spent, _ in rounds) for stage in rounds[0][0]}
    rows = [(stage, f"{median:.2f}") for stage, median in medians.items()]
    whole = ("start and imports", "manifest", "pixels", "audit, all of these", "page")
    rows.append(("the command", f"{sum(medians[stage] for stage in whole):.2f}"))
    table(f"{found['images']} images, {available_cores()} cores, medians of {options.rounds}", ("stage", "seconds"), rows)
    result = {
        "images": found["images"],
        "cores": available_cores(),
        "seconds": {stage: round(median, 3) for stage, median in medians.items()},
        "seconds_of_command": round(sum(medians[stage] for stage in whole), 3),
        "page_bytes": found["page_bytes"],
        "versions": {"numpy": np.__version__, "scikit-learn": sklearn.__version__, "python": platform.python_version()},
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
