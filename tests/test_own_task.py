"""A task of the user's own goes from a table of labels to a service through the command line, without an edit of the package."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from starlette.testclient import TestClient

from pneumonia.cli import run as command
from pneumonia.config.compose import compose as compose_config
from pneumonia.config.convert import from_plain, identity, to_plain
from pneumonia.config.overrides import overrides_from_config
from pneumonia.config.task_files import load_task
from pneumonia.data.sources.phantom import draw
from pneumonia.errors import CheckpointError, ConfigError, LabelError, PneumoniaError
from pneumonia.export.contract_file import read_contract
from pneumonia.export.runtime import Bundle
from pneumonia.models.checkpoints import load_classifier
from pneumonia.runs.load import load_finished_run
from pneumonia.serving.app import Service
from pneumonia.serving.limits import Limits
from pneumonia.tasks import SUBTYPE, Task
from pneumonia.training.train import train

COVID = {
    "name": "covid",
    "classes": ["NORMAL", "COVID-19", "TB", "VIRAL"],
    "synonyms": {"COVID-19": ["corona"], "TB": ["tuberculosis"], "VIRAL": ["virus", "viral pneumonia"]},
}
WORDS = {"healthy normal": "NORMAL", "Corona": "BACTERIA", "Tuberculosis": "BACTERIA", "Viral Pneumonia": "VIRUS"}
SICK = {"TB": ["Corona", "Tuberculosis", "virus", "viral pneumonia"]}
SWEEP = """# Does the seed matter?
defaults: [train, _self_]
name: two
hydra:
  mode: MULTIRUN
  sweeper:
    params: {seed: "0,1"}
"""
QUESTIONS = ("ANY_POSITIVE", "COVID-19", "TB", "VIRAL")
SMALL = ("image_size=24", "batch_size=16", "max_epochs=2", "model=mlp", "trainer.accelerator=cpu")


def write_task(conf: Path, values: dict[str, object]) -> Path:
    path = conf / "task" / f"{values['name']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return path


def write_images(root: Path, patients: int = 48) -> Path:
    """Phantoms in one folder with a table of labels; those of TB are negatives, so that they differ."""
    root.mkdir()
    rows = [["image", "label", "patient"]]
    for patient in range(patients):
        word, label = list(WORDS.items())[patient % 4]
        for take in range(2):
            pixels = cv2.resize(draw(label, patient, take), (64, 64))
            name = f"{patient}-{take}.png"
            cv2.imwrite(str(root / name), 255 - pixels if word == "Tuberculosis" else pixels)
            rows.append([name, word.removeprefix("healthy "), f"p{patient}"])
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``conf/task/covid.yaml`` and ``images/``."""
    place = tmp_path_factory.mktemp("own")
    write_task(place / "conf", COVID)
    write_images(place / "images")
    return place


@pytest.fixture(scope="module")
def own(place: Path, cache_dir: Path):
    """Compose a small config with the task, as ``train --config-dir``."""

    def build(*overrides: str, task: str = "covid"):
        data = ("data=folder", f"data.root={place / 'images'}", f"cache_dir={cache_dir}", f"runs_dir={place / 'runs'}")
        return compose_config(f"task={task}", *data, *SMALL, *overrides, config_dir=place / "conf")

    return build


@pytest.fixture(scope="module")
def run(own) -> Path:
    result = train(own())
    return Path(own().runs_dir) / result.name / result.run_id


def test_four_classes_go_from_a_table_of_labels_to_a_service(place, cache_dir, monkeypatch, capfd):
    monkeypatch.chdir(place)
    monkeypatch.setenv("PNEUMONIA_CACHE", str(cache_dir))
    task = ("--task", "conf/task/covid.yaml")
    assert command(["data", "import", "images", *task, "--out", "manifest.parquet"]) == 0
    assert pd.read_parquet("manifest.parquet")["label"].value_counts().to_dict() == dict.fromkeys(COVID["classes"], 24)
    assert command(["data", "audit", "images", *task, "--out", "audit"]) == 0
    audit = json.loads(Path("audit/audit.json").read_text())
    assert audit["tasks"] == {"covid": "normal, COVID-19, TB or VIRAL"}
    assert audit["baselines"]["thumbnail"]["covid"]["accuracy"] > 0.25
    assert command(["data", "split", "images", *task, "--out", "splits"]) == 0
    assert command(["doctor", "--data", "images", *task, "--cache-dir", str(cache_dir)]) in {0, 1}
    assert "COVID-19 24" in capfd.readouterr().out

    data = ("task=covid", "data=folder", "data.root=manifest.parquet", *SMALL)
    assert command(["train", "--config-dir", "conf", *data, "name=one"]) == 0
    Path("conf/two.yaml").write_text(SWEEP)
    assert command(["sweep", "two", "--config-dir", "conf", *data]) == 0
    assert len(list(Path("runs/two").glob("*/result.json"))) == 2
    (folder,) = (path.parent for path in Path("runs/one").glob("*/result.json"))
    assert command(["evaluate", "runs", "--split", "test"]) == 0
    assert command(["evaluate", str(folder), "--data", "images"]) == 0, "other data are read with the task of the run"
    found = json.loads((folder / "evaluation" / "own-test.json").read_text())
    assert tuple(point["positive"] for point in found["operating_points"]) == QUESTIONS
    assert "recall_covid-19" in found["metrics"]
    assert command(["report", "runs", "--out", "report"]) == 0
    text = Path("report/report.md").read_text()
    assert "Normal, COVID-19, TB or VIRAL" in text
    assert command(["export", str(folder), "--out", "bundle"]) == 0
    assert command(["export", str(folder), "--huggingface", "hub"]) == 0
    assert command(["predict", str(folder), "images/1-0.png", "--csv", "predicted.csv"]) == 0
    assert {"prob_COVID-19", "decision_ANY_POSITIVE"} <= set(pd.read_csv("predicted.csv"))
    capfd.readouterr()
    assert command(["runs", "runs", "--where", "task=covid", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)) == 3

    contract = read_contract(Path("bundle"))
    assert (contract.task, contract.classes) == ("covid", tuple(COVID["classes"]))
    with TestClient(Service(Bundle.load(Path("bundle")), Limits(), None, True).asgi) as client:
        answer = client.post("/invocations", content=Path("images/1-0.png").read_bytes(), headers={"Content-Type": "image/png"})
        assert list(answer.json()["probabilities"]) == COVID["classes"]
        assert tuple(answer.json()["decisions"]) == QUESTIONS
        page = client.get("/").text
    assert "Classes: NORMAL, COVID-19, TB, VIRAL" in page
    assert 'data-example="normal"' in page
    assert 'data-example="virus"' not in page


def test_a_run_keeps_its_task_in_every_file(run, own):
    finished, task = load_finished_run(run), own().task.build()
    assert finished.task == task != SUBTYPE
    classifier = finished.load_model()
    assert classifier.task == task
    assert json.loads((run / "result.json").read_text())["classes"] == COVID["classes"]
    options = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["hyper_parameters"]["options"]
    assert options["task"] == task.to_plain()
    with pytest.raises(CheckpointError, match=r"trained for task=covid \(normal, COVID-19, TB or VIRAL\), and task=subtype"):
        load_classifier(run / "checkpoints" / "best.ckpt", SUBTYPE)


def test_the_identity_holds_a_built_in_task_by_its_name(own, compose):
    assert identity(compose())["task"] == "subtype"
    assert identity(compose("task=pneumonia"))["task"] == "pneumonia"
    assert identity(own())["task"] == own().task.build().to_plain()
    assert identity(own()) != identity(own("task.positive=[TB]"))


def test_a_config_with_the_name_of_its_task_is_read(compose):
    for name in ("subtype", "pneumonia"):
        config = compose(f"task={name}")
        assert from_plain(to_plain(config) | {"task": name}) == from_plain(to_plain(config))
        assert overrides_from_config(config).get("task", "subtype") == name


def test_no_override_names_a_task_of_ones_own(own):
    assert overrides_from_config(own()) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": ["TB"]}, "has 1 class, and a classifier separates 2 to 20"),
        ({"classes": ["TB", "tb"]}, "has one class twice, TB and tb"),
        ({"classes": ["NORMAL", "TB", "EFFUSION"], "synonyms": SICK}, "The data has no image of class EFFUSION"),
    ],
)
def test_a_bad_task_is_refused_before_any_work(values, message, place, tmp_path):
    write_task(tmp_path / "conf", {"name": "bad", **values})
    data = (f"data.root={place / 'images'}", f"cache_dir={tmp_path / 'cache'}", f"runs_dir={tmp_path / 'runs'}")
    with pytest.raises(PneumoniaError, match=message):
        command(["train", "--config-dir", str(tmp_path / "conf"), "task=bad", "data=folder", *data, *SMALL])
    assert not list(tmp_path.glob("cache/*.npy")), "nothing is decoded"
    assert not list(tmp_path.glob("runs/*/*/config.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: bad\nclasses: [0, 1]",
            r"task.classes=\[0, 1\] has the wrong type: it must be a list, each item text \(in quotes",
        ),
        ("name: 5\nclasses: [A, B]", r"task.name=5 has the wrong type: it must be text \(in quotes"),
        (
            "name: bad\nclasses: [NO, YES]",
            r"task.classes=\[false, true\] has.*YAML reads NO and OFF as false.*put them in quotes",
        ),
        ("name: bad\nclasses: [A, B]\nsynonyms: {A: [no]}", r"task.synonyms=\{A: \[false\]\} has.*put them in quotes"),
        ("name: bad\nclasses: [A, null]", r"task.classes=\[A, null\] has the wrong type"),
        ("name: bad\nclasses: [A, B]\nsynonyms: {A: a}", r"task.synonyms=\{A: a\} has the wrong type"),
        ("name: bad\nclases: [A, B]", r"task.clases is not a config key.*Did you mean 'task.classes'"),
    ],
)
def test_train_and_import_refuse_the_same_task_files(text, message, tmp_path):
    (tmp_path / "task").mkdir()
    file = tmp_path / "task" / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        compose_config("task=bad", "data=folder", "data.root=x", config_dir=tmp_path)
    with pytest.raises(ConfigError, match=f"{file} is not the file of a task: {message}"):
        load_task(str(file))


def test_a_task_file_without_a_name_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_text("classes: [A, B]")
    with pytest.raises(
        ConfigError, match=r"task.name is missing, and every task needs it. Add the line `name: VALUE` to its file"
    ):
        load_task(str(tmp_path / "bad.yaml"))


def test_renamed_classes_give_the_same_metrics(place, cache_dir, compose, tmp_path):
    renamed = {"Healthy": ["normal"], "Viral": ["virus"], "Bacterial": ["bacteria"]}
    write_task(place / "conf", {"name": "renamed", "classes": list(renamed), "synonyms": renamed})
    options = ("data.phantom.patients=60", f"cache_dir={cache_dir}", f"runs_dir={tmp_path}", *SMALL)
    ours, theirs = (train(compose_config(f"task={name}", *options, config_dir=place / "conf")) for name in ("renamed", "subtype"))
    assert list(ours.metrics["val"].values()) == list(theirs.metrics["val"].values())
    assert ours.confusion.counts == theirs.confusion.counts
    assert ours.run_id != theirs.run_id


def test_phantoms_show_only_what_they_are_drawn_of(own, tmp_path):
    with pytest.raises(ConfigError, match=r"data=phantom draws NORMAL, VIRUS, BACTERIA alone, and task=covid has the classes"):
        own("data=phantom")
    sick = {"name": "sick", "classes": ["SICK", "NORMAL"], "positive": ["SICK"], "synonyms": {"SICK": ["virus", "bacteria"]}}
    write_task(tmp_path, sick)
    assert compose_config("task=sick", config_dir=tmp_path).task.build().positive == ("SICK",)


def test_perceptron_learns_two_classes_of_ones_own(place, own):
    words = {"TB": ["tuberculosis"], "OTHER": ["normal", "corona", "viral pneumonia", "virus"]}
    write_task(place / "conf", {"name": "tb", "classes": ["TB", "OTHER"], "positive": ["TB"], "synonyms": words})
    result = train(own("model=perceptron", "normalisation=minmax", task="tb"))
    recall = {name: value for name, value in result.metrics["val"].items() if name in {"sensitivity", "specificity"}}
    counts = np.array(result.confusion.counts)
    assert recall == pytest.approx(dict(zip(("sensitivity", "specificity"), counts.diagonal() / counts.sum(axis=1), strict=True)))
    with pytest.raises(ConfigError, match="task=covid has 4 classes, and Perceptron separates 2 at most"):
        train(own("model=perceptron", "normalisation=minmax"))


def test_a_label_without_a_class_stops_the_training(place, own):
    write_task(place / "conf", {"name": "three", "classes": ["NORMAL", "VIRAL", "TB"], "synonyms": {"TB": ["tuberculosis"]}})
    with pytest.raises(LabelError, match="unknown labels in the column 'label': 'Corona'"):
        train(own(task="three"))


def test_twenty_classes_are_evaluated_and_drawn(tmp_path):
    from pneumonia.evaluation.error_gallery import MOST_CELLS, PER_CELL, PER_GROUP, choose_images
    from pneumonia.evaluation.evaluate_predictions import evaluate_predictions
    from pneumonia.metrics.predictions import PROBABILITY_PREFIX
    from pneumonia.report.render import figures

    task = Task.of("findings", [f"FINDING_{number}" for number in range(20)])
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(20), 15)
    odds = np.exp(2 * np.eye(20)[label] + rng.normal(0, 1, (len(label), 20)))
    table = pd.DataFrame(odds / odds.sum(axis=1, keepdims=True), columns=[f"{PROBABILITY_PREFIX}{name}" for name in task.classes])
    names = np.array(task.classes)
    table = table.assign(image_id=[f"i{n}" for n in range(300)], patient_id=[f"p{n}" for n in range(300)])
    table = table.assign(label=names[label], predicted=names[odds.argmax(axis=1)])
    found = evaluate_predictions(table, "test", task, table)
    assert len(found.operating_points) == 20
    assert found.metrics["recall_finding_7"].value == pytest.approx((odds.argmax(axis=1) == label)[label == 7].mean())
    assert len(choose_images(table, task)) <= 2 * PER_GROUP + MOST_CELLS * PER_CELL
    svg = figures.confusion(found.confusion.counts, task.classes)
    assert float(svg.partition('width="')[2].partition("pt")[0]) < 800, "no wider than a page"
