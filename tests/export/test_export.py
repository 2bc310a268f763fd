"""Export writes a bundle that equals the trained model, the same bytes each time, or nothing."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from pneumonia.cli import main
from pneumonia.config.keys import conf_dir
from pneumonia.data.normalization import Scaling
from pneumonia.errors import BundleError, ConfigError, ParityError, RunError, StorageError
from pneumonia.export.bundle_folder import check_folder
from pneumonia.export.contract import ARCHIVE, CONTRACT, MODEL, OOD_DETECTOR
from pneumonia.export.contract_builder import decision_rules, metric_info
from pneumonia.export.export import ExportOptions, export
from pneumonia.export.onnx_graph import export_graph
from pneumonia.export.parity import check_parity, measure_parity
from pneumonia.export.runtime import Bundle
from pneumonia.models.factory import build_classifier
from pneumonia.models.options import ClassifierOptions
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.load import load_finished_run
from pneumonia.tasks import SUBTYPE

FAMILIES = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
TINY = {"backbone": {"name": "resnet10t"}, "pseudo_resnet": {"width": 8}, "simple_cnn": {}}


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_other_process_and_threads_write_the_same_bytes(finished, bundle_dir, cache_dir, tmp_path):
    again = tmp_path / "again"
    command = [sys.executable, "-m", "pneumonia", "export"]
    arguments = [*command, str(finished), "--out", str(again), "--cache-dir", str(cache_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert _left(again) == _left(bundle_dir) == [CONTRACT, MODEL, ARCHIVE, OOD_DETECTOR]
    for name in _left(bundle_dir):
        assert (again / name).read_bytes() == (bundle_dir / name).read_bytes(), name


def test_files_name_no_path_of_the_machine(bundle_dir, finished):
    packed = {name: (bundle_dir / name).read_bytes() for name in (MODEL, OOD_DETECTOR, CONTRACT)}
    for name, raw in packed.items():
        for trace in (
            b"/tmp",
            b"site-packages",
            b".py",
            str(Path.home()).encode(),
            finished.parent.name.encode() + b"/",
        ):
            assert trace not in raw.replace(b"train/", b""), (name, trace)
    model = onnx.load_from_string(packed[MODEL])
    assert all(not node.metadata_props and not node.doc_string for node in model.graph.node)


def test_archive_unpacks_to_the_bundle(bundle_dir, bundle, tmp_path):
    with tarfile.open(bundle_dir / ARCHIVE) as archive:
        assert archive.getnames() == [CONTRACT, MODEL, OOD_DETECTOR]
        assert {(entry.mtime, entry.uid, entry.uname) for entry in archive} == {(0, 0, "")}
        archive.extractall(tmp_path, filter="data")
    assert Bundle.load(tmp_path).contract == bundle.contract


def test_contract_describes_the_run(bundle, finished):
    result = json.loads((finished / "result.json").read_text())
    contract = bundle.contract
    assert contract.model.version == f"{result['name']}/{result['run_id']}"
    assert contract.model.epoch == result["best_epoch"] >= 1
    assert contract.data.manifest_sha256 == result["data"]["manifest_sha256"]
    assert contract.metrics.val == result["metrics"]["val"]
    assert contract.parity.images == result["data"]["val"]
    assert contract.parity.max_difference < 1e-5
    assert contract.bundle_version == contract.digest[:12]
    assert "Not a medical device" in contract.intended_use
    assert any("drawn phantoms" in limit for limit in contract.limitations)


@pytest.mark.parametrize(
    ("family", "tta", "ema"),
    [*((family, "none", 0.9) for family in FAMILIES), ("mlp", "shift", None), ("mlp", "flip", None)],
)
def test_graph_equals_the_network_for_any_number_of_images(family, tta, ema):
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / f"{family}.yaml")) | TINY.get(family, {})
    setup = ClassifierOptions(task="pneumonia", image_size=33, tta=tta, ema=ema, scaling=Scaling("zscore", 101.0, 47.0))
    classifier = build_classifier(node, setup).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in classifier.network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        if classifier.averaged is not None:
            classifier.averaged.update_parameters(classifier.network)
            for weight in classifier.network.parameters():
                weight.add_(1)  # so that the trained weights differ from their average
    graph, _ = export_graph(classifier)
    session = onnxruntime.InferenceSession(graph)
    for count in (1, 3):
        images = torch.randint(0, 256, (count, 1, 33, 33), dtype=torch.uint8)
        with torch.inference_mode():
            expected = classifier(images).numpy()
        assert session.run(None, {"image": images.numpy()})[0] == pytest.approx(expected, abs=1e-4)
    assert expected.std() > 1e-3, "the logits depend on the image"


def test_network_without_onnx_operators_is_refused():
    class Strange(torch.nn.Module):
        def forward(self, image):
            return torch.linalg.eigvals(image[:, 0]).real[:, :2]

    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / "mlp.yaml"))
    classifier = build_classifier(node, ClassifierOptions(task="pneumonia", image_size=16)).eval()
    classifier.network = Strange()
    with pytest.raises(BundleError, match=r"MLP .* can't be written as an ONNX graph"):
        export_graph(classifier)


def test_graph_with_other_weights_fails_parity(bundle, bundle_dir, evaluated, val_files):
    model = onnx.load(bundle_dir / MODEL)
    heaviest = max(model.graph.initializer, key=lambda entry: len(entry.raw_data))
    held = np.frombuffer(heaviest.raw_data, np.float32)
    heaviest.raw_data = (held + np.random.default_rng(0).normal(0, 0.3, held.shape)).astype(np.float32).tobytes()
    changed = Bundle(bundle.contract, model.SerializeToString(), bundle.ood_detector)
    table = evaluated[1]
    trained = table[[f"prob_{name}" for name in bundle.contract.classes]].to_numpy(np.float64)
    parity = measure_parity(changed, val_files, trained, trained)
    assert not parity.passed
    assert parity.max_difference > 1e-3
    with pytest.raises(ParityError, match="the exported graph computes something else"):
        check_parity(parity)
    check_parity(measure_parity(bundle, val_files, trained, trained))
    rounded = trained.astype(np.float16).astype(np.float64)  # as a run in half precision would have recorded them
    with pytest.raises(ParityError, match="does not reproduce the recorded predictions"):
        check_parity(measure_parity(bundle, val_files, trained, rounded))
    check_parity(measure_parity(bundle, val_files, trained, rounded, exact=False))
    with pytest.raises(ParityError, match="does not reproduce the recorded predictions"):
        check_parity(measure_parity(bundle, val_files, trained, trained[:, ::-1], exact=False))


def test_other_recorded_predictions_leave_no_bundle(run, cache_dir, tmp_path):
    path = run / "predictions" / "val.parquet"
    table = pd.read_parquet(path)
    table[["prob_NORMAL", "prob_VIRUS"]] = table[["prob_VIRUS", "prob_NORMAL"]].to_numpy()
    table.to_parquet(path)
    (tmp_path / "place").mkdir()
    with pytest.raises(ParityError, match="does not reproduce the recorded predictions: train the run again"):
        export(ExportOptions(run, tmp_path / "place" / "bundle", cache_dir=cache_dir))
    assert _left(tmp_path / "place") == []


def test_moved_images_are_found_and_an_old_bundle_is_replaced(run, phantoms, cache_dir, bundle, tmp_path):
    _moved(run, tmp_path / "gone")
    out = tmp_path / "bundle"
    with pytest.raises(RunError, match=r"are missing.*Use --data DIR"):
        export(ExportOptions(run, out, cache_dir=cache_dir))
    assert not out.exists()
    shutil.copytree(phantoms / "test", tmp_path / "few" / "test")
    with pytest.raises(RunError, match="The images found are not those of"):
        export(ExportOptions(run, out, root=tmp_path / "few", cache_dir=cache_dir))
    out.mkdir()
    (out / CONTRACT).write_text("an older one")
    contract = export(ExportOptions(run, out, 0.5, "CC BY 4.0", force=True, root=phantoms, cache_dir=cache_dir))
    assert contract.files == bundle.contract.files, "the same model and the same detector"
    assert contract.licence == "CC BY 4.0"
    assert contract.abstention.coverage == pytest.approx(0.5, abs=0.1)
    assert Bundle.load(out).contract == contract
    assert [name for name in _left(tmp_path) if name.startswith(".")] == []


def _moved(run: Path, root: Path) -> None:
    path = run / "result.json"
    result = json.loads(path.read_text())
    result["config"]["data"] |= {"source": "folder", "root": str(root)}
    path.write_text(json.dumps(result))


def test_occupied_folder_is_refused(tmp_path, bundle_dir, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is a file"):
        check_folder(tmp_path / "file", force=True)
    with pytest.raises(BundleError, match=r"for example file, and is not overwritten"):
        check_folder(tmp_path, force=True)
    with pytest.raises(BundleError, match=r"already holds a bundle\. Use --force"):
        check_folder(bundle_dir, force=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="can't be replaced by a bundle"):
        check_folder(Path("."), force=True)
    check_folder(bundle_dir, force=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coverage", "1.5"], "'--coverage': 1.5 is not in the range 0<x<=1"),
        (["--coverage", "most"], "'--coverage': 'most' is not a valid float"),
        (["data.root=x"], "Use --data x."),
        ([], "RunError: "),
    ],
)
def test_bad_options_exit_with_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pneumonia", "export", str(tmp_path), *arguments, "--out", str(tmp_path / "b")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert _left(tmp_path) == []


def test_unwritable_folder_is_refused_before_any_work(finished, cache_dir, capsys):
    with pytest.raises(StorageError, match="Can't write /proc/nowhere"):
        export(ExportOptions(finished, Path("/proc/nowhere/bundle"), cache_dir=cache_dir))
    assert "Writing the graph" not in capsys.readouterr().err


def test_unfinished_run_is_refused(run, tmp_path):
    (run / "result.json").unlink()
    with pytest.raises(RunError, match="did not finish"):
        export(ExportOptions(run, tmp_path / "bundle"))


@pytest.mark.parametrize("licence", ["", " ", "a\x1b[2Jb", "a\x00", "\udcff", "a" * 10_001])
def test_invalid_licence_is_refused_before_any_work(licence, finished, cache_dir, tmp_path, capsys):
    with pytest.raises(ConfigError, match="is not allowed in a contract"):
        export(ExportOptions(finished, tmp_path / "bundle", licence=licence, cache_dir=cache_dir))
    assert "Writing the graph" not in capsys.readouterr().err
    assert _left(tmp_path) == []


@pytest.mark.parametrize("text", ["", "[]", '{"of": null}', '{"of": {"run_ids": [], "other_data": null}', "{"])
def test_damaged_evaluation_is_named(text, run):
    (run / "evaluation").mkdir()
    RunFolder(run).evaluation("test", "json").write_text(text)
    with pytest.raises(RunError, match=r"test\.json is damaged .*Evaluate the run again"):
        metric_info(load_finished_run(run))


def test_nothing_is_chosen_on_training_images(bundle, bundle_dir, evaluated):
    calibration, points, abstention = decision_rules(evaluated[1], SUBTYPE, 0.9, "the reason")
    assert calibration.temperature is None
    assert {point.threshold for point in points} == {None}
    assert abstention.confidence is None
    contract = bundle.contract.model_copy(
        update={"calibration": calibration, "operating_points": points, "abstention": abstention}
    )
    prediction = Bundle(contract, (bundle_dir / MODEL).read_bytes(), bundle.ood_detector).predict_square(
        np.full((32, 32), 90, dtype=np.uint8)
    )
    assert prediction.probabilities == prediction.raw
    assert not prediction.calibrated
    assert not prediction.abstained
    assert set(prediction.decisions.values()) == {None}
