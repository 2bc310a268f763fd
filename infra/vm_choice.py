"""Choose the VM: the study's machine with KEY=VALUE settings in place of its own, validated before anything is created."""

import difflib
import json
from collections.abc import Sequence
from typing import Any, Final

from vm_caller import STUDY, Workspace, credentials_missing, find_address, find_key, find_project, terraform_missing
from vm_errors import VmError
from vm_prices import price

OWN: Final = ("project", "ssh_key", "caller_cidr")  # without a shared default


def read_settings(arguments: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Parse KEY=VALUE arguments.

    Raises:
        VmError: An argument of another form, or an unknown key.
    """
    given = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            near = difflib.get_close_matches(key, known, 1)
            there = f"There are: {', '.join(sorted(known))}" if known else "This command takes no arguments."
            hint = f"Did you mean {near[0]}=...?" if near else there
            raise VmError(f"{argument!r} is not understood. {hint}")
        given[key] = value
    return given


def choose(given: dict[str, str], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return Terraform's variables: those of the study's machine, replaced by the given ones.

    Raises:
        VmError: A value of the wrong kind. Ranges are Terraform's to check.
    """
    choice = dict(defaults)
    for key, text in given.items():
        if key in OWN:
            continue
        kind = type(defaults[key])
        if kind is bool:
            if text.lower() not in ("true", "false"):
                raise VmError(f"{key}={text} is neither true nor false.")
            choice[key] = text.lower() == "true"
        elif kind is int:
            if not text.isdecimal():
                raise VmError(f"{key}={text} is no whole number.")
            choice[key] = int(text)
        else:
            choice[key] = [part for part in text.split(",") if part] if kind is list else text
    if not choice["zones"]:
        raise VmError("zones= names no zone in which to look for a GPU: zones=us-central1-a,us-east1-c")
    return choice


def settle(mine: Workspace, given: dict[str, str]) -> dict[str, Any]:
    """Return all variables of Terraform, or refuse with everything that is missing.

    Raises:
        VmError: Something is missing; nothing was created.
    """
    choice = choose(given, json.loads(STUDY.read_text()))
    project = given.get("project") or find_project()
    key = find_key(given.get("ssh_key"))
    address = given.get("caller_cidr") or find_address()
    missing = [
        terraform_missing(),
        credentials_missing(),
        None if project else "no project that pays: project=ID, or export GOOGLE_CLOUD_PROJECT=ID",
        None if key else "no SSH key, the only way into the VM: ssh-keygen -t ed25519, or ssh_key=FILE.pub",
        None if address else "this machine's address is unknown, and only it may reach the VM: caller_cidr=203.0.113.4/32",
    ]
    if found := [line for line in missing if line]:
        raise VmError("Nothing was made. Missing:\n" + "\n".join(f"  - {line}" for line in found))
    assert key is not None
    public = key.read_text(errors="replace").strip()
    return choice | {
        "project": project,
        "user": mine.user,
        "ssh_public_key": public,
        "caller_cidr": address,
        "zone": None,
        "ssh_key": str(key),
    }


def describe(mine: Workspace, choice: dict[str, Any]) -> str:
    """Describe what `up` will create, and its cost."""
    gpus = f"{choice['gpu_count']} x {choice['gpu_type']}" if choice["gpu_count"] else "no GPU"
    kind = "spot (Google may stop it at any moment)" if choice["spot"] else "on demand"
    limit = f", after {choice['max_run_hours']} hours at the latest" if choice["max_run_hours"] else ""
    disk = f"{choice['disk_gb']} GB {choice['disk_type']}"
    return (
        f"VM {mine.name} in project {choice['project']}: {choice['machine_type']}, {gpus}, {disk}, {kind}.\n"
        f"SSH from {choice['caller_cidr']} alone, with {choice['ssh_key']}. "
        f"Stops itself after {choice['idle_minutes']} idle minutes{limit}.\n"
        f"{price(choice)}."
    )
