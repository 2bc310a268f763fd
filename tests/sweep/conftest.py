"""A sweep whose jobs get into trouble on demand, as a user's own file with a family of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAMILY = '''
import os, signal, time
from torch import nn
from pneumonia.models.base import Classifier, Setup

class Troubled(Classifier):
    """Softmax regression that raises, dies or stalls in its second epoch, or raises in its first."""

    def __init__(self, setup: Setup, *, trouble: str = "none") -> None:
        super().__init__(setup)
        self.trouble = "none" if os.environ.get("TROUBLE") == "over" else trouble
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(setup.image_size**2, len(self.task.classes)))

    def training_step(self, batch, batch_idx):
        if self.trouble == "at_once":
            raise ArithmeticError("trouble at once")
        if self.current_epoch == 1 and batch_idx == 1:
            if self.trouble == "raise":
                raise ArithmeticError("trouble in the second epoch")
            if self.trouble == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.trouble == "stall":
                time.sleep(600)
        return super().training_step(batch, batch_idx)
'''
SWEEP = """# Which trouble?   for tests
defaults:
  - train
  - override model: troubled
  - _self_
name: trouble
data: {{phantom: {{patients: 60}}}}
image_size: 32
batch_size: 16
max_epochs: 3
hydra:
  sweeper:
    params:
      model.trouble: {troubles}
"""


class Workplace:
    """A folder with the sweep, its family, and a way to call the command there."""

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        self.folder = folder
        self.words = [f"runs_dir={folder / 'runs'}", f"cache_dir={cache_dir}"]
        (folder / "model").mkdir()
        (folder / "model" / "troubled.yaml").write_text("_target_: troubled.Troubled\ntrouble: none\n")
        (folder / "troubled.py").write_text(FAMILY)

    def sweep(self, troubles: str) -> str:
        path = self.folder / "trouble.yaml"
        path.write_text(SWEEP.format(troubles=troubles))
        return str(path)

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        said = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.folder), *sys.path]), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(
            [sys.executable, "-m", "pneumonia", "sweep", *words, *self.words],
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**said, **environment},
        )

    def call(self, *words: str, **environment: str) -> tuple[int, str]:
        process = self.start(*words, **environment)
        told = process.communicate(timeout=240)[1]
        return process.returncode, told


@pytest.fixture
def workplace(tmp_path, cache_dir, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "troubled", raising=False)
    yield Workplace(tmp_path, cache_dir)
    sys.modules.pop("troubled", None)
