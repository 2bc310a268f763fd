"""Run Terraform as a child process without questions; Ctrl-C stops it cleanly, and its errors become ours."""

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

from vm_caller import HERE, STUDY, Workspace, find_project
from vm_errors import MAY_RUN, VmError, say
from vm_troubles import may_still_run, trouble

CHOICES: Final = HERE / "terraform" / "modules" / "choices"
LOCK_TIMEOUT: Final = "-lock-timeout=60s"
STEP: Final = re.compile(r"^[\w.\[\]\"/-]+: (Creating|Creation|Destroying|Destruction|Modifying|Modifications|Still)")


@dataclass
class Interruptions:
    """Ctrl-C, SIGTERM and a closed terminal, forwarded to the running Terraform once, so that it stops cleanly."""

    requested: bool = False
    forwarded: bool = False
    child: subprocess.Popen[str] | None = field(default=None, repr=False)

    @contextmanager
    def watched(self) -> Iterator["Interruptions"]:
        """Record signals until the end of the block, instead of ending between two resources."""
        kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {kind: signal.signal(kind, self._handle) for kind in kinds}
        try:
            yield self
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        say("Interrupted: stops as soon as nothing is left partly created.")
        self.forward()

    def stopping(self) -> bool:
        """Return whether a stop was requested."""
        return self.requested

    def forward(self) -> None:
        """Ask the running Terraform to stop, once: a second signal would make it drop what it is creating."""
        if self.child is not None and not self.forwarded and self.child.poll() is None:
            self.forwarded = True
            self.child.send_signal(signal.SIGINT)


@dataclass(frozen=True)
class Recorded:
    """The state: addresses of resources, whether the VM is among them and complete, and the outputs."""

    addresses: tuple[str, ...] = ()
    has_vm: bool = False
    outputs: dict[str, Any] = field(default_factory=dict)

    def choice(self) -> dict[str, Any]:
        """Return the variables of the VM that the state records."""
        return dict(self.outputs.get("choice") or {})


def to_destroy(workspace: Workspace) -> dict[str, Any]:
    """Return valid variables for a removal, so that neither a lost file nor a refused setting can keep a VM alive.

    All that the state holds is removed, whatever their values; the provider alone reads project and zone.
    """
    noted = workspace.choice()
    study: dict[str, Any] = json.loads(STUDY.read_text())
    return study | {
        "project": noted.get("project") or find_project() or "unknown-project",
        "zones": [noted.get("zone") or study["zones"][0]],
        "user": workspace.user,
        "caller_cidr": "127.0.0.1/32",
        "ssh_public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
    }


def check_choice(choice: dict[str, Any]) -> None:
    """Validate the variables by the module that holds all ranges, which needs no provider and no cloud.

    Raises:
        VmError: A setting is out of its range.
    """
    with TemporaryDirectory() as scratch:
        variables = Path(scratch, "choice.tfvars.json")
        variables.write_text(json.dumps({name: value for name, value in choice.items() if name != "ssh_key"}))
        environment = os.environ | {"CHECKPOINT_DISABLE": "1", "TF_INPUT": "0", "TF_DATA_DIR": f"{scratch}/data"}
        for arguments in (
            ("init", "-backend=false"),
            ("plan", "-json", "-lock=false", f"-state={scratch}/none.tfstate", f"-var-file={variables}"),
        ):
            done = subprocess.run(
                ["terraform", f"-chdir={CHOICES}", arguments[0], "-no-color", *arguments[1:]],
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                check=False,
            )
            if done.returncode:
                message = _details(done.stdout) or [trouble(done.stdout + done.stderr)[1]]
                raise VmError("\n".join([*message, "Nothing was made."]))


def _details(lines: str) -> list[str]:
    """Return the errors in Terraform's JSON output, without the position of the rule in its files."""
    found = []
    for line in lines.splitlines():
        if line.startswith("{") and (error := json.loads(line).get("diagnostic", {})).get("severity") == "error":
            found.append(str(error.get("detail") or error["summary"]).partition("\n\nThis was checked")[0])
    return found


class Terraform:
    """Calls of terraform for one workspace.

    Args:
        workspace: Holds the state and the module.
        signals: Forwarded to a running call.
    """

    def __init__(self, workspace: Workspace, signals: Interruptions) -> None:
        self.workspace = workspace
        self.signals = signals
        self.bucket = os.environ.get("PNEUMONIA_VM_STATE_BUCKET")

    def nothing_recorded(self) -> bool:
        """Return whether there is no state at all, without a call of Terraform."""
        return self.bucket is None and not self.workspace.state_file.is_file()

    def init(self) -> None:
        """Initialise the module with the state of this user.

        Raises:
            VmError: The provider can't be fetched, or the state can't be reached.
        """
        self.workspace.folder.mkdir(parents=True, exist_ok=True)
        where = [f"-backend-config=path={self.workspace.state_file}"]
        if self.bucket:
            if not (self.workspace.module / "backend_override.tf").is_file():
                raise VmError(
                    "PNEUMONIA_VM_STATE_BUCKET is set, but the module keeps its state in a file. "
                    "Do once: cp infra/terraform/backend.gcs.tf.example infra/terraform/backend_override.tf"
                )
            where = [f"-backend-config=bucket={self.bucket}", f"-backend-config=prefix=pneumonia/{self.workspace.user}"]
        code, text = self._run("init", "-reconfigure", LOCK_TIMEOUT, *where)
        if "Error refreshing state" in text:
            raise self._damaged(text)
        if code:
            _, message = trouble(text)
            raise VmError(
                f"Terraform could not initialise, so nothing was changed. Its message: {message}\n"
                "It fetches Google's provider once; a mirror or proxy is named in ~/.terraformrc. Its output: " + str(self.log)
            )

    def recorded(self) -> Recorded:
        """Return what the state holds.

        Raises:
            VmError: The state can't be read.
        """
        code, text = self._run("show", "-json", log=False)
        try:
            if code:
                raise ValueError(text)
            found, _ = json.JSONDecoder().raw_decode(text, text.index("{"))
        except ValueError as error:
            raise self._damaged(text) from error
        values = found.get("values", {})
        resources = values.get("root_module", {}).get("resources", [])
        machine = [r for r in resources if r["name"] == "machine"]
        return Recorded(
            tuple(r["address"] for r in resources),
            bool(machine) and not machine[0].get("tainted", False),
            {name: output.get("value") for name, output in values.get("outputs", {}).items()},
        )

    def _damaged(self, text: str) -> VmError:
        return VmError(
            f"The record of your VM can't be read ({self.workspace.state_file}): {trouble(text)[1]}\n"
            f"Terraform keeps the previous one as {self.workspace.state_file.name}.backup: restore it, and repeat the command.\n"
            + may_still_run(self.workspace),
            MAY_RUN,
        )

    def apply(self, *arguments: str) -> tuple[int, str]:
        """Create what is missing; return exit code and output."""
        return self._run("apply", "-auto-approve", LOCK_TIMEOUT, f"-var-file={self.workspace.choice_file}", *arguments, show=True)

    def destroy(self) -> tuple[int, str]:
        """Remove all that the state holds; return exit code and output."""
        variables = self.workspace.folder / "destroy.tfvars.json"
        variables.write_text(json.dumps(to_destroy(self.workspace)))
        return self._run("destroy", "-auto-approve", LOCK_TIMEOUT, f"-var-file={variables}", show=True)

    @property
    def log(self) -> str:
        """The file with the output of Terraform."""
        return str(self.workspace.folder / "terraform.log")

    def _run(self, verb: str, *arguments: str, show: bool = False, log: bool = True) -> tuple[int, str]:
        # `show` has no -input and asks nothing.
        command = [
            "terraform",
            f"-chdir={self.workspace.module}",
            verb,
            *(["-input=false"] if verb != "show" else []),
            "-no-color",
            *arguments,
        ]
        environment = os.environ | {
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
            "TF_DATA_DIR": str(self.workspace.folder / "data"),
        }
        printed: list[str] = []
        # Its own session: Ctrl-C of the terminal reaches this process alone, which forwards it once.
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
                if self.signals.stopping():
                    self.signals.forward()
            for line in child.stdout or ():
                printed.append(line)
                kept.write(line)
                if show and STEP.match(line):
                    say("  " + line.rstrip())
        self.signals.child = None
        return child.returncode, "".join(printed)
