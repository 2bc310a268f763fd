"""Shared small data: phantoms drawn once, a composed config, a short real training."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore

from pneumonia.config.schema import TrainConfig, conf_dir, resolved
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
Compose = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def phantoms(cache_dir: Path) -> Path:
    """A folder of phantom X-rays in the Kaggle layout."""
    return load_phantoms(PATIENTS, 0, cache_dir)


@pytest.fixture(scope="session")
def compose(cache_dir: Path) -> Compose:
    """A resolved small config: compose("split=article", runs_dir=tmp_path)."""
    ConfigStore.instance().store("schema", TrainConfig)

    def build(*overrides: str, runs_dir: Path | str = "runs", small: bool = True) -> dict[str, Any]:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            narrow = (
                () if any(word.startswith(("model=", "experiment=")) for word in overrides) else ("model.width=16",)
            )
            words = [
                *((*SMALL, *narrow) if small else ()),
                f"cache_dir={cache_dir}",
                f"runs_dir={runs_dir}",
                *overrides,
            ]
            return resolved(hydra_compose("train", words))

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
