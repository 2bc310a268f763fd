"""Reproduce a preset: chosen runs, bad input, and a second call that trains nothing."""

import json
import sys
from types import SimpleNamespace

import pytest
import yaml

from pneumonia.cli import main
from pneumonia.config.keys import conf_dir
from pneumonia.sweep.plan import make_plan
from pneumonia.sweep.reproduce import best_of_families, preset_names, read_preset

SMALL = ("data=phantom", "data.phantom.patients=60", "max_epochs=1", "batch_size=16", "image_size=24")


def _command(monkeypatch, capsys, *arguments: str):
    monkeypatch.setattr(sys, "argv", ["pneumonia", "reproduce", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", preset_names())
def test_every_sweep_of_a_preset_has_a_plan(name, tmp_path):
    preset = read_preset(name)
    (tmp_path / "xrays").mkdir()
    (tmp_path / "xrays" / "a.jpeg").touch()
    data = [f"data.root={tmp_path / 'xrays'}", "data=folder"] if preset.needs_data else []
    for sweep, own in preset.sweeps.items():
        assert make_plan(sweep, [*preset.overrides, *own, *data, f"runs_dir={tmp_path}"]).jobs


def test_full_preset_has_the_sweeps_of_the_makefile():
    makefile = (conf_dir().parent / "Makefile").read_text().replace("\\\n", " ")
    line = next(line for line in makefile.splitlines() if line.startswith("SWEEPS :="))
    assert set(line.removeprefix("SWEEPS :=").split()) <= set(read_preset("full").sweeps)


def test_preset_writes_a_report_and_a_second_call_trains_nothing(monkeypatch, capsys, tmp_path, cache_dir):
    monkeypatch.setattr("pneumonia.sweep.reproduce.conf_dir", lambda: tmp_path)
    (tmp_path / "reproduce").mkdir()
    sweeps = {"mlp": ["model.hidden=[4],[8]"], "final": ["seed=0,1", "model.width=16"]}
    tiny = {"overrides": list(SMALL), "sweeps": sweeps}
    (tmp_path / "reproduce" / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    arguments = ("preset=tiny", f"runs_dir={tmp_path / 'runs'}", f"out={tmp_path / 'report'}", f"cache_dir={cache_dir}")
    code, err = _command(monkeypatch, capsys, *arguments)
    assert code == 0, err
    data = json.loads((tmp_path / "report" / "report.json").read_text())
    tests = [one for one in data["comparisons"] if one["part"] == "test"]
    assert {one["task"] for one in tests} == {"subtype", "pneumonia"}
    assert [len(one["candidates"][0]["runs"]) for one in tests] == [2, 1]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    code, err = _command(monkeypatch, capsys, *arguments)
    assert code == 0
    assert "Loading torch" not in err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")} == before


def test_best_of_a_family_has_the_best_mean_validation_metric():
    def entry(configuration, f1, family="CNN", method="grouped"):
        config = SimpleNamespace(split=SimpleNamespace(method=method, k=5))
        task, data = SimpleNamespace(name="subtype"), SimpleNamespace(manifest_sha256="m")
        result = SimpleNamespace(config=config, task=task, data=data, metrics={"val": {"f1_macro": f1}})
        return SimpleNamespace(configuration=configuration, family=family, result=result, members=1)

    good, bad = [entry("good", 0.8), entry("good", 0.6)], [entry("bad", 0.9), entry("bad", None)]
    others = [entry("bad", 0.1, family="MLP"), entry("bad", 0.1, method="random")]
    assert best_of_families([*bad, *good, *others]) == [*good, *others]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preset=smok"], "preset=smok is not known; choose one of cpu, full, smoke. Did you mean 'smoke'?"),
        (["preset=full"], "preset=full needs X-rays, because results on phantoms mean nothing"),
        (["smoke"], "smoke is not key=value"),
        (["out="], "out has no value"),
        (["preset=smoke", "optimiser=adam"], "Did you mean 'optimizer'?"),
        (["preset=cpu", "data=folder", "data.root=nowhere"], "data.root=nowhere does not exist"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, err = _command(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err
    assert not list(tmp_path.rglob("result.json"))
