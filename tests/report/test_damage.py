"""What is damaged costs itself alone, with the reason and the remedy; what is someone else's is not overwritten."""

import json
import sys

import pandas as pd
import pytest

from pneumonia.cli import main
from pneumonia.errors import RunError, StorageError
from pneumonia.report.collect import gather
from pneumonia.report.write import ReportRequest, write_report


def _set(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    for column, value in values.items():
        table[column] = table[column].astype(object)
        table.loc[3, column] = value
    return table


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: _set(table, label="COVID"), "labels that are no class of task=subtype: COVID"),
        (lambda table: _set(table, label=None), "rows without label, 1 of"),
        (lambda table: _set(table, patient_id=None), "rows without patient_id, 1 of"),
        (lambda table: table.assign(prob_VIRUS=table["prob_VIRUS"].astype(str)), "holds no numbers in prob_VIRUS"),
        (lambda table: table.assign(prob_VIRUS=float("nan")), "undefined probabilities, for example of image t00000"),
        (
            lambda table: table.assign(prob_NORMAL=1.5, prob_VIRUS=-0.5, prob_BACTERIA=0.0),
            "probabilities outside 0 to 1, for example of image t00000",
        ),
    ],
    ids=["label", "no label", "no patient", "text", "undefined", "outside"],
)
def test_invalid_predictions_are_left_out_with_the_remedy(make_run, tmp_path, change, reason):
    make_run(tmp_path, "good", patients=30)
    bad = make_run(tmp_path, "bad", "optimizer.lr=0.5", patients=30)
    path = bad.evaluation("test", "parquet")
    change(pd.read_parquet(path)).to_parquet(path)
    found = gather([tmp_path])
    assert len(found.entries) == 1
    ((place, why),) = found.left_out
    assert place == str(bad.path)
    assert reason in why
    assert f"`pneumonia evaluate {bad.path} --split test` evaluates it again." in why


def test_damaged_runs_are_left_out(make_run, tmp_path):
    make_run(tmp_path, "good", patients=30)
    half, lost, bare, torn = (make_run(tmp_path, "bad", f"optimizer.lr=0.{k}", patients=30) for k in range(2, 6))
    held = json.loads(half.evaluation("test", "json").read_text())
    del held["calibration"]
    half.evaluation("test", "json").write_text(json.dumps(held))
    lost.evaluation("test", "json").unlink()
    lost.predictions("val").unlink()
    next(bare.path.glob("split-*.parquet")).unlink()
    torn.predictions("val").write_bytes(b"PAR1")
    found = gather([tmp_path])
    assert len(found.entries) == 1
    reasons = dict(found.left_out)
    assert "it lacks calibration" in reasons[str(half.path)]
    assert reasons[str(lost.path)].startswith("it holds no predictions. `pneumonia evaluate ")
    assert "is missing, which holds the split of the training" in reasons[str(bare.path)]
    assert "--split val` predicts these images again" in reasons[str(torn.path)]


def test_damaged_gallery_leaves_the_rest_of_the_report(make_run, tmp_path):
    run = make_run(tmp_path / "runs", "one", patients=30)
    (run.path / "evaluation" / "own-test-gallery.json").write_text("{")
    write_report(ReportRequest([tmp_path / "runs"], tmp_path / "out"))
    assert "own-test-gallery.json` is damaged. Evaluate this run again" in (tmp_path / "out" / "report.md").read_text()


def test_foreign_files_are_kept(make_run, tmp_path):
    make_run(tmp_path / "runs", "one", patients=30)
    out = tmp_path / "out"
    (out / "tables").mkdir(parents=True)
    (out / "tables" / "mine.csv").write_text("mine")
    for _ in range(2):
        write_report(ReportRequest([tmp_path / "runs"], out))
        assert (out / "tables" / "mine.csv").read_text() == "mine"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    with pytest.raises(StorageError, match=r"holds index.html, which is not part of a report.*--out DIR"):
        write_report(ReportRequest([tmp_path / "runs"], tmp_path / "site"))
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]


def test_missing_folder_is_refused_before_writing(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    for place, message in (("nowhere", "There is no folder"), ("file", "is a file")):
        with pytest.raises(RunError, match=message):
            write_report(ReportRequest([tmp_path / place], tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(sys, "argv", ["pneumonia", "report", str(tmp_path), "out=x"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "Use --out x" in capsys.readouterr().err
