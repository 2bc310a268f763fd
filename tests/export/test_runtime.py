"""A bundle predicts as the trained model does; a changed byte is refused."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import accuracy_score, recall_score

from pneumonia.data.images.limits import UnreadableImageError
from pneumonia.errors import BundleError, ParityError, TamperedBundleError
from pneumonia.export.contract import CONTRACT, MODEL, OOD_DETECTOR, OnnxInfo
from pneumonia.export.contract_builder import decision_rules
from pneumonia.export.occlusion import occlusion_map
from pneumonia.export.onnx_header import opset_of
from pneumonia.export.prediction import decide
from pneumonia.export.runtime import Bundle
from pneumonia.tasks import SUBTYPE


def test_bundle_needs_no_training_library(bundle_dir, val_files):
    code = (
        "import sys\n"
        "from pneumonia.export.runtime import Bundle\n"
        "from pneumonia.export.occlusion import occlusion_map\n"
        "raw = open(sys.argv[2], 'rb').read()\n"
        "bundle = Bundle.load(sys.argv[1])\n"
        "print(bundle.predict(raw).label, occlusion_map(bundle, raw).shape)\n"
        "heavy = {'torch', 'lightning', 'hydra', 'pandas', 'scipy', 'sklearn', 'albumentations', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, str(bundle_dir), str(val_files[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("(32, 32)\n")


def test_raw_probabilities_are_those_of_the_evaluation(bundle, evaluated, val_files):
    _, table = evaluated
    for path, row in zip(val_files, table.to_dict("records"), strict=True):
        prediction = bundle.predict(path.read_bytes())
        assert prediction.most_probable == row["predicted"]
        assert prediction.raw == pytest.approx({name: row[f"prob_{name}"] for name in prediction.raw}, abs=1e-5)


def _calibrated(evaluated, classes, temperature) -> np.ndarray:
    """Probabilities of the evaluated images after the temperature, computed without our code."""
    logits = np.log(evaluated[1][[f"prob_{name}" for name in classes]].to_numpy(np.float64))
    return softmax(logits / temperature, axis=1)


def test_thresholds_and_abstention_are_chosen_on_the_calibrated_scale(bundle, evaluated):
    report, table = evaluated
    contract = bundle.contract
    temperature = contract.calibration.temperature
    assert temperature == pytest.approx(report.calibration.temperature, rel=1e-4)
    calibrated = _calibrated(evaluated, contract.classes, temperature)
    for point in contract.operating_points:
        if point.positive == "PNEUMONIA":
            score, truth = 1 - calibrated[:, 0], table["label"] != "NORMAL"
        else:
            score, truth = calibrated[:, contract.classes.index(point.positive)], table["label"] == point.positive
        reached = [value for value in score if recall_score(truth, score >= value) >= 0.95]
        assert point.threshold == pytest.approx(max(reached), abs=1e-9)
    confidence = calibrated.max(axis=1)
    least = max(value for value in confidence if (confidence >= value).mean() >= 0.9)
    assert contract.abstention.confidence == pytest.approx(least, abs=1e-9)
    predicted = confidence >= least
    assert contract.abstention.coverage == predicted.mean()
    assert contract.abstention.risk == pytest.approx(
        1 - accuracy_score(table["label"][predicted], np.array(contract.classes)[calibrated[predicted].argmax(axis=1)])
    )
    raw = table[[f"prob_{name}" for name in contract.classes]].to_numpy(np.float64).max(axis=1)
    assert contract.abstention.confidence != pytest.approx(np.sort(raw)[::-1][predicted.sum() - 1], abs=1e-4)


def test_everything_but_raw_is_on_the_calibrated_scale(bundle, evaluated, val_files):
    contract = bundle.contract
    calibrated = _calibrated(evaluated, contract.classes, contract.calibration.temperature)
    predictions = [bundle.predict(path.read_bytes()) for path in val_files]
    for prediction, expected in zip(predictions, calibrated, strict=True):
        assert list(prediction.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        assert prediction.confidence == max(prediction.probabilities.values())
        assert prediction.confidence != pytest.approx(max(prediction.raw.values()), abs=1e-4)
        assert prediction.abstained == (prediction.confidence < contract.abstention.confidence - 1e-5)
        decided = {
            point.positive: score >= point.threshold - 1e-5
            for point, score in zip(contract.operating_points, (1 - expected[0], *expected[1:]), strict=True)
        }
        silent = prediction.abstained or prediction.out_of_distribution
        assert prediction.decisions == (dict.fromkeys(decided) if silent else decided)
        assert prediction.label == (None if silent else prediction.most_probable)
    assert {prediction.abstained for prediction in predictions} == {True, False}


def test_out_of_distribution_image_gets_no_label_and_no_decision(bundle):
    prediction = bundle.predict_square(np.full((32, 32), 90, dtype=np.uint8))
    assert prediction.out_of_distribution
    assert prediction.label is None
    assert set(prediction.decisions.values()) == {None}
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.model_dump()["label"] is None


def test_calibration_changes_which_images_are_predicted():
    rng = np.random.default_rng(3)
    label = rng.integers(0, 3, 400)
    sharp = softmax(4 * (np.eye(3)[label] + rng.normal(0, 0.9, (400, 3))), axis=1)
    table = pd.DataFrame(sharp, columns=["prob_NORMAL", "prob_VIRUS", "prob_BACTERIA"])
    table["label"] = np.array(SUBTYPE.classes)[label]
    calibration, points, abstention = decision_rules(table, SUBTYPE, 0.5)
    assert calibration.temperature > 1.5
    calibrated = softmax(np.log(sharp) / calibration.temperature, axis=1)
    confidence = calibrated.max(axis=1)
    assert abstention.confidence == pytest.approx(np.sort(confidence)[::-1][199], abs=1e-6)
    predicted, by_raw = confidence >= abstention.confidence, sharp.max(axis=1) >= np.sort(sharp.max(axis=1))[::-1][199]
    assert (predicted != by_raw).any(), "other images are predicted than by the uncalibrated scores"
    virus = next(point for point in points if point.positive == "VIRUS")
    assert recall_score(label == 1, calibrated[:, 1] >= virus.threshold - 1e-9) == pytest.approx(0.95, abs=0.01)


def test_calibration_divides_the_logits_by_the_temperature(bundle, val_files):
    square = bundle.decode(val_files[0].read_bytes())
    prediction = bundle.predict_square(square)
    odds = np.exp(bundle.logits(square[None])[0].astype(np.float64) / bundle.contract.calibration.temperature)
    assert list(prediction.probabilities.values()) == pytest.approx((odds / odds.sum()).tolist(), abs=1e-6)
    assert prediction.calibrated
    assert prediction.most_probable == max(prediction.probabilities, key=prediction.probabilities.get)


def test_validation_files_have_the_promised_sensitivity_and_coverage(bundle, evaluated, val_files):
    _, table = evaluated
    contract = bundle.contract
    predictions = [bundle.predict(path.read_bytes()) for path in val_files]
    assert np.mean([not prediction.abstained for prediction in predictions]) == pytest.approx(contract.abstention.coverage)
    for name in ("PNEUMONIA", "VIRUS", "BACTERIA"):
        truth = table["label"] != "NORMAL" if name == "PNEUMONIA" else table["label"] == name
        found = [
            decide(
                contract.operating_points,
                contract.classes,
                list(prediction.probabilities.values()),
                contract.calibration,
            )
            for prediction in predictions
        ]
        assert recall_score(truth, [one[name] for one in found]) >= 0.95


def test_prediction_does_not_depend_on_earlier_files(bundle, val_files):
    raw = [path.read_bytes() for path in val_files[:5]]
    forwards, backwards = [bundle.predict(one) for one in raw], [bundle.predict(one) for one in reversed(raw)]
    assert forwards == backwards[::-1]


@pytest.mark.parametrize("name", [MODEL, OOD_DETECTOR])
def test_changed_or_missing_file_is_named(name, bundle_dir, tmp_path):
    folder = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(TamperedBundleError, match=rf"{name} was changed after the export"):
        Bundle.load(folder)
    (folder / name).unlink()
    with pytest.raises(TamperedBundleError, match=rf"{name} can't be read"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", 9.0), ("threshold", 0.0), ("licence", "free for all"), ("passed", False)]
)
def test_edited_contract_is_refused(key, value, bundle_dir, tmp_path):
    def change(node):
        if isinstance(node, dict):
            return {k: value if k == key else change(v) for k, v in node.items()}
        return [change(v) for v in node] if isinstance(node, list) else node

    folder = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    plain = json.loads((folder / CONTRACT).read_text())
    assert change(plain) != plain
    (folder / CONTRACT).write_text(json.dumps(change(plain)))
    with pytest.raises(TamperedBundleError, match="was changed after the export"):
        Bundle.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema_version": 3}', "[" * 100_000])
def test_damaged_contract_is_refused(text, bundle_dir, tmp_path):
    folder = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    (folder / CONTRACT).write_text(text)
    with pytest.raises(TamperedBundleError, match="xport the run again"):
        Bundle.load(folder)


def test_folder_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="There is no bundle"):
        Bundle.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"has no contract\.json"):
        Bundle.load(tmp_path)


def test_bundle_of_failed_parity_is_refused(altered, bundle):
    with pytest.raises(ParityError, match="changes the label of 3 images"):
        Bundle.load(altered(parity=bundle.contract.parity.model_copy(update={"passed": False, "changed_labels": 3})))


def test_contract_of_another_opset_is_refused(altered):
    with pytest.raises(BundleError, match="ONNX opset 17; this version runs opset 20"):
        Bundle.load(altered(onnx=OnnxInfo(opset=17, ir_version=8)))


def test_bundle_of_another_decoder_is_refused(altered, bundle):
    with pytest.raises(BundleError, match="which would give other pixels"):
        Bundle.load(altered(preprocessing=bundle.contract.preprocessing.model_copy(update={"decoder": "1"})))


def test_contract_of_another_schema_is_refused(altered):
    with pytest.raises(BundleError, match="has schema_version 99; this version reads 3"):
        Bundle.load(altered(schema_version=99))


def test_graph_of_another_opset_is_refused(altered, bundle, bundle_dir):
    model = onnx.load(bundle_dir / MODEL)
    model.opset_import[0].version = 17
    raw = model.SerializeToString()
    folder = altered(files={**bundle.contract.files, MODEL: hashlib.sha256(raw).hexdigest()})
    (folder / MODEL).write_bytes(raw)
    with pytest.raises(BundleError, match=r"model\.onnx has ONNX opset 17"):
        Bundle.load(folder)


def test_graph_of_another_input_is_refused(altered, bundle):
    with pytest.raises(BundleError, match="its contract says grey squares of 48 pixels"):
        Bundle.load(altered(preprocessing=bundle.contract.preprocessing.model_copy(update={"size": 48})))


def test_opset_is_that_of_the_onnx_package(bundle_dir):
    raw = (bundle_dir / MODEL).read_bytes()
    assert opset_of(raw) == onnx.load_from_string(raw).opset_import[0].version == 20


@given(st.binary(max_size=64))
def test_opset_of_any_bytes_raises_nothing(raw):
    assert opset_of(raw) is None or isinstance(opset_of(raw), int)


@pytest.mark.parametrize(("raw", "reason"), [(b"", "empty file"), (b"\xff\xd8\xff", "not an image"), (b"x" * 99, "not an image")])
def test_bytes_of_no_image_are_refused_with_the_reason(raw, reason, bundle):
    with pytest.raises(UnreadableImageError, match=reason):
        bundle.predict(raw)


def test_too_many_pixels_are_refused(bundle, val_files):
    with pytest.raises(UnreadableImageError, match="is more than 1,000 pixels"):
        bundle.predict(val_files[0].read_bytes(), max_pixels=1000)


def test_occlusion_map_is_the_mean_fall_at_each_pixel(bundle, val_files):
    raw = val_files[0].read_bytes()
    square = bundle.decode(raw)
    plain = bundle.predict(raw)
    total, times = np.zeros((32, 32)), np.zeros((32, 32))
    for top in (0, 12, 20):
        for left in (0, 12, 20):
            covered = square.copy()
            covered[top : top + 12, left : left + 12] = round(float(square.mean()))
            fall = plain.probabilities["NORMAL"] - bundle.predict_square(covered).probabilities["NORMAL"]
            total[top : top + 12, left : left + 12] += fall
            times[top : top + 12, left : left + 12] += 1
    found = occlusion_map(bundle, raw, patch=12, stride=12, label="NORMAL")
    assert found == pytest.approx(total / times, abs=1e-6)
    assert np.abs(found).max() > 0
