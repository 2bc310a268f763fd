"""How near the machine's limit we are, and how far ahead of what one would write by hand.

    make bench                            eight comparisons on drawn phantoms, or on PNEUMONIA_XRAYS where that names X-rays
    make bench ARGS="--only epoch,sweep"
    make bench ARGS="--originals DIR"     X-rays at full size for what reads files

Arms do the same work, shown by a guard, and take turns in one process; a figure is the median of the rounds' ratios.
"""

import argparse
import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import augment, epoch, first_step, ingest, many, serving, steady, trainer_tax
from benchmarks.harness import ROUNDS, Differs, Found, Row, conditions, measure, words
from benchmarks.world import World
from pneumonia.console import CONSOLE, say, table

ROWS: dict[str, Callable[[World], Row | list[Row]]] = {
    "ingest": ingest.row,
    "epoch": epoch.row,
    "augment": augment.row,
    "trainer": trainer_tax.row,
    "steady": steady.rows,
    "sweep": many.row,
    "first_step": first_step.row,
    "serving": serving.row,
}


def main() -> int:
    """Runs the rows, prints the table, writes the file."""
    options = _options()
    begun = time.perf_counter()
    found: list[Found] = []
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        world = World(options.xrays, options.originals, Path(scratch), options.rounds)
        for key in options.only:
            try:
                for row in _each(ROWS[key](world)):
                    say(f"[bold]{row.key}[/]: {row.what}")
                    found.append(measure(row))
            except Differs as error:
                refused[key] = str(error)
                say(f"[bold red]{key}: no ratio counts, the arms do not do the same work[/]: {error}")
    told = {
        "command": shlex.join(["python", "-m", "benchmarks.bench", *sys.argv[1:]]),
        "minutes": round((time.perf_counter() - begun) / 60, 1),
        "images": "phantoms" if options.xrays is None else "real X-rays",
        "rounds": options.rounds,
        **conditions(),
        "rows": {one.row.key: one.as_json for one in found},
        "refused": refused,
    }
    table(
        f"{told['device']}, {told['cores']} cores, {told['threads']} threads, {told['images']}, {told['minutes']} min",
        ("row", "against", "times", "goal", "reached"),
        words(found),
    )
    out = options.out or Path(f"docs/results/bench-{_slug(told['device'])}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(told, indent=1) + "\n")
    say(f"Written: {out}")
    return 1 if refused else 0


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ROWS), help="rows, with commas between them")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--xrays", type=Path, default=os.environ.get("PNEUMONIA_XRAYS"), help="a folder of X-rays")
    parser.add_argument("--originals", type=Path, help="X-rays at full size, a folder a class")
    parser.add_argument("--out", type=Path, help="where to write the figures; docs/results/bench-DEVICE.json")
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = [key for key in options.only if key not in ROWS]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: there is no such row. There are: {', '.join(ROWS)}")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one is needed")
    for name in ("xrays", "originals"):
        folder = getattr(options, name)
        if folder is not None and not Path(folder).is_dir():
            parser.error(f"--{name} {folder}: there is no such folder")
    return options


def _each(rows: Row | list[Row]) -> Iterable[Row]:
    return rows if isinstance(rows, list) else [rows]


def _slug(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


if __name__ == "__main__":
    CONSOLE.quiet = False
    sys.exit(main())
