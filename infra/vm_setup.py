"""Set up a VM with Ansible."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from vm_caller import HERE
from vm_errors import BROKEN, VmError, say
from vm_remote import GONE, PORT, REPOSITORY, Machine


def setup(machine: Machine, arguments: dict[str, str]) -> None:
    """Run the playbook: driver, Python, the project, credentials, units. It can be repeated.

    Args:
        machine: The VM.
        arguments: ``wheel`` (a file; default: the newest of dist/) or ``git`` (URL@REF), ``idle_minutes``, ``self_stop``.

    Raises:
        VmError: Nothing to install, no Ansible, or the playbook failed.
    """
    own = REPOSITORY / ".venv-infra" / "bin" / "ansible-playbook"
    playbook = os.environ.get("PNEUMONIA_VM_ANSIBLE") or (str(own) if own.is_file() else shutil.which("ansible-playbook"))
    if playbook is None:
        raise VmError(
            "ansible-playbook is missing, which sets the VM up: `make .venv-infra/.ready`, or `make vm-setup`, which does it."
        )
    choice = machine.workspace.choice()
    has_gpu = bool(choice.get("gpu_count", 1))
    extra: dict[str, str | int | bool] = {
        "pneumonia_lock": str(REPOSITORY / "requirements.lock"),
        "idle_minutes": _minutes(arguments.get("idle_minutes") or str(choice.get("idle_minutes", 30))),
        "self_stop": _yes("self_stop", arguments.get("self_stop", "true")),
        "expect_gpu": has_gpu,  # a VM that is paid for its GPU and shows none is an error
        "install_driver": has_gpu and str(choice.get("image", "ubuntu")).startswith("ubuntu"),  # Ubuntu's images have none
    }
    if "git" in arguments:
        extra["pneumonia_git"] = arguments["git"]
    else:
        wheel = Path(arguments["wheel"]) if "wheel" in arguments else _newest_wheel()
        if not wheel.is_file():
            raise VmError(f"There is no wheel {wheel}. `make build` makes one, or name git=URL@REF.")
        extra["pneumonia_wheel"] = str(wheel.resolve())
    say(f"Sets up {machine.workspace.name} at {machine.address}; ten minutes the first time, at the price that vm-up printed.")
    machine.wait()
    machine.workspace.inventory.write_text(
        f"[vm]\n{machine.workspace.name} ansible_host={machine.address} ansible_user=ubuntu "
        f"ansible_port={PORT} ansible_ssh_common_args='{shlex.join(machine.options())}'\n"
    )
    called = [
        playbook,
        "-i",
        str(machine.workspace.inventory),
        str(HERE / "ansible" / "site.yml"),
        "-e",
        json.dumps(extra),
    ]
    config = HERE / "ansible" / "ansible.cfg"
    environment = os.environ | ({"ANSIBLE_CONFIG": str(config)} if config.is_file() else {})
    code = subprocess.run(called, cwd=REPOSITORY, env=environment, check=False).returncode
    if code == 4:  # what Ansible returns for a host that it can't reach
        raise VmError(f"The VM went away in mid-setup. {GONE} Then `make vm-setup` resumes; completed steps are not repeated.")
    if code:
        raise VmError(
            f"The setup broke (ansible-playbook, exit code {code}; its reason is above). The VM still runs and costs money: "
            "correct it and repeat `make vm-setup`, or `make vm-down`. Left alone it stops itself after its idle minutes.",
            BROKEN,
        )


def _minutes(text: str) -> int:
    if not text.isdecimal():
        raise VmError(f"idle_minutes={text} is no whole number of minutes; 0 is never.")
    return int(text)


def _yes(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise VmError(f"{key}={text} is neither true nor false.")
    return text.lower() == "true"


def _newest_wheel() -> Path:
    found = sorted((REPOSITORY / "dist").glob("pneumonia-*.whl"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else REPOSITORY / "dist" / "pneumonia.whl"
