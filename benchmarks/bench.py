"""How near the machine's limit we are, and how far ahead of what one would write by hand.

    make bench                            eight comparisons on drawn phantoms, or on PNEUMONIA_XRAYS where that names X-rays
    make bench ARGS="--only epoch,sweep"
    make bench ARGS="--originals DIR"     X-rays at full size for what reads files

Arms do the same work, shown by a guard, and take turns in one process; a figure is the median of the rounds' ratios.
"""

import argparse
import importlib
import json
import os
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from pneumonia.console import announce_loading, say, table

ROWS: Final = {  # the module of each
    "ingest": "ingest",
    "epoch": "epoch",
    "augment": "augment",
    "trainer": "trainer_tax",
    "steady": "steady",
    "sweep": "many",
    "first_step": "first_step",
    "serving": "serving",
}
PATIENTS: Final = 1000
ROUNDS: Final = 5


def main() -> int:
    """Runs the rows, writes the file after each, prints the table."""
    options = _options()
    announce_loading()
    from benchmarks.harness import Differs, conditions, measure, words  # loads torch
    from benchmarks.world import World

    begun, found = time.perf_counter(), []
    told: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.bench", *sys.argv[1:]]),
        "images": "phantoms" if options.xrays is None else "real X-rays",
        "rounds": options.rounds,
        **conditions(),
        "rows": {},
        "refused": {},
    }
    out = options.out or Path(f"docs/results/bench-{_slug(told['device'])}.json")
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        world = World(options.xrays, options.originals, Path(scratch), options.rounds, options.patients)
        for key in options.only:
            try:
                for row in importlib.import_module(f"benchmarks.{ROWS[key]}").rows(world):
                    say(f"[bold]{row.key}[/]: {row.what}")
                    found.append(measure(row))
                    told["rows"][row.key] = found[-1].as_json
            except Differs as error:
                told["refused"][key] = str(error)
                say(f"[bold red]{key}: no ratio counts, the arms do not do the same work[/]: {error}")
            told["minutes"] = round((time.perf_counter() - begun) / 60, 1)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(told, indent=1) + "\n")
    table(
        f"{told['device']}, {told['cores']} cores, {told['threads']} threads, {told['images']}, {told['minutes']} min",
        ("row", "against", "times", "goal", "reached"),
        words(found),
    )
    say(f"Written: {out}")
    return 1 if told["refused"] else 0


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ROWS), help="rows, with commas between them")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--xrays", type=Path, default=os.environ.get("PNEUMONIA_XRAYS"), help="a folder of X-rays")
    parser.add_argument("--originals", type=Path, help="X-rays at full size, a folder a class")
    parser.add_argument("--patients", type=int, default=PATIENTS, help="of the phantoms, where there are no X-rays")
    parser.add_argument("--out", type=Path, help="where to write the figures; docs/results/bench-DEVICE.json")
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = [key for key in options.only if key not in ROWS]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: there is no such row. There are: {', '.join(ROWS)}")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one is needed")
    if options.patients < 20:
        parser.error(f"--patients {options.patients}: fewer than 20 make no split of three classes")
    for name in ("xrays", "originals"):
        folder = getattr(options, name)
        if folder is not None and not Path(folder).is_dir():
            parser.error(f"--{name} {folder}: there is no such folder")
    return options


def _slug(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
