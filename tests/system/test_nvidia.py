"""Checks of an NVIDIA GPU, with the real output of nvidia-smi in each state of the driver."""

import re
import stat
from types import SimpleNamespace

import pytest
import torch

from pneumonia.errors import ConfigError
from pneumonia.system import device as accelerator
from pneumonia.system import nvidia
from pneumonia.system.device import check_device, device_of, precision_on

SMI = """#!/bin/sh
{body}
"""
WELL = (
    'case "$1" in -L) echo "GPU 0: Tesla T4";; --query*) echo "Tesla T4, 535.183.01, 15360, {used}";; '
    '*) echo "CUDA Version: {cuda}";; esac'
)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Build a machine with some GPUs on its bus and a given nvidia-smi."""

    def build(gpus: int, body: str | None):
        for number in range(gpus):
            folder = tmp_path / "bus" / f"0000:00:0{number}.0"
            folder.mkdir(parents=True)
            (folder / "vendor").write_text("0x10de\n")
            (folder / "class").write_text("0x030200\n")
        monkeypatch.setattr(nvidia, "PCI_DEVICES", tmp_path / "bus")
        tools = tmp_path / "bin"
        tools.mkdir()
        if body is not None:
            tool = tools / "nvidia-smi"
            tool.write_text(SMI.format(body=body))
            tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
        nvidia._query.cache_clear()

    return build


@pytest.mark.parametrize(
    ("gpus", "body", "good", "message"),
    [
        (0, None, True, "no NVIDIA GPU"),
        (1, None, False, "1 NVIDIA GPU, and no driver: nvidia-smi is missing. Install one"),
        (2, None, False, "2 NVIDIA GPUs, and no driver"),
        (1, WELL.format(used=300, cuda="13.2"), True, "Tesla T4, driver 535.183.01, 300 of 15360 MiB used"),
        (1, "echo 'NVIDIA GH200, 550.54, [N/A], [N/A]'", True, "NVIDIA GH200, driver 550.54, [N/A] of [N/A] MiB"),
        (1, "echo hello rubbish", False, "printed unexpected output: 'hello rubbish'"),
        (1, r"printf '\\265\\377'", False, "printed unexpected output"),
        (1, "exit 0", False, "printed unexpected output: ''"),
        (1, WELL.format(used=15000, cuda="13.2"), False, "Another process fills the GPU"),
        (
            *(
                1,
                'echo "NVIDIA-SMI has failed because it couldn\'t communicate with the NVIDIA driver."; exit 9',
                False,
            ),
            "couldn't communicate with the NVIDIA driver. The driver is not loaded",
        ),
    ],
)
def test_each_state_of_the_driver_is_recognised(machine, gpus, body, good, message):
    machine(gpus, body)
    found, text = nvidia.driver()
    assert found is good
    assert message in text


def test_hanging_driver_times_out(machine, monkeypatch):
    machine(1, "exec sleep 60")
    monkeypatch.setattr(nvidia, "TIMEOUT_S", 0.3)
    found, text = nvidia.driver()
    assert not found
    assert "does not answer" in text


@pytest.mark.parametrize(
    ("built_for", "cuda", "message"),
    [
        ("13.2", "12.2", "built for CUDA 13.2, and the driver supports 12.2 at most. Install a newer driver"),
        ("12.8", "13.2", "does not see it. Check the line `driver`, CUDA_VISIBLE_DEVICES"),
        (None, "13.2", "is built for CPUs alone"),
    ],
)
def test_message_says_why_torch_sees_no_gpu(machine, monkeypatch, built_for, cuda, message):
    machine(1, WELL.format(used=300, cuda=cuda))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    found, text = nvidia.device()
    assert not found
    assert message in text


def test_clock_behind_the_program_is_reported(monkeypatch):
    from pneumonia.cli import doctor

    assert doctor._clock()[0]
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: 1e9, strftime=lambda *_: "2001", gmtime=lambda _: 0))
    good, text = doctor._clock()
    assert not good
    assert "before this program was installed" in text


@pytest.mark.parametrize(
    ("key", "good"), [("x" * 40, True), ("x" * 86, True), ("xyz", False), ("x" * 40 + " ", False), ("", True)]
)
def test_truncated_wandb_key_is_reported_and_not_shown(monkeypatch, tmp_path, key, good):
    from pneumonia.cli import doctor

    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    found, text = doctor._wandb()
    assert found is good
    assert not key or key not in text


def _words(**changed):
    return SimpleNamespace(**{"accelerator": "auto", "precision": "32-true", "devices": 1, **changed})


def test_without_a_gpu_what_needs_one_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device(_words())
    check_device(_words(precision="bf16-mixed"))
    for words, message in (
        (
            _words(accelerator="gpu"),
            "trainer.accelerator=gpu needs a GPU, and torch sees none here. `pneumonia doctor`",
        ),
        (_words(precision="mixed"), "trainer.precision=mixed needs a GPU, and none is used here"),
        (_words(precision="16-mixed", accelerator="cpu"), "none is used with trainer.accelerator=cpu"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            check_device(words)


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "16-mixed"), ((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed")])
def test_mixed_means_what_the_card_computes_with(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision_on(torch.device("cuda"), "mixed") == precision
    assert precision_on(torch.device("cuda"), "32-true") == "32-true"


def test_a_cpu_that_is_asked_for_is_taken_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(_words()).type == "cuda"
    assert device_of(_words(accelerator="cpu")) == accelerator.CPU
