"""What is found out about a card, with the real words of NVIDIA's tool in each state that it can be in."""

import re
import stat
from types import SimpleNamespace

import pytest
import torch

from pneumonia.errors import ConfigError
from pneumonia.system import device as accelerator
from pneumonia.system import nvidia as card
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
    """A machine with so many cards on its bus, and a tool that answers so."""

    def build(cards: int, body: str | None):
        for number in range(cards):
            folder = tmp_path / "bus" / f"0000:00:0{number}.0"
            folder.mkdir(parents=True)
            (folder / "vendor").write_text("0x10de\n")
            (folder / "class").write_text("0x030200\n")
        monkeypatch.setattr(card, "PCI_DEVICES", tmp_path / "bus")
        tools = tmp_path / "bin"
        tools.mkdir()
        if body is not None:
            tool = tools / "nvidia-smi"
            tool.write_text(SMI.format(body=body))
            tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
        card._answer.cache_clear()

    return build


@pytest.mark.parametrize(
    ("cards", "body", "good", "told"),
    [
        (0, None, True, "no NVIDIA card"),
        (1, None, False, "1 NVIDIA card, and no driver: nvidia-smi is not there. Install one"),
        (2, None, False, "2 NVIDIA cards, and no driver"),
        (1, WELL.format(used=300, cuda="13.2"), True, "Tesla T4, driver 535.183.01, 300 of 15360 MiB used"),
        (1, "echo 'NVIDIA GH200, 550.54, [N/A], [N/A]'", True, "NVIDIA GH200, driver 550.54, [N/A] of [N/A] MiB"),
        (1, "echo hello rubbish", False, "says what it should not: 'hello rubbish'"),
        (1, r"printf '\\265\\377'", False, "says what it should not"),
        (1, "exit 0", False, "says what it should not: ''"),
        (1, WELL.format(used=15000, cuda="13.2"), False, "Something else fills the card"),
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
def test_the_driver_is_told_apart_from_the_card(machine, cards, body, good, told):
    machine(cards, body)
    found, text = card.driver()
    assert found is good
    assert told in text


def test_a_driver_that_hangs_is_not_waited_for(machine, monkeypatch):
    machine(1, "exec sleep 60")
    monkeypatch.setattr(card, "ANSWER_S", 0.3)
    found, text = card.driver()
    assert not found
    assert "does not answer" in text


@pytest.mark.parametrize(
    ("built_for", "cuda", "told"),
    [
        ("13.2", "12.2", "built for CUDA 13.2, and the driver can do 12.2 at most. Install a newer driver"),
        ("12.8", "13.2", "does not see it. Look at the line `driver`, at CUDA_VISIBLE_DEVICES"),
        (None, "13.2", "is built for CPUs alone"),
    ],
)
def test_why_torch_does_not_see_a_card(machine, monkeypatch, built_for, cuda, told):
    machine(1, WELL.format(used=300, cuda=cuda))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    found, text = card.device()
    assert not found
    assert told in text


def test_a_clock_that_is_behind_the_program_is_found(monkeypatch):
    from pneumonia.cli import doctor

    assert doctor._clock()[0]
    monkeypatch.setattr(
        doctor, "time", SimpleNamespace(time=lambda: 1e9, strftime=lambda *_: "2001", gmtime=lambda _: 0)
    )
    good, text = doctor._clock()
    assert not good
    assert "before this program was installed" in text


@pytest.mark.parametrize(
    ("key", "good"), [("x" * 40, True), ("x" * 86, True), ("xyz", False), ("x" * 40 + " ", False), ("", True)]
)
def test_a_key_of_wandb_that_was_cut_is_found_and_none_is_shown(monkeypatch, tmp_path, key, good):
    from pneumonia.cli import doctor

    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    found, text = doctor._wandb()
    assert found is good
    assert not key or key not in text


def _words(**changed):
    return SimpleNamespace(**{"accelerator": "auto", "precision": "32-true", **changed})


def test_without_a_gpu_what_needs_one_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device(_words())
    check_device(_words(precision="bf16-mixed"))
    for words, told in (
        (
            _words(accelerator="gpu"),
            "trainer.accelerator=gpu needs a GPU, and torch sees none here. `pneumonia doctor`",
        ),
        (_words(precision="mixed"), "trainer.precision=mixed needs a GPU, and none is used here"),
        (_words(precision="16-mixed", accelerator="cpu"), "none is used with trainer.accelerator=cpu"),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)):
            check_device(words)


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 5), "16-mixed"), ((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed")]
)
def test_mixed_means_what_the_card_computes_with(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision_on(torch.device("cuda"), "mixed") == precision
    assert precision_on(torch.device("cuda"), "32-true") == "32-true"


def test_a_cpu_that_is_asked_for_is_taken_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(_words()).type == "cuda"
    assert device_of(_words(accelerator="cpu")) == accelerator.CPU
