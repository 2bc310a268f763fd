"""Which device a run trains on, and how exactly it computes there."""

from collections.abc import Mapping
from typing import Any, Final

import torch

from pneumonia.errors import ConfigError

AS_THE_CARD_ALLOWS: Final = "mixed"
EXACT: Final = ("32-true", "64-true")
BF16_FROM: Final = 8  # compute capability of Ampere; earlier cards (the T4 has 7.5) only emulate bfloat16, slowly
CPU: Final = torch.device("cpu")


def device_of(trainer: Mapping[str, Any]) -> torch.device:
    """The device that the ``trainer`` node of a config means, on this machine."""
    return torch.device("cuda") if trainer["accelerator"] != "cpu" and torch.cuda.is_available() else CPU


def name_of(device: torch.device) -> str:
    """What ``result.json`` calls a device: the card's name, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def check_device(trainer: Mapping[str, Any]) -> None:
    """Refuses a ``trainer`` node that this machine can't do.

    Raises:
        ConfigError: With the setting and what to do.
    """
    accelerator, precision = trainer["accelerator"], str(trainer["precision"])
    if device_of(trainer).type == "cuda":
        return
    if accelerator in {"gpu", "cuda"}:
        raise ConfigError(
            f"trainer.accelerator={accelerator} needs a GPU, and torch sees none here. `pneumonia doctor` says why; "
            "trainer=default takes what there is."
        )
    if precision.startswith("16") or precision == AS_THE_CARD_ALLOWS:
        where = "here" if accelerator != "cpu" else "with trainer.accelerator=cpu"
        raise ConfigError(
            f"trainer.precision={precision} needs a GPU, and none is used {where}. Say trainer.precision=bf16-mixed, or 32-true."
        )


def precision_on(device: torch.device, word: str) -> str:
    """Lightning's word for a precision; ``mixed`` is bfloat16 where the card computes with it, float16 on older ones."""
    if word != AS_THE_CARD_ALLOWS:
        return word
    return "bf16-mixed" if torch.cuda.get_device_capability(device)[0] >= BF16_FROM else "16-mixed"


def settle(device: torch.device, precision: str) -> None:
    """Lets the card round float32 products to TF32 (10 bits) in mixed precision, and never in ``32-true``.

    Torch's default is yes for convolutions and no for products of matrices, so that ``32-true`` would mean neither.
    """
    if device.type == "cuda":
        rounded = precision not in EXACT
        torch.backends.cudnn.allow_tf32 = rounded
        torch.backends.cuda.matmul.allow_tf32 = rounded
