"""Run vm.py with the real Terraform and fakes of all Google services."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "fake_gcloud"


class Caller:
    """One user of one machine: call vm.py, set how the cloud behaves, and inspect what is left."""

    def __init__(self, home: Path, user: str = "ada") -> None:
        self.home = home
        self.behaviour = home / "behaviour"
        self.state = home / "state"
        self.tools = home / "tools"  # comes first on PATH
        for folder in (self.behaviour, self.tools, home / ".ssh"):
            folder.mkdir(parents=True, exist_ok=True)
        (home / ".ssh" / "id_ed25519.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLE ada@laptop\n")
        (home / "key.json").write_text("{}")
        (self.behaviour / "make.sh").write_text(
            f'cd {self.behaviour}\nif [ -f "$1.txt" ]; then cat "$1.txt"; exit 1; fi\n'
            'if [ -f slow ]; then touch started; exec sleep 30; fi\necho "made $1" >> log\n'
        )
        (self.behaviour / "remove.sh").write_text(
            f'cd {self.behaviour}\nif [ -f stuck ]; then echo "Error: googleapi: Error 500: backend error"; exit 1; fi\n'
            'if [ -f slow_removal ]; then touch removing; sleep 1; fi\necho "removed $1" >> log\n'
        )
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GOOGLE_", "CLOUDSDK_", "PNEUMONIA_", "AZURE_"))}
        self.environment = kept | {
            "HOME": str(home),
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "CLOUDSDK_CONFIG": str(home / "gcloud"),
            "GOOGLE_APPLICATION_CREDENTIALS": str(home / "key.json"),
            "GOOGLE_CLOUD_PROJECT": "xray-study-12",
            "PNEUMONIA_VM_USER": user,
            "PNEUMONIA_VM_MODULE": str(STAND_IN),
            "PNEUMONIA_VM_STATE": str(self.state),
            "PNEUMONIA_VM_PATIENCE_S": "0",
            "PNEUMONIA_VM_ANSIBLE": str(self.tools / "ansible-playbook"),
            "TF_VAR_behaviour": str(self.behaviour),
        }
        self.user = user

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "infra" / "vm.py"), *arguments],
            env=self.environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, *arguments: str) -> tuple[int, str]:
        with self.start(*arguments) as process:
            text, _ = process.communicate(timeout=60)
        return process.returncode, text

    def up(self, *arguments: str) -> tuple[int, str]:
        return self.call("up", "zones=us-central1-a,us-central1-b", "caller_cidr=203.0.113.4/32", *arguments)

    def zone_says(self, **says: str) -> None:
        for letter, text in says.items():
            (self.behaviour / f"us-central1-{letter}.txt").write_text(text)

    def say(self, name: str) -> None:
        (self.behaviour / name).touch()

    def unsay(self, name: str) -> None:
        (self.behaviour / name).unlink()

    def log(self) -> list[str]:
        path = self.behaviour / "log"
        return path.read_text().splitlines() if path.exists() else []

    def recorded(self) -> list[str]:
        """Return the resources in Terraform's state file."""
        path = self.state / self.user / "terraform.tfstate"
        return [r["name"] for r in json.loads(path.read_text())["resources"]] if path.exists() else []

    def tool(self, name: str, script: str) -> None:
        path = self.tools / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def wait_for(self, name: str) -> None:
        end = time.monotonic() + 20
        while not (self.behaviour / name).exists():
            assert time.monotonic() < end, f"{name} never came"
            time.sleep(0.02)


@pytest.fixture
def new_caller(tmp_path: Path) -> Callable[[str], Caller]:
    if shutil.which("terraform") is None:
        pytest.skip("needs terraform on PATH")
    return lambda user: Caller(tmp_path, user)


@pytest.fixture
def caller(new_caller: Callable[[str], Caller]) -> Caller:
    return new_caller("ada")
