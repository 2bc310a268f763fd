"""Record the values that later code must reproduce: python -m tests.reference.record [FILE], three minutes.

Run it with the code whose numbers are right, on the kind of machine that will compare. The commands run again as older
processors round: what is then nearly the same is portable, and compared on other machines too.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from tests.reference.commands import run_commands, run_killed_sweep, values_of_commands, values_of_sweep
from tests.reference.compare import TOLERANCE, differences
from tests.reference.machine import OTHER_PROCESSORS, machine

VALUES = Path(__file__).parent / "values.json"
MARGIN = 0.1  # of the tolerance, for processors that nobody tried


def record(path: Path) -> None:
    """Run everything in a fresh folder and write the values."""
    with tempfile.TemporaryDirectory() as name:
        folder, started = Path(name), time.monotonic()
        run_commands(folder / "commands")
        values = values_of_commands(folder / "commands")
        print(f"commands: {time.monotonic() - started:.0f} s")
        run_killed_sweep(folder / "sweep")
        print(f"with the killed sweep: {time.monotonic() - started:.0f} s")
        portable = {label for label in values if not label.startswith("report table")}  # printed figures are rounded
        for processor, variables in OTHER_PROCESSORS.items():
            run_commands(folder / processor, **variables)
            other = values_of_commands(folder / processor)
            portable = {label for label in portable if not differences(values[label], other[label], MARGIN * TOLERANCE)}
        values["sweep"] = values_of_sweep(folder / "sweep")
    lines = ",\n".join(f"{json.dumps(label)}: {json.dumps(one)}" for label, one in values.items())
    head = f'"machine": {json.dumps(machine())},\n"portable": {json.dumps(sorted(portable))}'
    path.write_text(f'{{{head},\n"values": {{\n{lines}\n}}}}\n', encoding="utf-8")
    print(f"Recorded {len(values)} sets of values in {path}, of which portable: {', '.join(sorted(portable))}")


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else VALUES)
