"""The whole study in one command: which runs are chosen, what bad input gives, and that a second call goes on."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from pneumonia.cli import main
from pneumonia.config.schema import conf_dir
from pneumonia.report.collect import gather
from pneumonia.sweep.plan import make_plan
from pneumonia.sweep.reproduce import best_of_families, preset_names, read_preset

SMALL = ("data=phantom", "data.phantom.patients=60", "max_epochs=1", "batch_size=16", "image_size=24")


def _command(monkeypatch, capsys, *words: str):
    monkeypatch.setattr(sys, "argv", ["pneumonia", "reproduce", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", preset_names())
def test_every_sweep_of_a_preset_makes_a_plan(name, tmp_path):
    preset = read_preset(name)
    (tmp_path / "xrays").mkdir()
    (tmp_path / "xrays" / "a.jpeg").touch()
    data = [f"data.root={tmp_path / 'xrays'}", "data=folder"] if preset.needs_data else []
    for sweep, own in preset.sweeps.items():
        assert make_plan(sweep, [*preset.words, *own, *data, f"runs_dir={tmp_path}"]).jobs


def test_the_full_preset_has_every_sweep_of_the_makefile():
    makefile = (conf_dir().parent / "Makefile").read_text().replace("\\\n", " ")
    line = next(line for line in makefile.splitlines() if line.startswith("SWEEPS :="))
    assert set(line.removeprefix("SWEEPS :=").split()) <= set(read_preset("full").sweeps)


def test_a_preset_goes_from_sweeps_to_a_report_and_a_second_call_trains_nothing(
    monkeypatch, capsys, tmp_path, cache_dir
):
    monkeypatch.setattr("pneumonia.sweep.reproduce.conf_dir", lambda: tmp_path)
    (tmp_path / "reproduce").mkdir()
    sweeps = {"mlp": ["model.hidden=[4],[8]"], "final": ["seed=0,1", "model.width=16"]}
    tiny = {"words": list(SMALL), "sweeps": sweeps}
    (tmp_path / "reproduce" / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    words = ("preset=tiny", f"runs_dir={tmp_path / 'runs'}", f"out={tmp_path / 'report'}", f"cache_dir={cache_dir}")
    code, err = _command(monkeypatch, capsys, *words)
    assert code == 0, err
    data = json.loads((tmp_path / "report" / "report.json").read_text())
    tests = [one for one in data["comparisons"] if one["part"] == "test"]
    assert {one["task"] for one in tests} == {"subtype", "pneumonia"}
    assert [len(one["candidates"][0]["runs"]) for one in tests] == [2, 1]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    code, err = _command(monkeypatch, capsys, *words)
    assert code == 0
    assert "Loading torch" not in err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")} == before


def test_the_best_of_a_family_is_that_of_the_best_validation_figure_with_all_its_seeds(make_run, tmp_path):
    for seed in range(2):
        make_run(tmp_path, "good", seed=seed, skill=2.0, subset=None)
        make_run(tmp_path, "bad", "optimizer.lr=0.5", seed=seed, skill=0.5, subset=None)
    make_run(tmp_path, "other", "model=simple_cnn", skill=0.4, subset=None)
    make_run(tmp_path, "leaky", "split=article", skill=0.4, subset=None)
    chosen = [Path(entry.sweep).name for entry in best_of_families(gather([tmp_path]).entries)]
    assert sorted(chosen) == ["good", "good", "leaky", "other"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["preset=smok"], "preset=smok is not known; choose one of cpu, full, smoke. Did you mean 'smoke'?"),
        (["preset=full"], "preset=full trains on X-rays, and drawn phantoms would say nothing"),
        (["smoke"], "smoke is not understood"),
        (["out="], "out has no value"),
        (["preset=smoke", "optimiser=adam"], "Did you mean 'optimizer'?"),
        (["preset=cpu", "data=folder", "data.root=nowhere"], "data.root=nowhere does not exist"),
    ],
)
def test_bad_words_are_refused_before_anything_has_run(words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, err = _command(monkeypatch, capsys, *words)
    assert code == 2
    assert message in err
    assert not list(tmp_path.rglob("result.json"))
