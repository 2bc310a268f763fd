"""Fixtures: a sweep file whose jobs fail on demand, and a SLURM of one node."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

FAMILY = '''
import os, signal, time
from torch import nn
from pneumonia.models.base import Classifier
from pneumonia.models.options import ClassifierOptions

class Troubled(Classifier):
    """Softmax regression that raises, dies or stalls in its second epoch, or raises in its first."""

    def __init__(self, options: ClassifierOptions, *, trouble: str = "none") -> None:
        super().__init__(options)
        self.trouble = "none" if os.environ.get("TROUBLE") == "over" else trouble
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(options.image_size**2, len(self.task.classes)))

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
    """A folder with the sweep, its model family, and the command run there."""

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        self.folder = folder
        self.overrides = [f"runs_dir={folder / 'runs'}", f"cache_dir={cache_dir}"]
        (folder / "model").mkdir()
        (folder / "model" / "troubled.yaml").write_text("_target_: troubled.Troubled\ntrouble: none\n")
        (folder / "troubled.py").write_text(FAMILY)

    def sweep(self, troubles: str) -> str:
        path = self.folder / "trouble.yaml"
        path.write_text(SWEEP.format(troubles=troubles))
        return str(path)

    def start(self, *arguments: str, verb: str = "sweep", **environment: str) -> subprocess.Popen:
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self.folder), *sys.path]),
            "CUDA_VISIBLE_DEVICES": "",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "pneumonia", verb, *arguments, *self.overrides],
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**variables, **environment},
        )

    def call(self, *arguments: str, verb: str = "sweep", **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, verb=verb, **environment)
        try:
            output = process.communicate(timeout=240)[1]
        finally:
            process.kill()  # only where it has not ended
            process.wait()
        return process.returncode, output


@pytest.fixture
def workplace(tmp_path, cache_dir, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "troubled", raising=False)
    yield Workplace(tmp_path, cache_dir)
    sys.modules.pop("troubled", None)


SLURM = """ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """Start a SLURM of one node on loopback, from Debian's packages slurm-wlm and munge."""
    needed = ("slurmctld", "slurmd", "munged", "sbatch", "squeue")
    if missing := [name for name in needed if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]:
        pytest.skip(f"{missing[0]} is not installed (apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("starting SLURM needs root")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    for parent in folder.parents:
        if parent.stat().st_uid == 0 and parent.name.startswith("pytest"):
            parent.chmod(0o755)  # munged refuses a socket that others can't reach
    (folder / "key").write_bytes(secrets.token_bytes(1024))
    (folder / "key").chmod(0o400)
    ports = [_free_port(), _free_port()]
    host = socket.gethostname()
    config = folder / "slurm.conf"
    config.write_text(SLURM.format(host=host, ports=ports, folder=folder, cores=os.cpu_count()))
    monkeypatch.setenv("SLURM_CONF", str(config))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    munge = [
        f"--{name}={folder}/{file}"
        for name, file in {
            "key-file": "key",
            "socket": "munge.socket",
            "pid-file": "munge.pid",
            "log-file": "munge.log",
            "seed-file": "seed",
        }.items()
    ]
    daemons = [["munged", "--force", "--foreground", *munge], ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", host]]
    running = []
    try:
        for command in daemons:
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(1)
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False).stdout:
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.5)
        yield config
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
