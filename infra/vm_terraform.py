"""Terraform as a child process: never asks, stops in good order at Ctrl-C, and its errors in our words."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Final

from vm_caller import HERE, STUDY, Desk, find_project
from vm_errors import MAY_RUN, VmError, say
from vm_troubles import may_still_run, trouble

CHOICES: Final = HERE / "terraform" / "modules" / "choices"
LOCK_TIMEOUT: Final = "-lock-timeout=60s"
STEP: Final = re.compile(r"^[\w.\[\]\"/-]+: (Creating|Creation|Destroying|Destruction|Modifying|Modifications|Still)")


@dataclass
class Interruptions:
    """Ctrl-C, SIGTERM and a closed terminal: told to the running Terraform once, so that it stops in good order."""

    heard: bool = False
    told: bool = False
    child: subprocess.Popen[str] | None = field(default=None, repr=False)

    @contextmanager
    def watched(self) -> Iterator["Interruptions"]:
        """Until the end of the block, signals are noted instead of ending us between two resources."""
        kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {kind: signal.signal(kind, self._hear) for kind in kinds}
        try:
            yield self
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self.heard = True
        say("Interrupted: stops as soon as nothing is left half-made.")
        self.tell()

    def asked(self) -> bool:
        """Whether the caller wants to stop."""
        return self.heard

    def tell(self) -> None:
        """Asks the running Terraform to stop, once: a second time would make it drop what it is making."""
        if self.child is not None and not self.told and self.child.poll() is None:
            self.told = True
            self.child.send_signal(signal.SIGINT)


@dataclass(frozen=True)
class Recorded:
    """What the state holds: addresses of resources, whether the VM is among them and whole, and the outputs."""

    addresses: tuple[str, ...] = ()
    has_vm: bool = False
    outputs: dict[str, Any] = field(default_factory=dict)

    def choice(self) -> dict[str, Any]:
        """What the VM was made with, where only the state knows it."""
        return dict(self.outputs.get("choice") or {})


def to_destroy(desk: Desk) -> dict[str, Any]:
    """Variables for a removal: always valid ones, so that neither a lost file nor a refused setting can keep a VM alive.

    What is removed is what the state holds, whatever these say; the provider alone looks at project and zone.
    """
    noted = desk.choice()
    study: dict[str, Any] = json.loads(STUDY.read_text())
    return study | {
        "project": noted.get("project") or find_project() or "unknown-project",
        "zones": [noted.get("zone") or study["zones"][0]],
        "user": desk.user,
        "caller_cidr": "127.0.0.1/32",
        "ssh_public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
    }


def check_choice(choice: dict[str, Any]) -> None:
    """Asks the module that holds all ranges, which needs no provider and no cloud, before anything is made or promised.

    Raises:
        VmError: A setting is out of its range.
    """
    with TemporaryDirectory() as scratch:
        variables = Path(scratch, "choice.tfvars.json")
        variables.write_text(json.dumps({name: value for name, value in choice.items() if name != "ssh_key"}))
        environment = os.environ | {"CHECKPOINT_DISABLE": "1", "TF_INPUT": "0", "TF_DATA_DIR": f"{scratch}/data"}
        for words in (
            ("init", "-backend=false"),
            ("plan", "-json", "-lock=false", f"-state={scratch}/none.tfstate", f"-var-file={variables}"),
        ):
            done = subprocess.run(
                ["terraform", f"-chdir={CHOICES}", words[0], "-no-color", *words[1:]],
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                check=False,
            )
            if done.returncode:
                said = _details(done.stdout) or [trouble(done.stdout + done.stderr)[1]]
                raise VmError("\n".join([*said, "Nothing was made."]))


def _details(lines: str) -> list[str]:
    """The sentences of the errors in Terraform's JSON output, without where in its files the rule stands."""
    found = []
    for line in lines.splitlines():
        if line.startswith("{") and (error := json.loads(line).get("diagnostic", {})).get("severity") == "error":
            found.append(str(error.get("detail") or error["summary"]).partition("\n\nThis was checked")[0])
    return found


class Terraform:
    """Calls of terraform for one desk.

    Args:
        desk: Whose state, which module.
        signals: What is told to a running call when the caller wants to stop.
    """

    def __init__(self, desk: Desk, signals: Interruptions) -> None:
        self.desk = desk
        self.signals = signals
        self.bucket = os.environ.get("PNEUMONIA_VM_STATE_BUCKET")

    def nothing_recorded(self) -> bool:
        """Whether there is no state at all, which needs no Terraform to know."""
        return self.bucket is None and not self.desk.state_file.is_file()

    def init(self) -> None:
        """Makes the module ready, with the state of this user.

        Raises:
            VmError: The provider can't be fetched, or the state can't be reached.
        """
        self.desk.folder.mkdir(parents=True, exist_ok=True)
        where = [f"-backend-config=path={self.desk.state_file}"]
        if self.bucket:
            if not (self.desk.module / "backend_override.tf").is_file():
                raise VmError(
                    "PNEUMONIA_VM_STATE_BUCKET is set, but the module keeps its state in a file. "
                    "Do once: cp infra/terraform/backend.gcs.tf.example infra/terraform/backend_override.tf"
                )
            where = [f"-backend-config=bucket={self.bucket}", f"-backend-config=prefix=pneumonia/{self.desk.user}"]
        code, text = self._run("init", "-reconfigure", LOCK_TIMEOUT, *where)
        if "Error refreshing state" in text:
            raise self._spoilt(text)
        if code:
            _, said = trouble(text)
            raise VmError(
                f"Terraform could not make itself ready, so nothing was changed. It says: {said}\n"
                "It fetches Google's provider once; a mirror or proxy is named in ~/.terraformrc. All it said: "
                + str(self.log)
            )

    def recorded(self) -> Recorded:
        """What the state says is there.

        Raises:
            VmError: The state can't be read.
        """
        code, text = self._run("show", "-json", log=False)
        try:
            if code:
                raise ValueError(text)
            found, _ = json.JSONDecoder().raw_decode(text, text.index("{"))
        except ValueError as error:
            raise self._spoilt(text) from error
        values = found.get("values", {})
        resources = values.get("root_module", {}).get("resources", [])
        machine = [r for r in resources if r["name"] == "machine"]
        return Recorded(
            tuple(r["address"] for r in resources),
            bool(machine) and not machine[0].get("tainted", False),
            {name: output.get("value") for name, output in values.get("outputs", {}).items()},
        )

    def _spoilt(self, text: str) -> VmError:
        return VmError(
            f"The record of your VM can't be read ({self.desk.state_file}): {trouble(text)[1]}\n"
            f"Terraform keeps the one before as {self.desk.state_file.name}.backup: put it in its place, and say this again.\n"
            + may_still_run(self.desk),
            MAY_RUN,
        )

    def apply(self, *words: str) -> tuple[int, str]:
        """Makes what is missing; exit code and all that was said."""
        return self._run(
            "apply", "-auto-approve", LOCK_TIMEOUT, f"-var-file={self.desk.choice_file}", *words, show=True
        )

    def destroy(self) -> tuple[int, str]:
        """Removes all that the state holds; exit code and all that was said."""
        variables = self.desk.folder / "destroy.tfvars.json"
        variables.write_text(json.dumps(to_destroy(self.desk)))
        return self._run("destroy", "-auto-approve", LOCK_TIMEOUT, f"-var-file={variables}", show=True)

    @property
    def log(self) -> str:
        """The file with all that Terraform said."""
        return str(self.desk.folder / "terraform.log")

    def _run(self, verb: str, *words: str, show: bool = False, log: bool = True) -> tuple[int, str]:
        # `show` takes no -input, and asks nothing.
        command = [
            "terraform",
            f"-chdir={self.desk.module}",
            verb,
            *(["-input=false"] if verb != "show" else []),
            "-no-color",
            *words,
        ]
        environment = os.environ | {
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
            "TF_DATA_DIR": str(self.desk.folder / "data"),
        }
        said: list[str] = []
        # A session of its own: Ctrl-C of the terminal reaches us alone, and Terraform hears of it once.
        with (
            subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            ) as child,
            open(self.log if log else os.devnull, "a") as kept,
        ):
            if verb == "apply":  # to stop a removal would help nobody
                self.signals.child = child
                if self.signals.asked():
                    self.signals.tell()
            for line in child.stdout or ():
                said.append(line)
                kept.write(line)
                if show and STEP.match(line):
                    say("  " + line.rstrip())
        self.signals.child = None
        return child.returncode, "".join(said)
