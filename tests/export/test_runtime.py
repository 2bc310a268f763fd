"""A bundle answers as the trained model does, and refuses to when a byte of it is not the one that was exported."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
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
from pneumonia.export.contract import CONTRACT, MODEL, OOD_DETECTOR
from pneumonia.export.contract_builder import chosen
from pneumonia.export.occlusion import occlusion_map
from pneumonia.export.onnx_header import opset_of
from pneumonia.export.runtime import Bundle, decide
from pneumonia.tasks import SUBTYPE


def test_a_bundle_answers_in_an_interpreter_that_has_imported_nothing_that_trains(bundle_dir, val_files):
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
    words = [sys.executable, "-c", code, str(bundle_dir), str(val_files[0])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("(32, 32)\n")


def test_every_validation_file_gets_the_probabilities_of_the_evaluation(bundle, evaluated, val_files):
    _, table = evaluated
    for path, row in zip(val_files, table.to_dict("records"), strict=True):
        answer = bundle.predict(path.read_bytes())
        assert answer.likeliest == row["predicted"]
        assert answer.raw == pytest.approx({name: row[f"prob_{name}"] for name in answer.raw}, abs=1e-5)


def _calibrated(evaluated, classes, temperature) -> np.ndarray:
    """Probabilities of the evaluated images after the temperature, computed without our code."""
    logits = np.log(evaluated[1][[f"prob_{name}" for name in classes]].to_numpy(np.float64))
    return softmax(logits / temperature, axis=1)


def test_thresholds_and_abstention_are_chosen_on_the_calibrated_scale(bundle, evaluated):
    report, table = evaluated
    contract = bundle.contract
    temperature = contract.calibration.temperature
    assert temperature == pytest.approx(report["calibration"]["temperature"], rel=1e-4)
    stated = _calibrated(evaluated, contract.classes, temperature)
    for point in contract.operating_points:
        if point.positive == "PNEUMONIA":
            score, truth = 1 - stated[:, 0], table["label"] != "NORMAL"
        else:
            score, truth = stated[:, contract.classes.index(point.positive)], table["label"] == point.positive
        reached = [value for value in score if recall_score(truth, score >= value) >= 0.95]
        assert point.threshold == pytest.approx(max(reached), abs=1e-9)
    confidence = stated.max(axis=1)
    least = max(value for value in confidence if (confidence >= value).mean() >= 0.9)
    assert contract.abstention.confidence == pytest.approx(least, abs=1e-9)
    answered = confidence >= least
    assert contract.abstention.coverage == answered.mean()
    assert contract.abstention.risk == pytest.approx(
        1 - accuracy_score(table["label"][answered], np.array(contract.classes)[stated[answered].argmax(axis=1)])
    )
    raw = table[[f"prob_{name}" for name in contract.classes]].to_numpy(np.float64).max(axis=1)
    assert contract.abstention.confidence != pytest.approx(np.sort(raw)[::-1][answered.sum() - 1], abs=1e-4)


def test_an_answer_is_on_the_calibrated_scale_but_for_its_raw_probabilities(bundle, evaluated, val_files):
    contract = bundle.contract
    stated = _calibrated(evaluated, contract.classes, contract.calibration.temperature)
    answers = bundle.answers([path.read_bytes() for path in val_files])
    for answer, expected in zip(answers, stated, strict=True):
        assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        assert answer.confidence == max(answer.probabilities.values())
        assert answer.confidence != pytest.approx(max(answer.raw.values()), abs=1e-4)
        assert answer.abstained == (answer.confidence < contract.abstention.confidence - 1e-5)
        decided = {
            point.positive: score >= point.threshold - 1e-5
            for point, score in zip(contract.operating_points, (1 - expected[0], *expected[1:]), strict=True)
        }
        silent = answer.abstained or answer.out_of_distribution
        assert answer.decisions == (dict.fromkeys(decided) if silent else decided)
        assert answer.label == (None if silent else answer.likeliest)
    assert {answer.abstained for answer in answers} == {True, False}


def test_an_image_out_of_distribution_gets_no_label_and_no_decision(bundle):
    answer = bundle.predict_square(np.full((32, 32), 90, dtype=np.uint8))
    assert answer.out_of_distribution
    assert answer.label is None
    assert set(answer.decisions.values()) == {None}
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.as_dict()["label"] is None


def test_order_of_images_by_calibrated_score_differs_so_thresholds_are_refitted():
    rng = np.random.default_rng(3)
    label = rng.integers(0, 3, 400)
    sharp = softmax(4 * (np.eye(3)[label] + rng.normal(0, 0.9, (400, 3))), axis=1)
    table = pd.DataFrame(sharp, columns=["prob_NORMAL", "prob_VIRUS", "prob_BACTERIA"])
    table["label"] = np.array(SUBTYPE.classes)[label]
    calibration, points, abstention = chosen(table, SUBTYPE, 0.5)
    assert calibration.temperature > 1.5
    stated = softmax(np.log(sharp) / calibration.temperature, axis=1)
    confidence = stated.max(axis=1)
    assert abstention.confidence == pytest.approx(np.sort(confidence)[::-1][199], abs=1e-6)
    answered, by_raw = confidence >= abstention.confidence, sharp.max(axis=1) >= np.sort(sharp.max(axis=1))[::-1][199]
    assert (answered != by_raw).any(), "other images are answered than by the uncalibrated scores"
    virus = next(point for point in points if point.positive == "VIRUS")
    assert recall_score(label == 1, stated[:, 1] >= virus.threshold - 1e-9) == pytest.approx(0.95, abs=0.01)


def test_calibrated_probabilities_are_the_logits_over_the_temperature(bundle, val_files):
    square = bundle.square(val_files[0].read_bytes())
    answer = bundle.predict_square(square)
    odds = np.exp(bundle.logits(square[None])[0].astype(np.float64) / bundle.contract.calibration.temperature)
    assert list(answer.probabilities.values()) == pytest.approx((odds / odds.sum()).tolist(), abs=1e-6)
    assert answer.calibrated
    assert answer.likeliest == max(answer.probabilities, key=answer.probabilities.get)


def test_validation_files_get_the_promised_sensitivity_and_coverage(bundle, evaluated, val_files):
    _, table = evaluated
    contract = bundle.contract
    answers = bundle.answers([path.read_bytes() for path in val_files])
    assert np.mean([not answer.abstained for answer in answers]) == pytest.approx(contract.abstention.coverage)
    for name in ("PNEUMONIA", "VIRUS", "BACTERIA"):
        truth = table["label"] != "NORMAL" if name == "PNEUMONIA" else table["label"] == name
        found = [
            decide(
                contract.operating_points, contract.classes, list(answer.probabilities.values()), contract.calibration
            )
            for answer in answers
        ]
        assert recall_score(truth, [one[name] for one in found]) >= 0.95


def test_several_files_get_the_very_answers_that_each_has_alone(bundle, val_files):
    raw = [path.read_bytes() for path in val_files[:5]]
    assert bundle.answers(raw) == [bundle.predict(one) for one in raw]


@pytest.mark.parametrize("name", [MODEL, OOD_DETECTOR])
def test_a_changed_byte_of_a_file_is_refused_by_the_name_of_the_file(name, bundle_dir, tmp_path):
    folder = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(TamperedBundleError, match=rf"{name} is not the file that was exported"):
        Bundle.load(folder)
    (folder / name).unlink()
    with pytest.raises(TamperedBundleError, match=rf"{name} can't be read"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", 9.0), ("threshold", 0.0), ("licence", "free for all"), ("passed", False)]
)
def test_a_changed_word_of_the_contract_breaks_its_seal(key, value, bundle_dir, tmp_path):
    def change(node):
        if isinstance(node, dict):
            return {k: value if k == key else change(v) for k, v in node.items()}
        return [change(v) for v in node] if isinstance(node, list) else node

    folder = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    plain = json.loads((folder / CONTRACT).read_text())
    assert change(plain) != plain
    (folder / CONTRACT).write_text(json.dumps(change(plain)))
    with pytest.raises(TamperedBundleError, match="was changed after it was exported"):
        Bundle.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', "[" * 100_000])
def test_a_contract_that_is_none_is_refused(text, bundle_dir, tmp_path):
    folder = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    (folder / CONTRACT).write_text(text)
    with pytest.raises(TamperedBundleError, match="Export the run again"):
        Bundle.load(folder)


def test_a_folder_that_is_no_bundle_says_so(tmp_path):
    with pytest.raises(BundleError, match="There is no bundle"):
        Bundle.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"holds no contract\.json"):
        Bundle.load(tmp_path)


def test_a_bundle_whose_parity_failed_is_refused(altered, bundle):
    with pytest.raises(ParityError, match="tells 3 images otherwise"):
        Bundle.load(altered(parity=replace(bundle.contract.parity, passed=False, changed=3)))


def test_a_contract_of_another_opset_is_refused(altered):
    with pytest.raises(BundleError, match="ONNX opset 17, and this version serves opset 20"):
        Bundle.load(altered(onnx={"opset": 17, "ir_version": 8}))


def test_a_bundle_measured_with_another_decoder_is_refused(altered, bundle):
    with pytest.raises(BundleError, match="the same file would give other pixels"):
        Bundle.load(altered(image=replace(bundle.contract.image, decoder="1")))


def test_a_contract_of_another_schema_is_refused(altered):
    with pytest.raises(BundleError, match="has schema 99, and this version reads 3"):
        Bundle.load(altered(schema=99))


def test_a_graph_of_another_opset_than_the_contract_says_is_refused(altered, bundle, bundle_dir):
    model = onnx.load(bundle_dir / MODEL)
    model.opset_import[0].version = 17
    raw = model.SerializeToString()
    folder = altered(files={**bundle.contract.files, MODEL: hashlib.sha256(raw).hexdigest()})
    (folder / MODEL).write_bytes(raw)
    with pytest.raises(BundleError, match=r"model\.onnx has ONNX opset 17"):
        Bundle.load(folder)


def test_a_graph_that_takes_something_else_than_the_contract_says_is_refused(altered, bundle):
    with pytest.raises(BundleError, match="not what its contract says: grey squares of 48 pixels"):
        Bundle.load(altered(image=replace(bundle.contract.image, size=48)))


def test_the_opset_is_read_as_the_onnx_package_reads_it(bundle_dir):
    raw = (bundle_dir / MODEL).read_bytes()
    assert opset_of(raw) == onnx.load_from_string(raw).opset_import[0].version == 20


@given(st.binary(max_size=64))
def test_no_bytes_break_the_reader_of_the_opset(raw):
    assert opset_of(raw) is None or isinstance(opset_of(raw), int)


@pytest.mark.parametrize(
    ("raw", "reason"), [(b"", "empty file"), (b"\xff\xd8\xff", "not an image"), (b"x" * 99, "not an image")]
)
def test_what_is_no_image_is_refused_with_the_reason(raw, reason, bundle):
    with pytest.raises(UnreadableImageError, match=reason):
        bundle.predict(raw)


def test_more_pixels_than_allowed_are_refused(bundle, val_files):
    with pytest.raises(UnreadableImageError, match="is more than 1,000 pixels"):
        bundle.predict(val_files[0].read_bytes(), max_pixels=1000)


def test_an_occlusion_map_is_the_mean_fall_over_the_covers_of_each_pixel(bundle, val_files):
    raw = val_files[0].read_bytes()
    square = bundle.square(raw)
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
