"""The example of docs/models.md: a family is one file and one YAML, and nothing else has to be edited."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pneumonia.config.keys import conf_dir

ROOT = conf_dir().parent


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout with the two files of the example added."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pneumonia", "conf", "sweeps", "tests", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.svg"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL))
    (copy / "pneumonia" / "models" / "tiny.py").write_text(blocks["python"])
    (copy / "conf" / "model" / "tiny.yaml").write_text(blocks["yaml"])
    return copy


def _run(checkout: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *words], cwd=checkout, capture_output=True, text=True, check=False, env=environment)


def test_training_and_sweeps_find_a_new_family(checkout, cache_dir, phantoms, tmp_path):
    words = [
        "data.phantom.patients=60",
        "image_size=32",
        "max_epochs=1",
        f"cache_dir={cache_dir}",
        f"runs_dir={tmp_path}",
    ]
    done = _run(checkout, "-m", "pneumonia", "train", "-m", "model=tiny,mlp", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(tmp_path.glob("*/*/result.json"))) == 2
    wrong = _run(checkout, "-m", "pneumonia", "train", "model=tiny", "model.sides=3", *words)
    assert wrong.returncode == 2
    assert "Did you mean 'model.side'" in wrong.stderr
    assert "tiny" in _run(checkout, "-m", "pneumonia", "train", "--help").stdout


def test_the_tests_find_a_new_family(checkout):
    tests = ["tests/models/test_families.py", "tests/test_architecture.py"]
    done = _run(checkout, "-m", "pytest", "-q", *tests, "-k", "tiny or imports", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 8
