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
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.bundle.answers import Bundle
from pneumonia.bundle.contract import CONTRACT, GATE, MODEL
from pneumonia.bundle.occlusion import occlusion_map
from pneumonia.bundle.onnx_header import opset_of
from pneumonia.data.images import UnreadableImageError
from pneumonia.errors import BundleError, ParityError, TamperedBundleError


def test_a_bundle_answers_in_an_interpreter_that_has_imported_nothing_that_trains(bundle_dir, val_files):
    code = (
        "import sys\n"
        "from pneumonia.bundle.answers import Bundle\n"
        "from pneumonia.bundle.occlusion import occlusion_map\n"
        "raw = open(sys.argv[2], 'rb').read()\n"
        "bundle = Bundle.load(sys.argv[1])\n"
        "print(bundle.answer(raw).label, occlusion_map(bundle, raw).shape)\n"
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
        answer = bundle.answer(path.read_bytes())
        assert answer.label == row["predicted"]
        assert answer.raw == pytest.approx({name: row[f"prob_{name}"] for name in answer.raw}, abs=1e-5)


def test_temperature_thresholds_and_abstention_are_those_of_the_evaluation(bundle, evaluated):
    report, _ = evaluated
    contract = bundle.contract
    assert contract.calibration.temperature == pytest.approx(report["calibration"]["temperature"], rel=1e-4)
    assert {point.positive: point.threshold for point in contract.operating_points} == pytest.approx(
        {point["positive"]: point["threshold"] for point in report["operating_points"]}, abs=1e-6
    )
    at_90 = next(point for point in report["abstention"]["points"] if point["asked"] == 0.9)
    assert contract.abstention.confidence == pytest.approx(at_90["confidence"], abs=1e-6)
    assert contract.abstention.coverage == at_90["coverage"]
    assert contract.abstention.risk == pytest.approx(at_90["risk"]["value"])


def test_calibrated_probabilities_are_the_logits_over_the_temperature(bundle, val_files):
    square = bundle.square(val_files[0].read_bytes())
    answer = bundle.answer_square(square)
    odds = np.exp(bundle.logits(square[None])[0].astype(np.float64) / bundle.contract.calibration.temperature)
    assert list(answer.probabilities.values()) == pytest.approx((odds / odds.sum()).tolist(), abs=1e-6)
    assert answer.calibrated
    assert answer.label == max(answer.probabilities, key=answer.probabilities.get)


def test_on_the_validation_files_the_decisions_have_the_promised_sensitivity_and_coverage(bundle, evaluated, val_files):
    _, table = evaluated
    answers = bundle.answers([path.read_bytes() for path in val_files])
    assert np.mean([not answer.abstained for answer in answers]) == pytest.approx(bundle.contract.abstention.coverage)
    for name in ("PNEUMONIA", "VIRUS", "BACTERIA"):
        truth = table["label"] != "NORMAL" if name == "PNEUMONIA" else table["label"] == name
        found = [answer.decisions[name] for answer, true in zip(answers, truth, strict=True) if true]
        assert np.mean(found) >= 0.95


def test_several_files_get_the_very_answers_that_each_has_alone(bundle, val_files):
    raw = [path.read_bytes() for path in val_files[:5]]
    assert bundle.answers(raw) == [bundle.answer(one) for one in raw]


@pytest.mark.parametrize("name", [MODEL, GATE])
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
    with pytest.raises(BundleError, match="has schema 99"):
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
        bundle.answer(raw)


def test_more_pixels_than_allowed_are_refused(bundle, val_files):
    with pytest.raises(UnreadableImageError, match="is more than 1,000 pixels"):
        bundle.answer(val_files[0].read_bytes(), max_pixels=1000)


def test_an_occlusion_map_is_the_mean_fall_over_the_covers_of_each_pixel(bundle, val_files):
    raw = val_files[0].read_bytes()
    square = bundle.square(raw)
    plain = bundle.answer(raw)
    total, times = np.zeros((32, 32)), np.zeros((32, 32))
    for top in (0, 12, 20):
        for left in (0, 12, 20):
            covered = square.copy()
            covered[top : top + 12, left : left + 12] = round(float(square.mean()))
            fall = plain.probabilities["NORMAL"] - bundle.answer_square(covered).probabilities["NORMAL"]
            total[top : top + 12, left : left + 12] += fall
            times[top : top + 12, left : left + 12] += 1
    found = occlusion_map(bundle, raw, patch=12, stride=12, label="NORMAL")
    assert found == pytest.approx(total / times, abs=1e-6)
    assert np.abs(found).max() > 0
