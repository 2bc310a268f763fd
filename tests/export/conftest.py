"""What the tests of bundles share: the loaded bundle, its validation files, and what evaluation says of them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pneumonia.evaluation.evaluate import evaluate
from pneumonia.evaluation.run_predictions import EvaluateOptions
from pneumonia.export.contract import CONTRACT, read_contract
from pneumonia.export.runtime import Bundle

Altered = Callable[..., Path]


@pytest.fixture(scope="session")
def bundle(bundle_dir: Path) -> Bundle:
    return Bundle.load(bundle_dir)


@pytest.fixture(scope="session")
def evaluated(
    finished: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The report and the table that ``pneumonia evaluate`` writes of the validation split."""
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("evaluated") / "run"))
    report = evaluate(run, EvaluateOptions("val", cache_dir=cache_dir)).values
    return report, pd.read_parquet(run / "evaluation" / "own-val.parquet")


@pytest.fixture(scope="session")
def val_files(evaluated: tuple[dict[str, Any], pd.DataFrame], phantoms: Path) -> list[Path]:
    """The validation files, in the order of the table."""
    by_name = {path.stem: path for path in phantoms.rglob("*.jpeg")}
    return [by_name[name] for name in evaluated[1]["image_id"]]


@pytest.fixture
def altered(bundle_dir: Path, tmp_path: Path) -> Altered:
    """A copy of the bundle whose contract says something else under a seal that fits, as a forger would leave it."""

    def build(**words: Any) -> Path:
        folder = Path(shutil.copytree(bundle_dir, tmp_path / "altered"))
        (folder / CONTRACT).write_text(replace(read_contract(folder), **words).sealed().text())
        return folder

    return build
