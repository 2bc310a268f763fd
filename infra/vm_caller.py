"""Find the caller's user name, project, credentials, SSH key and address, and the folder with the state of the VM."""

import getpass
import hashlib
import json
import os
import re
import shutil
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vm_errors import VmError

HERE: Final = Path(__file__).resolve().parent
STUDY: Final = HERE / "terraform" / "study.auto.tfvars.json"  # the study's machine, which is the default
PROJECT_NAMES: Final = ("GOOGLE_CLOUD_PROJECT", "GOOGLE_PROJECT", "CLOUDSDK_CORE_PROJECT")
KEYS: Final = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")
WHO_AM_I: Final = ("https://checkip.amazonaws.com", "https://api.ipify.org")
ADDRESS: Final = re.compile(r"\d{1,3}(\.\d{1,3}){3}")
LONGEST_USER: Final = 20


@dataclass(frozen=True)
class Workspace:
    """The user, the Terraform module, and the folder with the user's state."""

    user: str
    module: Path
    folder: Path

    @property
    def name(self) -> str:
        return f"pneumonia-{self.user}"

    @property
    def choice_file(self) -> Path:
        return self.folder / "vm.tfvars.json"

    @property
    def key_file(self) -> Path:
        return self.folder / "ssh_key"

    @property
    def state_file(self) -> Path:
        return self.folder / "terraform.tfstate"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory.ini"

    def choice(self) -> dict[str, Any]:
        """Return the variables of the VM; empty if this machine did not create it."""
        try:
            found = json.loads(self.choice_file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return found if isinstance(found, dict) else {}

    def noted_key(self) -> Path | None:
        """Return the public key of the VM, if its file still exists."""
        noted = Path(self.key_file.read_text().strip()) if self.key_file.is_file() else None
        return noted if noted and noted.is_file() else None

    def note(self, choice: dict[str, Any]) -> None:
        """Record the variables for Terraform and for later calls; there are no secrets in them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key_file.write_text(f"{choice.get('ssh_key', '')}\n")
        variables = {name: value for name, value in choice.items() if name != "ssh_key"}
        self.choice_file.write_text(json.dumps(variables, indent=2) + "\n")


def workspace() -> Workspace:
    """Return the workspace of the user, or that of PNEUMONIA_VM_USER, PNEUMONIA_VM_MODULE and PNEUMONIA_VM_STATE."""
    user = user_name(os.environ.get("PNEUMONIA_VM_USER") or getpass.getuser())
    module = Path(os.environ.get("PNEUMONIA_VM_MODULE") or HERE / "terraform").resolve()
    return Workspace(user, module, Path(os.environ.get("PNEUMONIA_VM_STATE") or HERE / ".state").resolve() / user)


def user_name(raw: str) -> str:
    """Return a user name that Google accepts; a changed one gets a digest, so that names stay distinct."""
    name = re.sub(r"[^a-z0-9]+", "-", raw.lower()).strip("-")
    name = name if name[:1].isalpha() else f"u{name}"
    if name == raw and len(name) <= LONGEST_USER:
        return name
    return f"{name[: LONGEST_USER - 5].rstrip('-')}-{hashlib.sha256(raw.encode()).hexdigest()[:4]}"


def terraform_missing() -> str | None:
    """Return what to do if terraform is missing."""
    if shutil.which("terraform"):
        return None
    return "terraform is missing, which makes and removes the VM: install 1.9 or newer from https://developer.hashicorp.com/terraform/install"


def credentials_missing() -> str | None:
    """Return what to do if there are no Google credentials; their content is not read."""
    if any(os.environ.get(name) for name in ("GOOGLE_CREDENTIALS", "GOOGLE_OAUTH_ACCESS_TOKEN")):
        return None
    if named := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        if Path(named).is_file():
            return None
        return (
            f"GOOGLE_APPLICATION_CREDENTIALS names {named}, which is no file: correct it, "
            "or unset it and log in with `gcloud auth application-default login`"
        )
    gcloud = Path(os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud")
    if (gcloud / "application_default_credentials.json").is_file():
        return None
    return (
        "no credentials of Google Cloud, without which nothing can be made: `gcloud auth application-default login`, "
        "or GOOGLE_APPLICATION_CREDENTIALS=KEY.json"
    )


def find_project() -> str | None:
    """Return the project of the environment, or of gcloud's settings."""
    for name in PROJECT_NAMES:
        if found := os.environ.get(name):
            return found
    if not shutil.which("gcloud"):
        return None
    asked = ("gcloud", "config", "get-value", "project", "--quiet")
    try:
        found = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except subprocess.TimeoutExpired:
        return None
    return found if found and found != "(unset)" else None


def find_key(named: str | None) -> Path | None:
    """Return the public key file: the named one, that of PNEUMONIA_VM_SSH_KEY, or the first of ~/.ssh."""
    if wanted := named or os.environ.get("PNEUMONIA_VM_SSH_KEY"):
        path = Path(wanted).expanduser()
        path = path if path.suffix == ".pub" else path.with_name(f"{path.name}.pub")
        if not path.is_file():
            raise VmError(f"There is no public key {path}. Name one that exists: ssh_key=FILE.pub")
        return path
    return next((path for name in KEYS if (path := Path.home() / ".ssh" / name).is_file()), None)


def find_address() -> str | None:
    """Return the public IPv4 address of this machine, as a /32."""
    for url in WHO_AM_I:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = answer.read(64).decode("ascii", "replace").strip()
        except OSError:
            continue
        if ADDRESS.fullmatch(found):
            return f"{found}/32"
    return None
