"""Choose the device of a run and its numerical precision."""

from typing import Final

import torch

from pneumonia.config.nodes import TrainerConfig
from pneumonia.errors import ConfigError

AUTO_MIXED: Final = "mixed"
EXACT: Final = ("32-true", "64-true")
BF16_FROM: Final = 8  # compute capability of Ampere; earlier cards (the T4 has 7.5) only emulate bfloat16, slowly
CPU: Final = torch.device("cpu")


def device_of(trainer: TrainerConfig) -> torch.device:
    """Return the device that a trainer config selects on this machine, the first of several."""
    if trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return CPU
    return torch.device("cuda", trainer.devices[0]) if isinstance(trainer.devices, list) else torch.device("cuda")


def process_count(trainer: TrainerConfig) -> int:
    """Return how many processes train together on this machine; ``auto`` and -1 are all GPUs, or one process without any."""
    devices = trainer.devices
    if isinstance(devices, list):
        return len(devices)
    if devices in {"auto", -1}:
        return torch.cuda.device_count() if device_of(trainer).type == "cuda" else 1
    return int(devices)


def name_of(device: torch.device) -> str:
    """Return the name of a device for ``result.json``: the GPU's name, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def check_device(trainer: TrainerConfig) -> None:
    """Refuse a trainer config that this machine does not support.

    Raises:
        ConfigError: The accelerator or the precision needs a GPU.
    """
    accelerator, precision, devices = trainer.accelerator, trainer.precision, trainer.devices
    if device_of(trainer).type == "cuda":
        gpus = torch.cuda.device_count()
        if isinstance(devices, list) and max(devices) >= gpus:
            raise ConfigError(
                f"trainer.devices={devices} names GPU {max(devices)}, and this machine has {gpus}, counted from 0. Use "
                "trainer.devices=auto for all of them."
            )
        return
    if isinstance(devices, list):
        raise ConfigError(f"trainer.devices={devices} names GPUs, and none is used here. Use trainer.devices=1.")
    if accelerator in {"gpu", "cuda"}:
        raise ConfigError(
            f"trainer.accelerator={accelerator} needs a GPU, and torch sees none here. `pneumonia doctor` says why; "
            "trainer=default uses what is available."
        )
    if precision.startswith("16") or precision == AUTO_MIXED:
        where = "here" if accelerator != "cpu" else "with trainer.accelerator=cpu"
        raise ConfigError(
            f"trainer.precision={precision} needs a GPU, and none is used {where}. Use trainer.precision=bf16-mixed or 32-true."
        )


def precision_on(device: torch.device, word: str) -> str:
    """Return Lightning's name of a precision; ``mixed`` is bfloat16 on GPUs from Ampere on, else float16."""
    if word != AUTO_MIXED:
        return word
    return "bf16-mixed" if torch.cuda.get_device_capability(device)[0] >= BF16_FROM else "16-mixed"


def configure_tf32(device: torch.device, precision: str) -> None:
    """Allow TF32 (10-bit mantissa) in mixed precision and forbid it in ``32-true``.

    By default torch allows it for convolutions and forbids it for matrix products.
    """
    if device.type == "cuda":
        rounded = precision not in EXACT
        torch.backends.cudnn.allow_tf32 = rounded
        torch.backends.cuda.matmul.allow_tf32 = rounded
