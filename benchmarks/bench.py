"""How near the machine's limit we are, and how far ahead of what one would write by hand.

    make bench                            eight comparisons on drawn phantoms, or on PNEUMONIA_XRAYS where that names X-rays
    make bench ARGS="--only epoch,sweep"
    make bench ARGS="--originals DIR"     X-rays at full size for what reads files

Arms do the same work, shown by a guard, and take turns in one process; a figure is the median of the rounds' ratios.
"""

import argparse
import errno
import importlib
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from pneumonia.errors import PneumoniaError
from pneumonia.system.console import announce_loading, say, table
from pneumonia.system.signals import sigterm_as_interrupt

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
    """Runs the rows, and says in one line what stopped them."""
    options = _options()
    try:
        with sigterm_as_interrupt():
            return _run(options)
    except KeyboardInterrupt:
        print("\nStopped. The rows that were done are in the file named above.", file=sys.stderr)
        return 130
    except PneumoniaError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


def _run(options: Any) -> int:
    """Runs the rows, writes the file after each, prints the table."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does, for all arms
    announce_loading()
    from benchmarks.harness import Differs, conditions, measure, words  # loads torch
    from benchmarks.world import World
    from pneumonia.system.memory import keep_freed_memory

    keep_freed_memory()
    begun, found = time.perf_counter(), []
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.bench", *map(_without_place, sys.argv[1:])]),
        "images": "phantoms" if options.xrays is None else "real X-rays",
        "rounds": options.rounds,
        **conditions(),
        "rows": {},
        "refused": {},
    }
    out = options.out or _usual_place(options, results["device"])
    say(f"Figures go to {out}, row by row")
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        world = World(options.xrays, options.originals, Path(scratch), options.rounds, options.patients)
        for key in options.only:
            try:
                for row in importlib.import_module(f"benchmarks.{ROWS[key]}").rows(world):
                    say(f"[bold]{row.key}[/]: {row.what}")
                    found.append(measure(row))
                    results["rows"][row.key] = found[-1].as_json
            except Differs as error:
                results["refused"][key] = str(error)
                say(f"[bold red]{key}: no ratio counts, the arms do not do the same work[/]: {error}")
            results["minutes"] = round((time.perf_counter() - begun) / 60, 1)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(results, indent=1) + "\n")
    table(
        f"{results['device']}, {results['cores']} cores, {results['threads']} threads, {results['images']}, "
        f"{results['minutes']} min",
        ("row", "against", "times", "goal", "reached"),
        words(found),
    )
    say(f"Written: {out}")
    return 1 if results["refused"] else 0


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ROWS), help="rows, with commas between them")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    xrays = os.environ.get("PNEUMONIA_XRAYS") or None
    parser.add_argument("--xrays", type=Path, default=xrays, help="a folder of X-rays")
    parser.add_argument("--originals", type=Path, help="X-rays at full size, a folder a class")
    parser.add_argument("--patients", type=int, default=PATIENTS, help="of the phantoms, where there are no X-rays")
    parser.add_argument(
        "--out",
        type=Path,
        help="where to write the figures; docs/results/bench-DEVICE.json, or bench-DEVICE-part.json for some rows or phantoms",
    )
    options = parser.parse_args()
    options.only = [key.strip() for key in options.only.split(",")]
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
        if folder is not None and not any(Path(folder).rglob("*.jp*g")):
            parser.error(f"--{name} {folder}: there is no JPEG file in it")
    try:
        check_place(options.out)
    except OSError as error:
        parser.error(f"--out {options.out}: {error.strerror}, so that hours of figures would be lost")
    return options


def check_place(out: Path | None) -> None:
    """Raises ``OSError`` where a file can't be written at the end; it is not touched."""
    if out is None:
        return
    if out.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=out.absolute().parent).close()


def _usual_place(options: Any, device: str) -> Path:
    """The figures that are kept are those of all rows on real X-rays; others must not take their place."""
    whole = options.xrays is not None and options.only == list(ROWS) and options.rounds == ROUNDS
    from benchmarks.harness import slug

    return Path(f"docs/results/bench-{slug(device)}{'' if whole else '-part'}.json")


def _without_place(word: str) -> str:
    """A word of the command line; whose folders these were matters to nobody else."""
    return "DIR" if os.sep in word else word


if __name__ == "__main__":
    sys.exit(main())
