"""Shared fixtures: a loaded bundle, its validation files, and the evaluation of its run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pneumonia.evaluation.evaluate import evaluate
from pneumonia.evaluation.result import EvaluationResult
from pneumonia.evaluation.run_predictions import EvaluateOptions
from pneumonia.export.contract import CONTRACT
from pneumonia.export.contract_file import contract_text, read_contract
from pneumonia.export.runtime import Bundle

Altered = Callable[..., Path]


@pytest.fixture(scope="session")
def bundle(bundle_dir: Path) -> Bundle:
    return Bundle.load(bundle_dir)


@pytest.fixture(scope="session")
def evaluated(finished: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationResult, pd.DataFrame]:
    """The report and the predictions of ``pneumonia evaluate`` on the validation split."""
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("evaluated") / "run"))
    report = evaluate(run, EvaluateOptions("val", cache_dir=cache_dir)).result
    return report, pd.read_parquet(run / "evaluation" / "own-val.parquet")


@pytest.fixture(scope="session")
def val_files(evaluated: tuple[EvaluationResult, pd.DataFrame], phantoms: Path) -> list[Path]:
    """The validation files, in the order of the table."""
    by_name = {path.stem: path for path in phantoms.rglob("*.jpeg")}
    return [by_name[name] for name in evaluated[1]["image_id"]]


@pytest.fixture
def altered(bundle_dir: Path, tmp_path: Path) -> Altered:
    """Copies the bundle with other fields in its contract and a valid digest."""

    def build(**fields: Any) -> Path:
        folder = Path(shutil.copytree(bundle_dir, tmp_path / "altered"))
        changed = read_contract(folder).model_copy(update=fields)
        (folder / CONTRACT).write_text(contract_text(changed.with_digest()))
        return folder

    return build
