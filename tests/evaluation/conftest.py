"""Finished runs, other data, and a short way to evaluate."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pneumonia.evaluation.evaluate import evaluate
from pneumonia.evaluation.run_predictions import EvaluateOptions
from pneumonia.training.train import train


@pytest.fixture(scope="session")
def seeds(compose, tmp_path_factory) -> list[Path]:
    """Two runs that differ in their seed, and a third of another split."""
    runs = tmp_path_factory.mktemp("seeds")
    overrides = (("seed=0",), ("seed=1",), ("seed=0", "split.seed=5"))
    results = [train(compose("max_epochs=1", *one, runs_dir=runs)) for one in overrides]
    return [runs / result.name / result.run_id for result in results]


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, which is also a run folder that was moved."""
    return Path(shutil.copytree(finished, tmp_path / "moved"))


@pytest.fixture
def other(phantoms, tmp_path) -> Path:
    """Other data: half of the images of the test folder."""
    for path in sorted((phantoms / "test").rglob("*.jpeg"))[::2]:
        target = tmp_path / "hospital b" / path.relative_to(phantoms)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path / "hospital b"


@pytest.fixture
def options(cache_dir) -> Callable[..., EvaluateOptions]:
    """Options with the cache of the tests: options("val", tta="flip")."""
    return lambda subset="test", **values: EvaluateOptions(subset, cache_dir=cache_dir, **values)


@pytest.fixture
def values_of(options) -> Callable[..., dict]:
    """Evaluate a run and return the content of the JSON file: values_of(run, "val", tta="flip")."""
    return lambda run, subset="test", **values: json.loads(evaluate(run, options(subset, **values)).path.read_text())
