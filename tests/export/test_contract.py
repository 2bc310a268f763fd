"""A contract with a valid digest is loaded unchanged, or refused with the name of the wrong field."""

import copy
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pneumonia.cli import main
from pneumonia.errors import BundleError, ParityError, TamperedBundleError
from pneumonia.export.contract import CONTRACT, MODEL, OOD_DETECTOR, Contract
from pneumonia.export.contract_file import read_contract
from pneumonia.export.ood_detector import PROTOTYPES, SIDE, OodDetector
from pneumonia.export.runtime import Bundle

Place = tuple[str | int, ...]
MISSING = object()
INF = float("inf")
HUGE = 10**400
FIELD_CASES: list[tuple[Place, object, str]] = [
    (("schema_version",), True, "has schema_version True"),
    (("schema_version",), 2, "has schema_version 2; this version reads 3"),
    (("schema_version",), 3.0, r"has schema_version 3\.0"),
    (("schema_version",), MISSING, "has schema_version None"),
    (("task",), "pneumonia", "classes=.*those of task=pneumonia"),
    (("task",), "a/b", "task.name=a/b can't be a name"),
    (("task",), 3, "task=3.*string"),
    (("classes",), [], "classes=.*at least 2"),
    (("classes",), ["NORMAL", "NORMAL", "VIRUS"], "classes=.*those of task=subtype"),
    (("classes",), ["VIRUS", "NORMAL", "BACTERIA"], "classes=.*those of task=subtype"),
    (("classes",), "NORMAL", "classes=.*valid tuple"),
    (("classes", 0), "", r"classes\[0\]=.*not be blank"),
    (("model", "name"), "../up", "model.name=.*match pattern"),
    (("model", "name"), "..", "model.name="),
    (("model", "name"), "a\n", "model.name="),
    (("model", "run_id"), "x", "model.run_id="),
    (("model", "epoch"), 0, "model.epoch=0: .*greater than or equal to 1"),
    (("model", "seed"), 1.0, "model.seed="),
    (("model", "version"), "another/run", "model.version=.*not permitted"),
    (("preprocessing", "size"), 0, "preprocessing.size=0: .*greater than or equal to 8"),
    (("preprocessing", "size"), HUGE, "preprocessing.size=1000"),
    (("preprocessing", "size"), True, "preprocessing.size=true"),
    (("preprocessing", "resize"), "evil", "preprocessing.resize=.*one of stretch, pad"),
    (("preprocessing", "channels"), 2, "preprocessing.channels=2: .*one of 1, 3"),
    (("preprocessing", "normalisation", "scale"), 0, "preprocessing.normalisation.scale=0: .*0.000001"),
    (("preprocessing", "normalisation", "scale"), 1e-320, "preprocessing.normalisation.scale="),
    (("preprocessing", "normalisation", "shift"), -INF, "preprocessing.normalisation.shift=-Infinity"),
    (("preprocessing", "normalisation", "method"), None, "preprocessing.normalisation.method=null"),
    (("preprocessing", "tta"), ["none"], "preprocessing.tta="),
    (("calibration", "temperature"), 0, r"calibration.temperature=0: .*0\.02"),
    (("calibration", "temperature"), 51, "calibration.temperature=51: .*50"),
    *((("calibration", "temperature"), value, "calibration.temperature=") for value in (-1, 1e999, 1e-9, "1", True, HUGE)),
    (("calibration", "temperature"), None, "calibration: temperature should be given"),
    (("calibration", "reason"), "none", "calibration: temperature should be given without a reason"),
    (("calibration", "images"), 10**6, "calibration.images=1000000 should be parity.images"),
    (("calibration", "images"), 0, r"calibration\.images=0 should be parity\.images"),
    (("operating_points",), [], "operating_points="),
    (("operating_points", 0, "threshold"), 1.5, r"operating_points\[0\].threshold=1.5: .*less than or equal to 1"),
    (("operating_points", 0, "threshold"), float("nan"), r"operating_points\[0\].threshold=NaN"),
    (("operating_points", 0, "positive"), "LUNG", "operating_points=.*the questions of task"),
    (("operating_points", 1, "positive"), "BACTERIA", "operating_points=.*the questions of task"),
    (("operating_points", 0, "sensitivity"), 0, r"operating_points\[0\].sensitivity=0"),
    (("abstention", "target"), 1e-320, "abstention.target="),
    (("abstention", "coverage"), 5, "abstention.coverage=5: .* to 1"),
    (("abstention", "coverage"), 0.1, r"abstention: coverage=0\.1 should be at least target"),
    (("abstention", "risk"), None, "abstention: confidence, coverage, risk should be given"),
    (("abstention", "confidence"), -0.1, "abstention.confidence="),
    (("ood_detector", "threshold"), 0, "ood_detector.threshold=0"),
    (("ood_detector", "threshold"), 2.1, "ood_detector.threshold="),
    (("ood_detector", "prototypes"), 1, "holds .* prototypes"),
    (("ood_detector", "side"), 12, "prototypes of 24 pixels"),
    (("ood_detector", "measured_on"), 0, "ood_detector.measured_on=0"),
    (("ood_detector", "false_alarms"), 10**6, "ood_detector: false_alarms=1000000 should be at most measured_on"),
    (("ood_detector", "fitted_on"), 1, r"ood_detector: prototypes=\d+ should be at most fitted_on=1"),
    (("ood_detector", "false_alarm_rate"), 0.7, "ood_detector.false_alarm_rate=.*not permitted"),
    (("parity", "max_difference"), 0.5, "parity: passed=true contradicts max_difference=0.5"),
    (("parity", "changed_labels"), 2, "parity: passed=true contradicts .*changed_labels=2"),
    (("parity", "changed_labels_recorded"), 10**6, "parity: changed_labels_recorded=1000000 should be at most images"),
    (("parity", "passed"), 1, "parity.passed=1: .*boolean"),
    (("parity", "images"), "14", "parity.images="),
    (("parity", "max_difference_recorded"), 5, "parity.max_difference_recorded=5"),
    (("data", "manifest_sha256"), "a" * 63, "data.manifest_sha256="),
    (("data", "train"), 0, "data.train=0"),
    (("data", "val"), 1, r"parity\.images=\d+ should be data\.val=1"),
    (("data", "source"), "x" * 20_000, "data.source="),
    (
        ("data", "leaks"),
        [{"subset": "val", "images": 3, "total": 2}],
        r"data.leaks\[0\]: images=3 should be at most total=2",
    ),
    (("metrics", "val"), {}, "metrics: val.accuracy is missing"),
    (("metrics", "val", "accuracy"), "high", "metrics.val.accuracy="),
    (("metrics", "val", "accuracy"), 5, "metrics: accuracy=5.* should be at most 1"),
    (("metrics", "val", "recall_macro"), -0.5, r"metrics\.val\.recall_macro=-0\.5"),
    (("metrics", "val", "auroc"), 9e18, r"metrics: auroc=9e\+18 should"),
    (("metrics", "val", "a b"), 1, r"metrics\.val\.a b.*match pattern"),
    (("metrics", "test"), {"images": 3}, "metrics.test.patients: field required"),
    (("licence",), "\u001b[2J", "licence=.*control characters"),
    (("licence",), "\ud800", "licence="),
    (("intended_use",), "", "intended_use="),
    (("limitations",), [], "limitations="),
    (("warnings",), ["Predicts one class."], "warnings should be among the limitations"),
    (("caveat",), None, "caveat=null"),
    (("files",), {}, "files: .*at least 2"),
    (("files", MODEL), "0" * 64, "its SHA-256 is not that of the contract"),
    (("files", "../../etc/passwd"), "0" * 64, r"files\.\.\./\.\./etc/passwd"),
    (("onnx", "opset"), 17, "ONNX opset 17"),
    (("onnx", "opset"), "20", "onnx.opset="),
    (("versions", "torch"), 2, "versions.torch=2"),
    (("versions", "a b"), "1", r"versions\.a b.*match pattern"),
    (("extra",), 1, "extra=1: .*not permitted"),
    (("bundle_version",), "0" * 12, "bundle_version=.*not permitted"),
    (("model",), None, "model=null: .*valid dictionary"),
]


def _with_digest(plain: dict) -> dict:
    """The contract with a valid digest, computed as an attacker would, without our code."""
    kept = {key: value for key, value in plain.items() if key != "digest"}
    return plain | {"digest": hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()}


def _put(plain: dict, place: Place, value: object) -> dict:
    changed = copy.deepcopy(plain)
    node = changed
    for key in place[:-1]:
        node = node[key]
    if value is MISSING:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    return changed


def _places(node: object, place: Place = ()) -> list[Place]:
    """Every place in a JSON value, inner ones too."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, value in inside for found in [(*place, key), *_places(value, (*place, key))]]


@pytest.fixture
def forged(bundle_dir, tmp_path):
    """A bundle with another contract and a valid digest."""

    def build(place: Place, value: object) -> Path:
        folder = Path(shutil.copytree(bundle_dir, tmp_path / "forged"))
        plain = _put(json.loads((folder / CONTRACT).read_text()), place, value)
        (folder / CONTRACT).write_text(json.dumps(_with_digest(plain)))
        return folder

    return build


@pytest.mark.parametrize(("place", "value", "message"), FIELD_CASES)
def test_wrong_field_is_named(place, value, message, forged):
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.load(forged(place, value))
    assert "xport the run again" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [0, -1, 1e999])
def test_wrong_field_exits_with_2(value, forged, monkeypatch, capsys, val_files):
    folder = forged(("calibration", "temperature"), value)
    for arguments in (["predict", folder, val_files[0]], ["serve", folder, "--port", "0"]):
        monkeypatch.setattr(sys, "argv", ["pneumonia", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        assert stop.value.code == 2
        assert captured.out == ""
        assert "BundleError: " in captured.err
        assert "calibration.temperature=" in captured.err
        assert "Traceback" not in captured.err


def test_missing_field_is_refused(bundle_dir, forged):
    plain = json.loads((bundle_dir / CONTRACT).read_text())
    assert set(plain) == set(Contract.model_fields)
    optional = {("metrics", "val"), ("versions",)}  # their keys are free
    for number, place in enumerate(_places(plain)):
        if place == ("digest",) or isinstance(place[-1], int) or (place[:-1] in optional and place[-1] != "accuracy"):
            continue
        folder = forged(place, MISSING)
        with pytest.raises(BundleError):
            Bundle.load(folder)
        folder.rename(folder.with_name(str(number)))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([0, -1, 1, 2, 0.5, 1.5, INF, -INF, HUGE, "", "evil", "NORMAL", "PNEUMONIA", "a" * 64, "\ud800", "\x00"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_is_read_unchanged_or_refused(bundle_dir, tmp_path, data):
    plain = json.loads((bundle_dir / CONTRACT).read_text())
    place = data.draw(st.sampled_from(_places(plain)))
    changed = _put(plain, place, data.draw(st.just(MISSING) | JSON))
    if data.draw(st.booleans()):
        changed[data.draw(st.text(max_size=10))] = data.draw(JSON)
    folder = tmp_path / "bundle"
    if not folder.exists():
        shutil.copytree(bundle_dir, folder)
    changed = _with_digest(changed)
    (folder / CONTRACT).write_text(json.dumps(changed))
    try:
        bundle = Bundle.load(folder)
    except BundleError:
        return
    assert bundle.contract.model_dump(mode="json") == changed


def _edited(bundle_dir: Path, tmp_path: Path, raw: bytes) -> Path:
    folder = Path(shutil.copytree(bundle_dir, tmp_path / "edited"))
    (folder / CONTRACT).write_bytes(raw)
    return folder


def _text_cases(raw: bytes) -> dict[str, bytes]:
    return {
        "BOM": b"\xef\xbb\xbf" + raw,
        "UTF-16": raw.decode().encode("utf-16"),
        "latin-1": raw.replace(b"Research", b"R\xe9search"),
        "twice": raw.replace(b'"schema_version": 3,', b'"schema_version": 3, "schema_version": 3,'),
        "twice inside": raw.replace(b'"passed": ', b'"passed": false, "passed": '),
        "deep list": b"[" * 100_000 + b"]" * 100_000,
        "deep object": b'{"schema_version": 3, "digest": 1, "x": ' + b'{"a":' * 3000 + b"1" + b"}" * 3001,
        "digits": raw.replace(b'"size": 32', b'"size": ' + b"1" * 5000),
        "cut": raw[:-40],
        "more": raw + b"{}",
        "string": b'"digest schema_version"',
        "list": b'["digest", "schema_version"]',
        "long": raw + b" " * 2**21,
    }


@pytest.mark.parametrize("name", list(_text_cases(b"")))
def test_file_that_is_not_plain_json_is_refused(name, bundle_dir, tmp_path):
    raw = (bundle_dir / CONTRACT).read_bytes()
    edited = _text_cases(raw)[name]
    assert edited != raw
    with pytest.raises(TamperedBundleError, match=r"contract\.json .*Export the run again"):
        read_contract(_edited(bundle_dir, tmp_path, edited))


@pytest.mark.parametrize("name", [CONTRACT, MODEL, OOD_DETECTOR])
def test_pipe_instead_of_a_file_is_refused(name, bundle_dir, tmp_path):
    folder = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(TamperedBundleError, match="it is no regular file"):
        Bundle.load(folder)


def test_failed_parity_is_refused(forged):
    with pytest.raises(ParityError):
        Bundle.load(forged(("parity", "passed"), False))


def _with_file(bundle_dir: Path, tmp_path: Path, name: str, raw: bytes, prototypes: int | None = None) -> Path:
    """A bundle with another file and its hash in the contract."""
    folder = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    plain = json.loads((folder / CONTRACT).read_text())
    plain["files"][name] = hashlib.sha256(raw).hexdigest()
    if prototypes is not None:
        plain["ood_detector"]["prototypes"] = prototypes
    (folder / CONTRACT).write_text(json.dumps(_with_digest(plain)))
    (folder / name).write_bytes(raw)
    return folder


def _unit(count: int, side: int = SIDE) -> np.ndarray:
    drawn = np.random.default_rng(0).normal(size=(count, side * side))
    drawn -= drawn.mean(axis=1, keepdims=True)
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def _npz(array: np.ndarray, name: str = "prototypes", pickled: bool = False) -> bytes:
    raw = io.BytesIO()
    np.savez(raw, allow_pickle=pickled, **{name: array})
    return raw.getvalue()


class _Call:
    def __reduce__(self):
        return os.mkdir, ("called",)


def _zip(content: bytes, name: str = "prototypes.npy", method: int = zipfile.ZIP_STORED) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", method) as archive:
        archive.writestr(name, content)
    return raw.getvalue()


def _header(shape: tuple[int, ...], data: bytes = b"") -> bytes:
    raw = io.BytesIO()
    np.lib.format.write_array_header_1_0(raw, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return raw.getvalue() + data


DETECTORS = {
    "NaN": lambda: _npz(_unit(3) * np.float32("nan")),
    "infinity": lambda: _npz(_unit(3) * np.float32("inf")),
    "length": lambda: _npz(_unit(3) * 2),
    "mean": lambda: _npz(np.full((3, SIDE * SIDE), 1 / SIDE, dtype=np.float32)),
    "none": lambda: _npz(_unit(0)),
    "too many": lambda: _npz(_unit(PROTOTYPES + 1)),
    "side": lambda: _npz(_unit(3, 12)),
    "flat": lambda: _npz(_unit(3).ravel()),
    "double": lambda: _npz(_unit(3).astype(np.float64)),
    "whole": lambda: _npz(_unit(3).astype(np.int32)),
    "columns": lambda: _npz(np.asfortranarray(_unit(3))),
    "text": lambda: _npz(np.array([["a" * 8] * SIDE**2])),
    "objects": lambda: _npz(np.array([_Call()], dtype=object), pickled=True),
    "other name": lambda: _npz(_unit(3), "x"),
    "a pickle": lambda: pickle.dumps(_Call()),
    "a pickle inside": lambda: _zip(pickle.dumps(_Call())),
    "an array alone": lambda: _zip(b"")[:0] + np.lib.format.magic(1, 0),
    "empty": lambda: b"",
    "huge header": lambda: _zip(_header((10**12, SIDE * SIDE))),
    "header alone": lambda: _zip(_header((3, SIDE * SIDE))),
    "more than its header": lambda: _zip(_header((1, SIDE * SIDE), _unit(2).tobytes())),
    "a bomb": lambda: _zip(_header((3, SIDE * SIDE), bytes(2**27)), method=zipfile.ZIP_DEFLATED),
    "strange compression": lambda: _zip(_header((3, SIDE * SIDE), _unit(3).tobytes()), method=zipfile.ZIP_LZMA)[:-60],
}


@pytest.mark.parametrize("name", DETECTORS)
def test_invalid_detector_is_refused(name, bundle_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TamperedBundleError, match=r"detector of the bundle is damaged .*Export the run again"):
        Bundle.load(_with_file(bundle_dir, tmp_path, OOD_DETECTOR, DETECTORS[name]()))
    assert not (tmp_path / "called").exists()


def test_valid_detector_is_loaded(bundle_dir, tmp_path):
    raw = OodDetector(_unit(PROTOTYPES), 0.5).to_bytes()
    assert len(Bundle.load(_with_file(bundle_dir, tmp_path, OOD_DETECTOR, raw, PROTOTYPES)).ood_detector.prototypes) == PROTOTYPES


def _changed_model(bundle_dir: Path, change) -> bytes:
    model = onnx.load(bundle_dir / MODEL)
    change(model)
    return model.SerializeToString()


def _undefined(model: onnx.ModelProto) -> None:
    heaviest = max(model.graph.initializer, key=lambda entry: len(entry.raw_data))
    heaviest.raw_data = np.full(len(heaviest.raw_data) // 4, np.nan, np.float32).tobytes()


def _one_image(model: onnx.ModelProto) -> None:
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_value = 1


MODELS = {
    "empty": lambda folder: b"",
    "text": lambda folder: b"no model at all",
    "a pickle": lambda folder: pickle.dumps({"a": 1}),
    "cut": lambda folder: (folder / MODEL).read_bytes()[:2000],
    "the detector": lambda folder: (folder / OOD_DETECTOR).read_bytes(),
    "undefined weights": lambda folder: _changed_model(folder, _undefined),
    "one image alone": lambda folder: _changed_model(folder, _one_image),
}


@pytest.mark.parametrize("name", MODELS)
def test_invalid_graph_is_refused(name, bundle_dir, tmp_path):
    with pytest.raises(BundleError, match=r"(is not an ONNX model|refuses the graph|The graph).*Export the run again"):
        Bundle.load(_with_file(bundle_dir, tmp_path, MODEL, MODELS[name](bundle_dir)))


def test_exported_contract_is_read_unchanged(bundle, bundle_dir):
    assert read_contract(bundle_dir) == bundle.contract
    changed = bundle.contract.model_copy(update={"licence": "another"})
    assert changed.with_digest().digest != bundle.contract.digest
