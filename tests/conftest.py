"""Shared small data: phantoms drawn once, a composed config, a short real training."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pneumonia.config.compose import compose as compose_config
from pneumonia.config.schema import TrainConfig
from pneumonia.data.sources.phantom import load_phantoms
from pneumonia.export.export import ExportOptions, export
from pneumonia.training.train import train

PATIENTS = 60
SMALL = (
    f"data.phantom.patients={PATIENTS}",
    "image_size=32",
    "batch_size=32",
    "max_epochs=2",
    "trainer.accelerator=cpu",
)
Compose = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def phantoms(cache_dir: Path) -> Path:
    """A folder of phantom X-rays in the Kaggle layout."""
    return load_phantoms(PATIENTS, 0, cache_dir)


@pytest.fixture(scope="session")
def compose(cache_dir: Path) -> Compose:
    """A small config: compose("split=random", runs_dir=tmp_path)."""

    def build(*overrides: str, runs_dir: Path | str = "runs", small: bool = True) -> TrainConfig:
        narrow = () if any(one.startswith(("model=", "experiment=")) for one in overrides) else ("model.width=16",)
        folders = (f"cache_dir={cache_dir}", f"runs_dir={runs_dir}")
        return compose_config(*((*SMALL, *narrow) if small else ()), *folders, *overrides)

    return build


@pytest.fixture(scope="session")
def finished(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished run."""
    runs = tmp_path_factory.mktemp("runs")
    result = train(compose("split=official", runs_dir=runs))
    return runs / result.name / result.run_id


@pytest.fixture(scope="session")
def bundle_dir(finished: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the small finished run."""
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    export(ExportOptions(finished, out, cache_dir=cache_dir))
    return out


@pytest.fixture(scope="session")
def real_xrays() -> Path:
    """The real X-rays that PNEUMONIA_XRAYS names."""
    root = os.environ.get("PNEUMONIA_XRAYS")
    if not root:
        pytest.skip("PNEUMONIA_XRAYS names no folder of real X-rays")
    return Path(root)


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))  # more busy threads than cores are far slower than one
