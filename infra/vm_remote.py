"""Work on the VM over SSH: start a sweep, follow its log, fetch the runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm_caller import HERE, Workspace
from vm_errors import BROKEN, VmError, say

REPOSITORY: Final = HERE.parent
WORK: Final = "/var/lib/pneumonia"
SWEEP_FILE: Final = "/etc/pneumonia/sweep.args"
UNIT: Final = "pneumonia-sweep"
PATIENCE_S: Final = 180.0
PORT: Final = os.environ.get("PNEUMONIA_VM_SSH_PORT", "22")  # for a way through a tunnel of your own
UNREACHABLE: Final = 255  # ssh's own exit code
GONE: Final = (
    "A spot VM can be taken away at any moment, and a VM stops itself when it is done or idle. "
    "`make vm-up` starts it again, or allows SSH from here if your address has changed."
)


@dataclass(frozen=True)
class Machine:
    """The VM as SSH sees it."""

    workspace: Workspace
    address: str
    private_key: Path | None

    def options(self) -> list[str]:
        """Return the options of ssh: the host's key is accepted at the first contact and required from then on."""
        options = {
            "UserKnownHostsFile": str(self.workspace.known_hosts),
            "StrictHostKeyChecking": "accept-new",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "15",
            "Port": PORT,
        }
        key = ["-i", str(self.private_key)] if self.private_key else []
        return key + [part for name, value in options.items() for part in ("-o", f"{name}={value}")]

    def command(self, command: str, *, tty: bool = False) -> list[str]:
        """Return the command that runs a shell command on the VM."""
        return ["ssh", *(["-t"] if tty else []), *self.options(), f"ubuntu@{self.address}", command]

    def run(self, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell command on the VM.

        Raises:
            VmError: The VM does not answer.
        """
        done = subprocess.run(self.command(command), input=stdin, capture_output=True, text=True, check=False)
        if done.returncode == UNREACHABLE:
            raise VmError(f"The VM {self.workspace.name} does not answer at {self.address}: {done.stderr.strip()[-300:]}\n{GONE}")
        return done

    def wait(self) -> None:
        """Wait until SSH answers, as it does half a minute after a start.

        Raises:
            VmError: It does not in three minutes.
        """
        end = time.monotonic() + float(os.environ.get("PNEUMONIA_VM_PATIENCE_S", PATIENCE_S))
        while True:
            try:
                self.run("true")
                return
            except VmError:
                if time.monotonic() > end:
                    raise
                time.sleep(3)

    def is_set_up(self) -> bool:
        """Return whether vm-setup has completed there."""
        return self.run(f"systemctl cat {UNIT}.service && test -x /opt/pneumonia/venv/bin/pneumonia").returncode == 0


def split(text: str) -> list[str]:
    """Split a string into arguments, quoted as in a shell.

    Raises:
        VmError: Open quotes.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise VmError(f"{text!r} can't be split into arguments: {error}. Close the quotes.") from error


def sweep_arguments(name: str, overrides: Sequence[str], spot: bool) -> list[str]:
    """Return the arguments of `pneumonia sweep`, checked as far as possible here.

    Raises:
        VmError: There is no such sweep, or an override has control characters.
    """
    there = sorted(path.stem for path in (REPOSITORY / "sweeps").glob("*.yaml"))
    if name not in there:
        raise VmError(f"There is no sweep {name!r}. make vm-sweep SWEEP=NAME, with one of: {', '.join(there)}")
    arguments = [name, *overrides]
    if any(re.search(r"[\x00-\x1f]", argument) for argument in arguments):
        raise VmError("An override has a line break or control character in it, and the VM reads one argument a line.")
    if not any(argument.startswith("backup.place=") for argument in arguments):
        why = "a spot VM can be taken away at any moment, and its runs with it" if spot else "the runs go when the VM goes"
        say(
            f"Warning: no backup.place among the overrides, and {why}. With ARGS='backup.place=CONTAINER/PREFIX' they are pushed "
            "to Azure Blob Storage every few minutes, and a new VM resumes from there."
        )
    return arguments


def start_sweep(machine: Machine, arguments: Sequence[str]) -> None:
    """Start a sweep on the VM; its unit resumes by itself after a restart of the VM.

    Raises:
        VmError: Another sweep runs, or the VM refuses.
    """
    text = "".join(f"{argument}\n" for argument in arguments)
    there = machine.run(f"sudo cat {SWEEP_FILE}").stdout
    if machine.run(f"systemctl is-active --quiet {UNIT} || test $(systemctl is-active {UNIT}) = activating").returncode == 0:
        if there == text:
            say("That sweep is at work there already. `make vm-logs` follows its log.")
            return
        stop = shlex.join(machine.command(f"sudo systemctl stop {UNIT}"))
        raise VmError(
            f"Another sweep is at work there: {shlex.join(there.splitlines())}. Wait until it is done (`make vm-logs`), or stop "
            f"it, which keeps its finished epochs: {stop}"
        )
    done = machine.run(
        f"sudo tee {SWEEP_FILE} > /dev/null && sudo chmod 0644 {SWEEP_FILE} && sudo systemctl reset-failed {UNIT} 2> /dev/null; "
        f"sudo systemctl start --no-block {UNIT}",
        text,
    )
    if done.returncode:
        raise VmError(f"The VM did not start the sweep: {done.stderr.strip()[-300:]}", BROKEN)
    say(
        f"Started on the VM: pneumonia sweep {shlex.join(arguments)}\n`make vm-logs` follows its log, `make vm-pull` fetches "
        "the runs."
    )


def logs(machine: Machine) -> int:
    """Show what the sweep prints until Ctrl-C."""
    say("The sweep's log; Ctrl-C ends this view, not the sweep.")
    code = subprocess.run(machine.command(f"sudo journalctl -n 200 -fu {UNIT}", tty=sys.stdout.isatty()), check=False).returncode
    if code == UNREACHABLE:
        raise VmError(f"The VM does not answer (any more). {GONE}")
    return 0


def pull(machine: Machine, into: Path) -> None:
    """Copy the VM's run folders into a local folder; nothing is deleted.

    Raises:
        VmError: The VM does not answer, or has no runs.
    """
    if machine.run(f"sudo test -d {WORK}/runs").returncode:
        raise VmError("There are no runs on the VM yet: `make vm-logs` shows how far it is.")
    into.mkdir(parents=True, exist_ok=True)
    say(f"Copies {WORK}/runs of the VM into {into}")
    if shutil.which("rsync") and machine.run("command -v rsync").returncode == 0:
        shell = shlex.join(["ssh", *machine.options()])
        source = f"ubuntu@{machine.address}:{WORK}/runs/"
        called = [
            "rsync",
            "-rltz",
            "--partial-dir=.partial",
            "--rsync-path=sudo rsync",
            "-e",
            shell,
            source,
            f"{into}/",
        ]
        code = subprocess.run(called, check=False).returncode
    else:
        code = _pull_archive(machine, into)
    if code:
        raise VmError(f"Not all runs were copied (exit code {code}); repeat the command to resume. {GONE}", BROKEN)


def _pull_archive(machine: Machine, into: Path) -> int:
    command = machine.command(f"sudo tar -C {WORK}/runs -cf - --warning=no-file-changed .")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
        try:
            with tarfile.open(fileobj=sender.stdout, mode="r|") as archive:
                for member in archive:  # a lost connection must not replace a whole checkpoint by half of one
                    archive.extract(member, into / ".partial", filter="data")
                    if member.isfile():
                        (into / member.name).parent.mkdir(parents=True, exist_ok=True)
                        (into / ".partial" / member.name).replace(into / member.name)
        except tarfile.TarError:
            sender.kill()
            return BROKEN
        finally:
            shutil.rmtree(into / ".partial", ignore_errors=True)
    return 0 if sender.returncode in (0, 1) else sender.returncode  # 1: a file grew while it was read
