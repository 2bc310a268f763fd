"""A finished run as `pneumonia.load_run` gives it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pneumonia.errors import BrokenImagesError, CheckpointError, ConfigError, RunError
from pneumonia.evaluation.evaluate import evaluate
from pneumonia.evaluation.run_predictions import EvaluateOptions
from pneumonia.runs.load import load_finished_run


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of the finished run that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_result_and_history_are_those_of_the_files(finished):
    run, result = load_finished_run(str(finished)), json.loads((finished / "result.json").read_text())
    assert (run.version, run.task.name) == (f"{result['name']}/{result['run_id']}", result["task"])
    assert run.result.metrics == result["metrics"]
    assert run.result.data.to_json() == result["data"]
    assert run.history().index.tolist() == [1, 2]
    assert run.history()["val/loss"].idxmin() == run.result.best_epoch
    assert set(run.split()["subset"]) == {"train", "val", "test"}


def test_result_is_written_as_it_was_read(copy):
    run, before = load_finished_run(copy), json.loads((copy / "result.json").read_text())
    run.result.write(run.folder)
    assert json.loads((copy / "result.json").read_text()) == before


def test_predictions_equal_those_of_an_evaluation(copy, phantoms, cache_dir):
    evaluation = evaluate(copy, EvaluateOptions(cache_dir=cache_dir))
    images = sorted((phantoms / "test").rglob("*.jpeg"))[:5]
    run = load_finished_run(copy)
    predictions = run.predict([str(images[0]), *images])
    assert predictions["image"].tolist() == [str(path) for path in (images[0], *images)]
    expected = pd.read_parquet(evaluation.path.with_suffix(".parquet")).set_index("image_id")
    expected = expected.loc[predictions["image"].map(lambda image: Path(image).stem)]
    assert predictions["predicted"].tolist() == expected["predicted"].tolist()
    for name in run.task.classes:
        assert predictions[f"raw_{name}"].to_numpy() == pytest.approx(expected[f"prob_{name}"].to_numpy(), abs=1e-5)
    assert run.temperature().value == evaluation.result.calibration.temperature
    assert not np.allclose(predictions["prob_VIRUS"], predictions["raw_VIRUS"])
    assert predictions.filter(like="prob_").sum(axis=1).to_numpy() == pytest.approx(1)


def test_one_path_is_one_image(finished, phantoms):
    run, image = load_finished_run(finished), next((phantoms / "test").rglob("*.jpeg"))
    for one in (str(image), image):
        pd.testing.assert_frame_equal(run.predict(one), run.predict([image]))
    assert run.predict([]).empty


@pytest.mark.parametrize("images", [None, 3, [b"a.jpeg"], np.zeros((2, 8, 8))])
def test_other_arguments_than_paths_are_refused(images, finished):
    with pytest.raises(ConfigError, match=r"images holds (None|3|a bytes|a ndarray), which is no path"):
        load_finished_run(finished).predict(images)


def test_unreadable_images_are_listed_together(finished, tmp_path):
    (tmp_path / "empty.jpeg").write_bytes(b"")
    with pytest.raises(BrokenImagesError, match=r"2 images can't be read:\n.*empty\.jpeg.*\n.*none\.jpeg"):
        load_finished_run(finished).predict([tmp_path / "empty.jpeg", tmp_path / "none.jpeg"])


def test_run_that_has_not_finished_is_refused(copy):
    (copy / "result.json").unlink()
    with pytest.raises(RunError, match=r"did not finish\. Run the same `pneumonia train` again to resume it"):
        load_finished_run(copy)


def test_truncated_checkpoint_is_refused(copy):
    run = load_finished_run(copy)
    run.folder.best.write_bytes(run.folder.best.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        run.load_model()


def test_loading_imports_no_torch(finished):
    code = (
        f"import sys; from pneumonia.runs.load import load_finished_run; load_finished_run({str(finished)!r})\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
