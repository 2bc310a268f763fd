"""Test that the lock of the serving image has all that the service needs, and no training library."""

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements-serve.lock"
SERVED = """
import json, sys
from pathlib import Path

class Hidden:
    \"\"\"Hide the modules that the image does not have.\"\"\"
    names = set(json.loads(sys.argv[1]))
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
import pneumonia.cli.serve, pneumonia.serving.app, pneumonia.serving.page, pneumonia.serving.server
import pneumonia.data.images.dicom, pneumonia.data.sources.phantom
from pneumonia.export.runtime import Bundle
bundle = Bundle.load(Path(sys.argv[2]))
print(bundle.predict(Path(sys.argv[3]).read_bytes()).most_probable)
"""


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pinned(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE):
        found.setdefault(_plain(name), set()).add(version)
    return found


def test_lock_has_everything_that_the_service_imports(bundle_dir, cache_dir):
    locked = {*_pinned(LOCK), "pneumonia", "pip", "setuptools"}
    absent = [name for name, owners in packages_distributions().items() if not {_plain(one) for one in owners} & locked]
    assert {"torch", "lightning", "hydra", "timm", "albumentations", "sklearn"} <= set(absent)
    image = next(cache_dir.glob("phantom-*/**/*.jpeg"))
    command = [sys.executable, "-c", SERVED, json.dumps(absent), str(bundle_dir), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"NORMAL", "VIRUS", "BACTERIA"}


def test_versions_are_those_of_the_training_lock():
    training = _pinned(LOCK.with_name("requirements.lock"))
    assert {name: version for name, version in _pinned(LOCK).items() if not version <= training.get(name, set())} == {}
