"""A GPU VM for sweeps, and nothing left of it afterwards.

    python infra/vm.py up [KEY=VALUE ...] [--dry-run]      makes it in the first zone that has the GPU; starts a stopped one
    python infra/vm.py setup [wheel=FILE | git=URL@REF]    installs the project there
    python infra/vm.py sweep NAME [OVERRIDE ...]           starts a sweep, which resumes by itself after a restart
    python infra/vm.py logs | pull [into=DIR] | cost       follows the log; fetches the runs; prints the cost
    python infra/vm.py down                                removes all of it

KEY is a variable of infra/terraform (`spot=false zones=us-east1-c,us-east1-d`), `project`, `ssh_key` or `caller_cidr`. `up` asks
no question: it prints what it creates and what that costs, and creates it; --dry-run only prints. Exit codes: 0 done; 1 failed
for an unknown reason; 2 something that you can correct; 3 something may still run, and how to remove it; 130 interrupted. After
any but 3 of `up`, nothing runs that did not run before. See docs/gpu-vm.md.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vm_caller import Workspace, find_key, workspace
from vm_choice import read_settings
from vm_errors import INTERRUPTED, VmError, say
from vm_life import cost, down, look, up
from vm_remote import Machine, logs, pull, split, start_sweep, sweep_arguments
from vm_setup import setup

VERBS: Final = ("up", "setup", "sweep", "logs", "pull", "down", "cost")


def machine_of(mine: Workspace) -> Machine:
    """The VM for SSH.

    Raises:
        VmError: There is none, or it is stopped.
    """
    if not (address := look(mine).outputs.get("address")):
        raise VmError(f"{mine.name} has no address: it is stopped. `make vm-up` starts it again.")
    public = mine.noted_key() or find_key(None)
    private = public.with_suffix("") if public else None
    return Machine(mine, str(address), private if private and private.is_file() else None)


def sweep(mine: Workspace, arguments: Sequence[str]) -> int:
    """Start a sweep on the VM, after a setup where there was none."""
    name, overrides = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    if overrides[:1] == ["--overrides"]:  # make passes them as one string, quoted as in a shell
        overrides = split(" ".join(overrides[1:]))
    checked = sweep_arguments(name, overrides, bool(mine.choice().get("spot", True)))
    machine = machine_of(mine)
    machine.wait()
    if not machine.is_set_up():
        setup(machine, {})
    start_sweep(machine, checked)
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run one verb and return the exit code."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if verb in ("help", "--help", "-h"):
        say(__doc__)
        return 0
    try:
        if verb not in VERBS:
            raise VmError(f"{verb!r} is no command of vm.py. There are: {', '.join(VERBS)}")
        mine = workspace()
        if verb == "up":
            return up(mine, rest)
        if verb == "down":
            return down(mine, rest)
        if verb == "cost":
            return cost(mine, rest)
        if verb == "sweep":
            return sweep(mine, rest)
        if verb == "setup":
            given = read_settings(rest, ["wheel", "git", "idle_minutes", "self_stop"])
            setup(machine_of(mine), given)
            return 0
        if verb == "logs":
            read_settings(rest, [])
            return logs(machine_of(mine))
        into = read_settings(rest, ["into"]).get("into", "runs")
        pull(machine_of(mine), Path(into))
        return 0
    except VmError as error:
        say(error, error=True)
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
