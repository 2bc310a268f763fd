"""The tables of docs/lightning-and-hydra.md hold."""

import re

import pytest

from pneumonia.config.keys import NOT_PASSED_TO_TRAINER, conf_dir
from pneumonia.training.train import train

PAGE = (conf_dir().parent / "docs" / "lightning-and-hydra.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `[^|]+` \| `([^|]+)` \|$", PAGE, flags=re.MULTILINE)


def test_the_page_has_rows():
    assert len(ROWS) > 20


@pytest.mark.parametrize("override", ROWS)
def test_an_override_of_the_page_trains(override, compose, tmp_path):
    if "RUN" in override:  # the folder of a run
        run = train(compose("scheduler=none", "batch_size=8", runs_dir=tmp_path))
        override = override.replace("RUN", str(tmp_path / run.name / run.run_id))
        result = train(compose("scheduler=none", "batch_size=8", "max_epochs=3", override, runs_dir=tmp_path))
        assert result.epochs == 3
        return
    small = ["trainer.limit_train_batches=3"] if "batches" not in override and "debug" not in override else []
    result = train(compose(*small, "batch_size=8", *override.split(), runs_dir=tmp_path))
    assert result.epochs >= 1


def test_the_page_explains_every_argument_that_is_not_passed_on():
    for name, why in NOT_PASSED_TO_TRAINER.items():
        assert f"| `{name}` | {why} |" in PAGE
