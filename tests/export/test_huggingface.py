"""The folder for a model hub, read by other programs: model card, weights, graph and config of one run."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from pneumonia.cli import main
from pneumonia.errors import BundleError, ConfigError, TargetError
from pneumonia.evaluation.evaluate import evaluate
from pneumonia.evaluation.run_predictions import EvaluateOptions
from pneumonia.export.contract import ARCHIVE, CONTRACT, MODEL, OOD_DETECTOR
from pneumonia.export.contract_file import read_contract
from pneumonia.export.export import ExportOptions, export
from pneumonia.export.huggingface import CARD, CONFIG, WEIGHTS, hub_files, load_hub_model, model_card
from pneumonia.export.runtime import Bundle
from pneumonia.models.factory import build_classifier
from pneumonia.models.options import ClassifierOptions
from pneumonia.runs.load import load_finished_run


@pytest.fixture(scope="module")
def evaluated_run(finished, cache_dir, tmp_path_factory) -> Path:
    """A copy of the run, evaluated on its test split."""
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("evaluated") / "run"))
    evaluate(run, EvaluateOptions("test", cache_dir=cache_dir))
    return run


@pytest.fixture(scope="module")
def hub(evaluated_run, cache_dir, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "repository"
    export(ExportOptions(evaluated_run, None, licence="CC BY 4.0", cache_dir=cache_dir, huggingface=out))
    return out


@pytest.fixture(scope="module")
def squares(hub) -> np.ndarray:
    size = read_contract(hub).preprocessing.size
    return np.random.default_rng(0).integers(0, 256, (5, 1, size, size), dtype=np.uint8)


def test_folder_has_the_files_of_a_hub_and_is_a_bundle(hub):
    assert sorted(path.name for path in hub.iterdir()) == sorted([CARD, CONFIG, WEIGHTS, MODEL, OOD_DETECTOR, CONTRACT])
    assert Bundle.load(hub).contract == read_contract(hub)
    for path in hub.iterdir():
        for trace in (b"/tmp", str(Path.home()).encode(), b"site-packages"):
            assert trace not in path.read_bytes(), (path, trace)


def test_model_card_is_read_by_the_library_of_the_hub(hub):
    repocard = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    data = repocard.ModelCard.load(hub / CARD).data
    contract = read_contract(hub)
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-4.0", "pneumonia", "image-classification")
    assert {"chest-x-ray", "onnx", "safetensors"} <= set(data.tags)
    assert data.model_name == contract.model.version
    test = contract.metrics.test
    assert test is not None
    found = {one.metric_type: one for one in data.eval_results}
    assert {"accuracy", "f1", "roc_auc"} <= found.keys()
    accuracy, expected = found["accuracy"], test.metrics["accuracy"]
    assert accuracy.metric_value == expected.value
    assert accuracy.metric_args == {"confidence": 0.95, "low": expected.low, "high": expected.high}
    assert f"95% interval {expected.low:.4f} to {expected.high:.4f}" in accuracy.metric_name
    assert (accuracy.dataset_split, accuracy.dataset_type) == ("test", contract.data.source)
    assert accuracy.dataset_revision == contract.data.manifest_sha256
    defined = [one for one in test.metrics.values() if one.value is not None]
    assert len(data.eval_results) == len(defined)


def test_card_states_use_limits_and_every_metric(hub):
    contract, text = read_contract(hub), (hub / CARD).read_text()
    for sentence in (contract.intended_use, *contract.limitations, contract.licence):
        assert sentence in text
    accuracy = contract.metrics.test.metrics["accuracy"]
    assert f"| accuracy | {accuracy.value:.4f} | {accuracy.low:.4f} | {accuracy.high:.4f} |" in text
    assert f"On {contract.metrics.test.images} images of {contract.metrics.test.patients} patients" in text
    assert "was not evaluated" not in text
    lines = text.split("\n")
    assert lines.count("---") == 2
    row = lines.index("| metric | value | low | high |")
    assert [line[:1] for line in lines[row : row + 2 + len(contract.metrics.test.metrics)]].count("|") == 2 + len(
        contract.metrics.test.metrics
    ), "the table has no gap"


def test_weights_and_graph_give_the_logits_of_the_checkpoint(hub, evaluated_run, squares):
    with torch.inference_mode():
        expected = load_finished_run(evaluated_run).load_model()(torch.from_numpy(squares)).numpy()
        config = json.loads((hub / CONFIG).read_text())
        rebuilt = build_classifier(config["model"], ClassifierOptions.from_plain(config["options"])).eval()
        rebuilt.network.load_state_dict(load_file(hub / WEIGHTS))
        assert np.array_equal(rebuilt(torch.from_numpy(squares)).numpy(), expected)
        assert np.array_equal(load_hub_model(hub)(torch.from_numpy(squares)).numpy(), expected)
    graph = onnxruntime.InferenceSession(hub / MODEL, providers=["CPUExecutionProvider"])
    assert graph.run(None, {"image": squares})[0] == pytest.approx(expected, abs=1e-4)


def test_averaged_weights_are_exported(bundle, tmp_path):
    size = bundle.contract.preprocessing.size
    options = ClassifierOptions(task=bundle.contract.task, image_size=size, ema=0.9, scaling=load_options(bundle))
    classifier = build_classifier({"_target_": "pneumonia.models.mlp.MLP"}, options).eval()
    classifier.averaged.update_parameters(classifier.network)
    with torch.no_grad():
        for weight in classifier.network.parameters():
            weight.add_(1)  # so that the trained weights differ from their average
    for name, raw in hub_files(bundle.contract, classifier).items():
        (tmp_path / name).write_bytes(raw)
    images = torch.randint(0, 256, (3, 1, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(load_hub_model(tmp_path)(images), classifier(images))


def load_options(bundle):
    from pneumonia.data.normalization import Scaling

    one = bundle.contract.preprocessing.normalisation
    return Scaling(one.method, one.shift, one.scale)


def test_config_names_classes_and_preprocessing(hub):
    config, contract = json.loads((hub / CONFIG).read_text()), read_contract(hub)
    assert [config["id2label"][str(number)] for number in range(3)] == list(contract.classes)
    assert {name: number for number, name in enumerate(contract.classes)} == config["label2id"]
    assert config["preprocessing"] == contract.preprocessing.model_dump(mode="json")
    assert config["architectures"] == [contract.model.family]


def test_run_without_evaluation_shows_validation_metrics_and_says_so(bundle):
    repocard = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    assert bundle.contract.metrics.test is None
    text = model_card(bundle.contract)
    assert "**The run was not evaluated on its test split.**" in text
    card = repocard.ModelCard(text).data
    assert {one.dataset_split for one in card.eval_results} == {"validation"}
    found = {one.metric_type: one for one in card.eval_results}
    assert found["accuracy"].metric_value == bundle.contract.metrics.val["accuracy"]
    assert found["accuracy"].metric_args is None
    assert (card.license, card["license_name"]) == ("other", "see-model-card")


@pytest.mark.parametrize("licence", ["MIT", "a: b\n---\n# c | d", "'\"{}[]&*!|>%@`"])
def test_any_licence_gives_a_readable_card(licence, bundle):
    repocard = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    text = model_card(bundle.contract.model_copy(update={"licence": licence}))
    assert repocard.ModelCard(text).data.license == ("mit" if licence == "MIT" else "other")
    assert text.endswith(f"{licence}\n")


def test_undefined_metrics_are_named_in_the_card_alone(bundle):
    repocard = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    metrics = bundle.contract.metrics.model_copy(update={"val": {"accuracy": 0.5, "auroc": None}})
    text = model_card(bundle.contract.model_copy(update={"metrics": metrics}))
    assert "| undefined |" in text
    assert [one.metric_type for one in repocard.ModelCard(text).data.eval_results] == ["accuracy"]


def test_occupied_folder_is_refused_without_force(evaluated_run, hub, cache_dir, tmp_path):
    used = Path(shutil.copytree(hub, tmp_path / "hub"))
    with pytest.raises(BundleError, match=r"already holds a model repository\. Use --force"):
        export(ExportOptions(evaluated_run, None, cache_dir=cache_dir, huggingface=used))
    (used / ".git").mkdir()
    with pytest.raises(BundleError, match=r"for example \.git, and is not overwritten\. Name another folder with --huggingface"):
        export(ExportOptions(evaluated_run, None, force=True, cache_dir=cache_dir, huggingface=used))
    (used / ".git").rmdir()
    (used / CARD).write_text("an older one")
    export(ExportOptions(evaluated_run, None, licence="CC BY 4.0", force=True, cache_dir=cache_dir, huggingface=used))
    for path in hub.iterdir():
        assert (used / path.name).read_bytes() == path.read_bytes(), path.name


def test_folders_inside_each_other_or_none_are_refused(finished, tmp_path):
    for out, other in (("a", "a"), ("a", "a/b"), ("a/b", "a")):
        with pytest.raises(BundleError, match="lie in each other"):
            export(ExportOptions(finished, tmp_path / out, huggingface=tmp_path / other))
    with pytest.raises(ConfigError, match="No folder is named"):
        export(ExportOptions(finished, None))
    assert list(tmp_path.iterdir()) == []


def test_damaged_or_foreign_repository_is_refused(hub, tmp_path):
    with pytest.raises(BundleError, match=r"holds no config\.json"):
        load_hub_model(tmp_path)
    copy = Path(shutil.copytree(hub, tmp_path / "hub"))
    save_file({"weight": torch.zeros(2)}, copy / WEIGHTS)
    with pytest.raises(BundleError, match=r"holds other weights than config\.json says"):
        load_hub_model(copy)
    (copy / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(BundleError, match="or they are damaged"):
        load_hub_model(copy)
    shutil.copy(hub / WEIGHTS, copy / WEIGHTS)
    config = json.loads((copy / CONFIG).read_text())
    config["model"]["_target_"] = "os.system"
    (copy / CONFIG).write_text(json.dumps(config))
    with pytest.raises(TargetError):
        load_hub_model(copy)


def test_command_writes_both_folders(finished, cache_dir, tmp_path, monkeypatch, capsys):
    out, hub = tmp_path / "bundle", tmp_path / "hub"
    command = ["pneumonia", "export", str(finished), "--cache-dir", str(cache_dir)]

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code

    assert call() == 2
    assert "Name the folder to write: --out BUNDLE, --huggingface DIR, or both." in capsys.readouterr().err
    assert call("--out", str(out), "--huggingface", str(hub)) == 0
    captured = capsys.readouterr()
    assert "was not evaluated on its test split" in captured.err
    assert (out / ARCHIVE).is_file()
    assert (hub / CARD).is_file()
    assert (out / MODEL).read_bytes() == (hub / MODEL).read_bytes()
