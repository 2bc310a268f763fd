"""What a GPU VM costs an hour: estimates, from one table.

Google's list prices in USD for us-central1 as of 2025, before taxes and discounts; other regions cost up to a third more. Spot
prices change monthly. They were not looked up on the day of your VM: check them before you rely on them.

Source: https://cloud.google.com/compute/all-pricing, https://cloud.google.com/spot-vms/pricing
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

AS_OF: Final = "estimate from 2025 list prices of us-central1"
HOURS_A_MONTH: Final = 730.0
LEAST_OFF: Final = 0.6  # that Google takes off for spot VMs
# kind: (on demand, spot) in USD an hour; None if unknown: then 60% off, the least that Google promises
MACHINES: Final[dict[str, tuple[float, float | None]]] = {
    "n1-standard-1": (0.0475, 0.0100),
    "n1-standard-2": (0.0950, 0.0200),
    "n1-standard-4": (0.1900, 0.0400),
    "n1-standard-8": (0.3800, 0.0800),
    "e2-standard-2": (0.0670, None),
    "e2-standard-4": (0.1340, None),
    "g2-standard-4": (0.7068, None),  # with its L4
    "a2-highgpu-1g": (3.6734, None),  # with its A100
}
GPUS: Final[dict[str, tuple[float, float | None]]] = {
    "": (0.0, 0.0),
    "nvidia-tesla-t4": (0.35, 0.11),
    "nvidia-tesla-p100": (1.46, 0.43),
    "nvidia-tesla-v100": (2.48, 0.74),
    "nvidia-l4": (0.0, 0.0),  # in the price of g2
    "nvidia-tesla-a100": (0.0, 0.0),  # in the price of a2
}
DISKS: Final = {
    "pd-standard": 0.04,
    "pd-balanced": 0.10,
    "pd-ssd": 0.17,
}  # USD a GB and month, also while the VM is stopped
ADDRESS: Final = (0.005, 0.0025)  # a public IPv4 address in use, on demand and spot


@dataclass(frozen=True)
class Price:
    """USD an hour of a VM: while it runs (None: not in the table), and while it is stopped and only its disk is kept."""

    running: float | None
    stopped: float

    def __str__(self) -> str:
        if self.running is None:
            return (
                "Its price is not in infra/vm_prices.py: look at https://cloud.google.com/compute/all-pricing "
                f"(its disk: about {self.stopped:.3f} USD an hour)"
            )
        return f"About {self.running:.2f} USD an hour, and {self.stopped:.3f} while stopped ({AS_OF})"


def _of(prices: tuple[float, float | None] | None, column: int) -> float | None:
    """Return one of two prices; a spot price that is not in the table is at most what Google promises, 60% off."""
    if prices is None or not column or prices[1] is not None:
        return None if prices is None else prices[column]
    return (1 - LEAST_OFF) * prices[0]


def price(choice: Mapping[str, Any]) -> Price:
    """Return the price of a choice of Terraform's variables."""
    column = 1 if choice["spot"] else 0
    stopped = DISKS.get(str(choice["disk_type"]), 0.10) * float(choice["disk_gb"]) / HOURS_A_MONTH
    machine = _of(MACHINES.get(str(choice["machine_type"])), column)
    gpu = _of(GPUS.get(str(choice["gpu_type"])), column)
    if machine is None or gpu is None:
        return Price(None, stopped)
    return Price(machine + gpu * int(choice["gpu_count"]) + ADDRESS[column] + stopped, stopped)
