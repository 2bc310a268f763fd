"""Train, compare and trust chest X-ray classifiers: normal, viral or bacterial pneumonia.

    from pneumonia import Task, XRayDataModule, build_model, compose, list_runs, load_run, train

Names are imported on first use, so that ``import pneumonia`` imports no torch.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pneumonia.config.compose import compose
    from pneumonia.data.datamodule import XRayDataModule
    from pneumonia.models.factory import build_model
    from pneumonia.runs.load import load_finished_run as load_run
    from pneumonia.runs.table import list_runs
    from pneumonia.tasks import Task
    from pneumonia.training.train import train

__version__ = "0.2.0"
__all__ = ["Task", "XRayDataModule", "build_model", "compose", "list_runs", "load_run", "train"]

_HOMES = {
    "Task": ("pneumonia.tasks", "Task"),
    "XRayDataModule": ("pneumonia.data.datamodule", "XRayDataModule"),
    "build_model": ("pneumonia.models.factory", "build_model"),
    "compose": ("pneumonia.config.compose", "compose"),
    "list_runs": ("pneumonia.runs.table", "list_runs"),
    "load_run": ("pneumonia.runs.load", "load_finished_run"),
    "train": ("pneumonia.training.train", "train"),
}
_ROOT = Path(__file__).resolve().parent.parent
if not Path(__file__).with_name("conf").is_dir() and (_ROOT / "conf").is_dir():
    __path__.append(str(_ROOT))  # in a checkout, so that Hydra finds pneumonia.conf as it does in the wheel


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
