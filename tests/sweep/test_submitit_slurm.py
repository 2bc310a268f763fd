"""`pneumonia train -m hydra/launcher=submitit_slurm` on a SLURM of one node."""

import re

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from pneumonia.runs.folder import RunFolder
from pneumonia.runs.listing import job_label

pytestmark = pytest.mark.slow
INSTALLED = {one.__name__ for one in Plugins.instance().discover(Launcher)}


@pytest.mark.skipif("SlurmLauncher" not in INSTALLED, reason="hydra-submitit-launcher is not installed (the extra `dev`)")
def test_one_failure_of_six_slurm_jobs_sets_the_exit_code(workplace, slurm):
    own = [
        "--config-dir",
        ".",
        "-m",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=5",
        "hydra.launcher.mem_gb=null",
    ]
    small = ["model=troubled", "image_size=16", "batch_size=16", "max_epochs=1", "data.phantom.patients=60"]
    code, output = workplace.call(*own, *small, "model.trouble=a,b,at_once,d,e,f", verb="train")
    assert code == 1, output
    assert re.search(r"1 of 6 jobs failed:\n  2: model.trouble=at_once\n +ArithmeticError: trouble at once", output), output
    finished = [RunFolder(path.parent) for path in workplace.folder.glob("runs/train/*/result.json")]
    assert sorted(map(job_label, finished)) == [f"model.trouble={name}" for name in "abdef"]
