"""Checks of `pneumonia doctor` for NVIDIA GPUs: the driver, and the device that torch uses."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

PCI_DEVICES: Final = Path("/sys/bus/pci/devices")
NVIDIA: Final = "0x10de"
FIELDS: Final = ("name", "driver_version", "memory.total", "memory.used")
QUERY: Final = ("nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
TIMEOUT_S: Final = 20  # a driver that hangs never answers
FREE_MIB: Final = 1024
GIB: Final = 2**30


def driver() -> tuple[bool, str]:
    """Check that the driver answers; return success and a message. A machine without a GPU passes."""
    gpus = _gpus_on_the_bus()
    if shutil.which(QUERY[0]) is None:
        if gpus:
            return False, (
                f"{gpus} NVIDIA GPU{'s' if gpus > 1 else ''}, and no driver: nvidia-smi is missing. Install one "
                "(`make vm-setup` does; on Ubuntu `sudo ubuntu-drivers install --gpgpu`), and restart."
            )
        return True, "no NVIDIA GPU"
    code, output = _query()
    if code is None:
        return False, f"nvidia-smi does not answer in {TIMEOUT_S} s: the GPU or its driver hangs. Restart the machine."
    if code:
        return False, (
            f"nvidia-smi fails: {output[:200] or f'exit code {code}'} The driver is not loaded, often after an update of "
            "the kernel. Restart the machine, or install the driver again."
        )
    lines = [line.split(", ") for line in output.splitlines()]
    if not lines or any(len(line) != len(FIELDS) for line in lines):
        return (
            False,
            f"nvidia-smi printed unexpected output: {output[:100]!r}. Is it NVIDIA's? Install the driver again.",
        )
    found = "; ".join(f"{name}, driver {version}, {used} of {total} MiB used" for name, version, total, used in lines)
    known = [(name, total, used) for name, _, total, used in lines if total.isdecimal() and used.isdecimal()]
    if any(int(total) - int(used) < FREE_MIB for _, total, used in known):
        return False, f"{found}. Another process fills the GPU: `nvidia-smi` lists its processes; end them, or wait."
    return True, found


@cache
def _query() -> tuple[int | None, str]:
    """Return exit code (``None`` if it hangs) and output of nvidia-smi, which runs once."""
    try:
        done = subprocess.run(QUERY, capture_output=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None, ""
    output = (done.stdout + (done.stderr if done.returncode else b"")).decode("utf-8", "replace").strip()
    return done.returncode, output if not done.returncode else " ".join(output.split())


def device() -> tuple[bool, str]:
    """Check the device that torch uses; return success and a message."""
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
    if _gpus_on_the_bus() or _answers():
        return False, _why_not(torch.__version__, torch.version.cuda)
    cores, threads = available_cores(), torch.get_num_threads()
    if threads > cores:
        return False, (f"torch uses {threads} threads on {cores} cores, which can be very slow. Set OMP_NUM_THREADS={cores}.")
    return True, f"no GPU; CPU with {cores} cores, {threads} threads, torch {torch.__version__}"


def _why_not(version: str, built_for: str | None) -> str:
    """Explain why torch does not see a GPU that the machine has."""
    if built_for is None:
        return (
            f"there is a GPU, but torch {version} is built for CPUs alone. Run `make setup` in a fresh folder, or install torch "
            "with CUDA."
        )
    done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, errors="replace", check=False) if _answers() else None
    found = re.search(r"CUDA Version: *([\d.]+)", done.stdout) if done else None
    if found and tuple(map(int, found[1].split("."))) < tuple(map(int, built_for.split("."))):
        return (
            f"torch {version} is built for CUDA {built_for}, and the driver supports {found[1]} at most. Install a newer driver, "
            f"or a torch for CUDA {found[1]}."
        )
    return (
        f"there is a GPU, but torch {version} (CUDA {built_for}) does not see it. Check the line `driver`, "
        "CUDA_VISIBLE_DEVICES, and the --gpus option of a container."
    )


def _answers() -> bool:
    return shutil.which(QUERY[0]) is not None and _query()[0] == 0


def _gpus_on_the_bus() -> int:
    """Count the display devices of NVIDIA, with or without a driver."""
    count = 0
    for folder in PCI_DEVICES.glob("*"):
        try:
            vendor, kind = (folder / "vendor").read_text().strip(), (folder / "class").read_text().strip()
        except OSError:
            continue
        count += vendor == NVIDIA and kind.startswith("0x03")
    return count
