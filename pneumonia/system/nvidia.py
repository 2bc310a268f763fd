"""What `pneumonia doctor` finds out about an NVIDIA card: the card, its driver, and whether torch can use both."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

PCI_DEVICES: Final = Path("/sys/bus/pci/devices")
NVIDIA: Final = "0x10de"
FIELDS: Final = ("name", "driver_version", "memory.total", "memory.used")
ASKED: Final = ("nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
ANSWER_S: Final = 20  # a driver that is stuck answers never
FREE_MIB: Final = 1024
GIB: Final = 2**30


def driver() -> tuple[bool, str]:
    """Whether the driver answers; a machine without a card is well too."""
    cards = _cards_on_the_bus()
    if shutil.which(ASKED[0]) is None:
        if cards:
            return False, (
                f"{cards} NVIDIA card{'s' if cards > 1 else ''}, and no driver: nvidia-smi is not there. Install one "
                "(`make vm-setup` does; on Ubuntu `sudo ubuntu-drivers install --gpgpu`), and restart."
            )
        return True, "no NVIDIA card"
    code, said = _answer()
    if code is None:
        return False, f"nvidia-smi does not answer in {ANSWER_S} s: the card or its driver hangs. Restart the machine."
    if code:
        return False, (
            f"nvidia-smi fails: {said[:200] or f'exit code {code}'} The driver is not loaded, often after an update of "
            "the kernel. Restart the machine, or install the driver again."
        )
    lines = [line.split(", ") for line in said.splitlines()]
    if not lines or any(len(line) != len(FIELDS) for line in lines):
        return False, f"nvidia-smi says what it should not: {said[:100]!r}. Is it NVIDIA's? Install the driver again."
    told = "; ".join(f"{name}, driver {version}, {used} of {total} MiB used" for name, version, total, used in lines)
    known = [(name, total, used) for name, _, total, used in lines if total.isdecimal() and used.isdecimal()]
    if any(int(total) - int(used) < FREE_MIB for _, total, used in known):
        return False, f"{told}. Something else fills the card: `nvidia-smi` lists its processes; end them, or wait."
    return True, told


@cache
def _answer() -> tuple[int | None, str]:
    """What nvidia-smi says of each card, asked once; without an exit code where it hangs."""
    try:
        done = subprocess.run(ASKED, capture_output=True, check=False, timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        return None, ""
    said = (done.stdout + (done.stderr if done.returncode else b"")).decode("utf-8", "replace").strip()
    return done.returncode, said if not done.returncode else " ".join(said.split())


def device() -> tuple[bool, str]:
    """What torch will train on."""
    from pneumonia.system.parallel import available_cores

    try:
        import torch

        from pneumonia.system.device import AUTO_MIXED, precision_on
    except ImportError as error:
        return False, f"torch can't be imported ({error}). Run `make setup`."
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        major, minor = torch.cuda.get_device_capability()
        mixed = precision_on(torch.device("cuda"), AUTO_MIXED)
        return True, (
            f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, compute capability {major}.{minor} "
            f"(trainer=gpu: {mixed}), {free / GIB:.1f} of {total / GIB:.1f} GiB free, torch {torch.__version__}"
        )
    if _cards_on_the_bus() or _answers():
        return False, _why_not(torch.__version__, torch.version.cuda)
    cores, threads = available_cores(), torch.get_num_threads()
    if threads > cores:
        return False, (
            f"torch uses {threads} threads on {cores} cores, which can be very slow. Set OMP_NUM_THREADS={cores}."
        )
    return True, f"no GPU; CPU with {cores} cores, {threads} threads, torch {torch.__version__}"


def _why_not(version: str, built_for: str | None) -> str:
    """Why torch does not see a card that is there."""
    if built_for is None:
        return (
            f"there is a card, but torch {version} is built for CPUs alone. Run `make setup` in a fresh folder, or install torch "
            "with CUDA."
        )
    done = (
        subprocess.run(["nvidia-smi"], capture_output=True, text=True, errors="replace", check=False)
        if _answers()
        else None
    )
    found = re.search(r"CUDA Version: *([\d.]+)", done.stdout) if done else None
    if found and tuple(map(int, found[1].split("."))) < tuple(map(int, built_for.split("."))):
        return (
            f"torch {version} is built for CUDA {built_for}, and the driver can do {found[1]} at most. Install a newer driver, "
            f"or a torch for CUDA {found[1]}."
        )
    return (
        f"there is a card, but torch {version} (CUDA {built_for}) does not see it. Look at the line `driver`, at "
        "CUDA_VISIBLE_DEVICES, and in a container at its --gpus option."
    )


def _answers() -> bool:
    return shutil.which(ASKED[0]) is not None and _answer()[0] == 0


def _cards_on_the_bus() -> int:
    """NVIDIA's display devices, whether or not there is a driver for them."""
    count = 0
    for folder in PCI_DEVICES.glob("*"):
        try:
            vendor, kind = (folder / "vendor").read_text().strip(), (folder / "class").read_text().strip()
        except OSError:
            continue
        count += vendor == NVIDIA and kind.startswith("0x03")
    return count
