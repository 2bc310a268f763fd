"""Test the Terraform module without Google: run its choices for real, and compare the rest with them."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TERRAFORM = Path(__file__).parents[2] / "infra" / "terraform"
CHOICES = TERRAFORM / "modules" / "choices"
MAIN = (TERRAFORM / "main.tf").read_text()
VARIABLES = (CHOICES / "variables.tf").read_text()
NAMES = set(re.findall(r'^variable "(\w+)"', VARIABLES, re.MULTILINE))
BY_CALLER = {"project", "user", "ssh_public_key", "caller_cidr", "zone"}
needs_terraform = pytest.mark.skipif(shutil.which("terraform") is None, reason="needs terraform on PATH")


def _terraform(tmp_path, *arguments):
    environment = os.environ | {
        "TF_DATA_DIR": str(tmp_path / "data"),
        "CHECKPOINT_DISABLE": "1",
        "TF_IN_AUTOMATION": "1",
    }
    return subprocess.run(["terraform", *arguments], env=environment, capture_output=True, text=True, check=False)


@needs_terraform
def test_every_choice_is_accepted_or_refused_as_its_test_says(tmp_path):
    assert _terraform(tmp_path, f"-chdir={CHOICES}", "init", "-backend=false", "-input=false").returncode == 0
    done = _terraform(tmp_path, f"-chdir={CHOICES}", "test", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout


@needs_terraform
def test_files_are_formatted(tmp_path):
    done = _terraform(tmp_path, "fmt", "-check", "-recursive", str(TERRAFORM))
    assert done.returncode == 0, done.stdout


@needs_terraform
def test_machine_of_the_study_is_valid_to_create_and_remove(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TERRAFORM.parent)
    from vm_caller import Workspace
    from vm_terraform import to_destroy

    copy = shutil.copytree(CHOICES, tmp_path / "choices")
    shutil.copy(TERRAFORM / "study.auto.tfvars.json", copy)
    who = {
        "project": "xray-study-12",
        "user": "ada",
        "ssh_public_key": "ssh-ed25519 AAAAC3Nz ada@laptop",
        "caller_cidr": "203.0.113.4/32",
    }
    (copy / "who.auto.tfvars.json").write_text(json.dumps(who))
    assert _terraform(tmp_path, f"-chdir={copy}", "init", "-input=false").returncode == 0
    done = _terraform(tmp_path, f"-chdir={copy}", "plan", "-input=false", "-no-color")
    assert done.returncode == 0, done.stderr
    assert '"SPOT"' in done.stdout
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    monkeypatch.setenv("PATH", os.path.dirname(shutil.which("terraform") or ""))
    (copy / "who.auto.tfvars.json").write_text(json.dumps(to_destroy(Workspace("ada", TERRAFORM, tmp_path))))
    done = _terraform(tmp_path, f"-chdir={copy}", "plan", "-input=false", "-no-color")
    assert done.returncode == 0, done.stderr


def test_every_variable_is_described_and_checked_once_for_both_modules():
    assert (TERRAFORM / "variables.tf").resolve() == (CHOICES / "variables.tf").resolve()
    for block in re.split(r"^(?=variable )", VARIABLES, flags=re.MULTILINE)[1:]:
        assert "description" in block, block
        assert "validation {" in block or re.search(r"type\s+= bool\n\s+nullable\s+= false", block), block


def test_study_s_machine_says_all_that_callers_do_not():
    assert set(json.loads((TERRAFORM / "study.auto.tfvars.json").read_text())) == NAMES - BY_CALLER


def test_main_uses_what_there_is_and_hands_every_choice_on():
    assert set(re.findall(r"\bvar\.(\w+)", MAIN)) == NAMES
    assert set(re.findall(r"\bvar\.(\w+)", (TERRAFORM / "outputs.tf").read_text())) <= NAMES
    outputs = set(re.findall(r'^output "(\w+)"', (CHOICES / "outputs.tf").read_text(), re.MULTILINE))
    assert set(re.findall(r"module\.choices\.(\w+)", MAIN + (TERRAFORM / "versions.tf").read_text())) == outputs
    attributes = set(re.findall(r"module\.choices\.scheduling\.(\w+)", MAIN))
    assert attributes == set(re.findall(r"^    (\w+)\s+= ", _block("scheduling"), re.MULTILINE))


def _block(output):
    return re.search(rf'^output "{output}" .*?^}}', (CHOICES / "outputs.tf").read_text(), re.MULTILINE | re.DOTALL)[0]


def test_only_port_22_is_open_and_no_rights_are_granted():
    assert re.findall(r"ports\s+= (.*)", MAIN) == ['["22"]']
    assert json.loads((TERRAFORM / "study.auto.tfvars.json").read_text())["vm_roles"] == []


def test_every_check_that_is_left_out_says_why():
    skips = re.findall(r"checkov:skip=(\w+)(.*)", MAIN)
    assert skips
    assert all(len(reason) > 20 for _, reason in skips)


FAKES = {
    "systemd-run": 'while [ "$1" != /bin/bash ]; do shift; done; exec "$@"',
    "ss": 'cat "$STAGE/connections" 2> /dev/null',
    "systemctl": 'echo "$@" >> "$STAGE/called"',
    "sleep": 'echo . >> "$STAGE/minutes"; [ "$(wc -l < "$STAGE/minutes")" -lt 100 ] || kill $PPID',
}


@pytest.mark.parametrize(("connections", "minutes", "called"), [("", 10, "poweroff\n"), ("0 0 10.0.0.2:22 1.2.3.4:5\n", 100, "")])
def test_unprepared_vm_stops_itself_unless_in_use(tmp_path, connections, minutes, called):
    (tmp_path / "connections").write_text(connections)
    (tmp_path / "called").touch()
    for name, script in FAKES.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "STAGE": str(tmp_path), "IDLE_MINUTES": "10"}
    subprocess.run(["bash", str(CHOICES / "first_watch.sh")], env=environment, check=False, timeout=20)
    assert (tmp_path / "called").read_text() == called
    assert len((tmp_path / "minutes").read_text().splitlines()) in (minutes, minutes + 1)
