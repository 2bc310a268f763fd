"""A report from run folders: what is in it, in which files, and what it costs to import."""

import csv
import json
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest

from pneumonia.cli import main
from pneumonia.data.splits.leaks import Leak
from pneumonia.report.formatting import describe_intervals
from pneumonia.report.render import figures
from pneumonia.report.study import load_study, matches
from pneumonia.report.write import ReportRequest, write_report

EXPERIMENT_OF = {
    "logistic regression": "logistic_regression",
    "simple CNN": "simple_cnn",
    "pseudo-ResNet, cross-validated": "final_kfold",
    "pseudo-ResNet": "final",
    "final": "final",
    "final, 10 folds x 2 epochs": "final_kfold",
    "perceptron, no schedule": "perceptron_none",
    "perceptron, exponential": "perceptron_exponential",
    "perceptron, step": "perceptron_step",
    "perceptron, cosine": "perceptron_cosine",
    "MLP, 4 hidden neurons": "mlp_4",
    "MLP, 8 hidden neurons": "mlp_8",
}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        self.sources += [found[key] for key in ("src", "href", "xlink:href") if key in found]


@pytest.fixture
def runs(make_run, tmp_path):
    for seed in range(2):
        for rate, skill in (("0.1", 1.8), ("0.2", 1.0)):
            make_run(
                tmp_path / "runs",
                "rates",
                f"optimizer.lr={rate}",
                seed=seed,
                skill=skill,
                differs={"optimizer.lr": rate},
            )
    make_run(tmp_path / "runs", "binary", "task=pneumonia")
    return tmp_path / "runs"


def test_every_file_holds_the_same_values(runs, tmp_path):
    write_report(ReportRequest([runs], tmp_path / "out", title="A <b>title", command="pneumonia report runs"))
    out = tmp_path / "out"
    data = json.loads((out / "report.json").read_text())
    main_, binary = data["comparisons"]
    assert (main_["task"], binary["task"]) == ("subtype", "pneumonia")
    best = main_["candidates"][0]
    assert best["label"] == "lr=0.1"
    assert main_["pairs"][0]["verdict"] == "better"
    with (out / "tables" / "ranking-1.csv").open() as file:
        ranking = list(csv.DictReader(file))
    shown = f"{best['metrics']['f1_macro']['value']:.3f} ({best['metrics']['f1_macro']['low']:.3f} to "
    assert ranking[0]["configuration"] == "lr=0.1"
    assert ranking[0]["macro F1"].startswith(shown)
    page, text = (out / "index.html").read_text(), (out / "report.md").read_text()
    assert shown.partition(" ")[0] in page
    assert shown in text
    assert "A &lt;b&gt;title" in page
    assert "<b>title" not in page
    assert (out / "report.pdf").read_bytes().startswith(b"%PDF")
    assert {path.stem for path in (out / "figures").iterdir()} >= {
        "ranking-1",
        "rates-curves",
        "rates-metric",
        "confusion-1",
    }
    with (out / "epochs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5 * 3


def test_new_report_replaces_the_old_one(runs, tmp_path):
    write_report(ReportRequest([runs], tmp_path / "out"))
    assert (tmp_path / "out" / "tables" / "ranking-2.csv").exists()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    write_report(ReportRequest([runs / "binary"], tmp_path / "out"))
    assert not (tmp_path / "out" / "tables" / "ranking-2.csv").exists()
    assert not (tmp_path / "out" / "figures" / "rates-curves.svg").exists()
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_page_is_self_contained_with_unique_ids(runs, tmp_path):
    write_report(ReportRequest([runs], tmp_path / "out"))
    page = (tmp_path / "out" / "index.html").read_text()
    reader = _Reader()
    reader.feed(page)
    assert "script" not in reader.tags
    assert all(source.startswith(("#", "data:")) for source in reader.sources)
    assert len(reader.ids) == len(set(reader.ids))
    assert {source[1:] for source in reader.sources if source.startswith("#")} <= set(reader.ids)
    assert "url(http" not in page


def test_separate_groups_have_a_reason(runs, tmp_path):
    write_report(ReportRequest([runs], tmp_path / "out"))
    text = (tmp_path / "out" / "report.md").read_text()
    assert "These runs differ in task, so they are compared within 2 separate groups" in text


def test_leaky_split_is_marked(make_run, tmp_path):
    leak = Leak("test", 40, 160, "p1")
    make_run(tmp_path / "runs", "a", "split=random", leaks=(leak,))
    write_report(ReportRequest([tmp_path / "runs"], tmp_path / "out"))
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Leaky: 40 of 160 images show a patient that the models were trained on" in text
    assert "The split is leaky: these values are optimistic." in text


def test_single_run_is_reported(make_run, tmp_path):
    run = make_run(tmp_path / "runs", "one")
    write_report(ReportRequest([run.path], tmp_path / "out"))
    assert "there is nothing to compare it with" in (tmp_path / "out" / "report.md").read_text()


def test_hostile_name_is_escaped(make_run, tmp_path):
    label = '<img src=x onerror=1> | #pagebreak() $x$ *_`"\\ @a [b] </svg>'
    for rate in ("0.1", "0.2"):
        make_run(tmp_path / "runs", "s", f"optimizer.lr={rate}", differs={"optimizer.lr": f"{label}{rate}"})
    write_report(ReportRequest([tmp_path / "runs"], tmp_path / "out", title=label))
    assert "<img src=x" not in (tmp_path / "out" / "index.html").read_text()
    for line in (tmp_path / "out" / "report.md").read_text().splitlines():
        assert "<img" not in line.replace("\\<img", "")
    assert (tmp_path / "out" / "report.pdf").stat().st_size > 10_000


def test_report_imports_no_torch(runs, tmp_path):
    code = (
        "import sys\nfrom pneumonia.cli import run\n"
        f"run(['report', {str(runs)!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        "heavy = {'torch', 'lightning', 'hydra', 'albumentations', 'captum'} & set(sys.modules)\nassert not "
        "heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bad_input_exits_with_2_and_writes_nothing(monkeypatch, capsys, tmp_path):
    for arguments in ([str(tmp_path / "nowhere")], [str(tmp_path)], [str(tmp_path), "--metric", "luck"], []):
        monkeypatch.setattr(sys, "argv", ["pneumonia", "report", *arguments, "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
    assert "RunError" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize("row", load_study().rows, ids=lambda row: f"{row.table}-{row.name}")
def test_study_row_matches_its_own_experiment_only(row, compose):
    from types import SimpleNamespace

    def matched(experiment: str) -> bool:
        config = compose(f"experiment=article/{experiment}", small=False)
        return matches(row, SimpleNamespace(config=config, members=1))

    assert matched(EXPERIMENT_OF[row.name])
    others = {name for name in EXPERIMENT_OF.values() if name != EXPERIMENT_OF[row.name]}
    assert [name for name in others if matched(name)] == []


def test_study_is_compared_with_xrays_but_not_phantoms(make_run, tmp_path):
    overrides = ("experiment=article/simple_cnn",)
    make_run(tmp_path / "drawn", "a", *overrides)
    make_run(tmp_path / "real", "a", *overrides, f"data={'folder'}", f"data.root={tmp_path}")
    texts = {}
    for name in ("drawn", "real"):
        write_report(ReportRequest([tmp_path / name], tmp_path / f"out-{name}"))
        texts[name] = (tmp_path / f"out-{name}" / "report.md").read_text()
    assert "The study's values beside ours" not in texts["drawn"]
    assert "drawn phantoms" in texts["drawn"]
    assert "| simple CNN | SimpleCNN (a) | accuracy | 0.730 |" in texts["real"]


def _text(runs, out) -> str:
    write_report(ReportRequest([runs], out))
    return (out / "report.md").read_text()


def test_caption_mentions_dots_only_with_thresholds(make_run, tmp_path):
    make_run(tmp_path / "val", "a", subset=None)
    make_run(tmp_path / "test", "a")
    assert "Dot" not in _text(tmp_path / "val", tmp_path / "out-val")
    assert "Dashes: chance. Dot: the threshold for a sensitivity of 0.95" in _text(tmp_path / "test", tmp_path / "out")


def test_threshold_without_specificity_has_no_dot(make_run, tmp_path, monkeypatch):
    run = make_run(tmp_path / "runs", "a")
    path = run.evaluation("test", "json")
    found = json.loads(path.read_text())
    found["operating_points"][0]["metrics"]["specificity"]["value"] = None
    path.write_text(json.dumps(found))
    drawn = {}
    whole = figures.roc_and_precision_recall
    monkeypatch.setattr(figures, "roc_and_precision_recall", lambda roc, *more: drawn.update(roc) or whole(roc, *more))
    assert "Dot (of VIRUS and BACTERIA alone): the threshold" in _text(tmp_path / "runs", tmp_path / "out")
    assert [name for name, (*_, point) in drawn.items() if point is None] == ["PNEUMONIA"]


def test_tables_name_means_over_trainings(runs, tmp_path):
    text = _text(runs, tmp_path / "out")
    with (tmp_path / "out" / "tables" / "ranking-1.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["trainings"], first["mean training time"]) == ("2", "10.5 s")
    assert "| Cost of one training, mean of 2 trainings | 10.5 s on cpu" in text
    assert "| By class, mean of 2 trainings | recall of NORMAL " in text
    assert "Its values are of this one training, those above and in the model card the mean of 2." in text


def test_caption_mentions_thin_curves_only_if_drawn(make_run, tmp_path):
    for rate in ("0.1", "0.2"):
        make_run(tmp_path / "runs", "rates", f"optimizer.lr={rate}", differs={"optimizer.lr": rate})
    assert "Validation loss by epoch." in (text := _text(tmp_path / "runs", tmp_path / "out"))
    assert "Thin: each training" not in text


def test_other_data_are_labelled(make_run, evaluate_again, tmp_path):
    run = make_run(tmp_path / "runs", "a")
    evaluate_again(run, pd.read_parquet(run.evaluation("test", "parquet")).iloc[::2], other="x")
    text = _text(tmp_path / "runs", tmp_path / "out")
    assert "test subset of other data, x-xxxxxxxx (trained with split=grouped)" in text
    assert "These images are not of the data that the models were trained on" in text
    assert "These runs differ in images or labels, so they are compared within 2 separate groups" in text
    card = text[text.index("Model card") :]
    assert "other data" not in card[: card.index("How to reproduce this")]
    assert "1 finished run, 2 comparisons" in text


def test_caption_mentions_intervals_only_if_drawn():
    nan = float("nan")
    assert describe_intervals([(0.5, 0.4, 0.6)]) == "with 95% intervals"
    assert describe_intervals([(0.5, 0.4, 0.6), (0.5, nan, nan)]) == "with 95% intervals (1 of 2 have one)"
    assert describe_intervals([(0.5, nan, nan)]) == "without intervals, which are undefined here"
