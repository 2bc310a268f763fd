"""Small runs through the command line give the digits that were recorded before the code was rearranged: values.json."""

import json
import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.reference.commands import run_commands, run_killed_sweep, values_of_commands, values_of_sweep
from tests.reference.compare import TOLERANCE, differences
from tests.reference.machine import machine

RECORDED = json.loads((Path(__file__).parent / "values.json").read_text(encoding="utf-8"))
VALUES = RECORDED["values"]
SWEEP = "sweep"
SHOWN = 12
RECORD_ANEW = (
    "If the new values are meant, record them: OMP_NUM_THREADS=1 .venv/bin/python -m tests.reference.record. Where commands, "
    "keys or files have other names, tests/reference/commands.py is the file to edit."
)

pytestmark = pytest.mark.timeout(1800)  # the first test of each worker waits for all runs


@pytest.fixture(scope="session")
def same_machine():
    """Whether this machine rounds as the one that recorded."""
    return machine() == RECORDED["machine"]


def _once(folder, work, read):
    """What the runs give; of several test processes the first does the work."""
    values = folder.with_suffix(".json")
    with FileLock(folder.with_suffix(".lock")):
        if not values.exists():
            work(folder)
            values.write_text(json.dumps(read(folder)), encoding="utf-8")
    return json.loads(values.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder that all processes of this test session have."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def now(shared):
    return _once(shared / "reference-commands", run_commands, values_of_commands)


@pytest.fixture(scope="session")
def sweep_now(shared):
    return _once(shared / "reference-sweep", run_killed_sweep, values_of_sweep)


def _check(name, found, same_machine):
    if not same_machine and name not in RECORDED["portable"]:
        pytest.skip(f"{name} depends on how a processor rounds: compared on the kind of machine that recorded. {RECORD_ANEW}")
    lines = differences(VALUES[name], found, 0.0 if same_machine else TOLERANCE)
    how = "exactly" if same_machine else f"within {TOLERANCE}, since this machine is not the one that recorded"
    more = f"\nand {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    assert not lines, "\n".join([f"Compared {how}:", *lines[:SHOWN]]) + f"{more}\n{RECORD_ANEW}"


@pytest.mark.parametrize("name", [name for name in VALUES if name != SWEEP])
def test_a_command_gives_the_recorded_values(name, now, same_machine):
    assert name in now, f"{name} is recorded, and missing now. {RECORD_ANEW}"
    _check(name, now[name], same_machine)


@pytest.mark.slow
def test_a_sweep_killed_three_times_gives_the_recorded_values(sweep_now, same_machine):
    _check(SWEEP, sweep_now, same_machine)


def test_differences_are_found():
    recorded = {"a": [1.0, "nan", None], "b": True}
    assert differences(recorded, {**recorded, "new": 1}) == []
    assert differences(recorded, {"a": [1.0 + 1e-15, "nan", None], "b": True}) != []
    assert differences(recorded, {"a": [1.0 + 1e-15, "nan", None], "b": True}, TOLERANCE) == []
    assert len(differences(recorded, {"a": [1.1, 0.0, 0.0]}, TOLERANCE)) == 4
    assert differences(recorded, {"a": [1.0, "nan"], "b": 1}) == [
        "/a: 3 values recorded, 2 now",
        "/b: True recorded, 1 now",
    ]
