"""Whatever a contract was sealed with, it is loaded as it stands or refused by the name of the wrong field."""

import copy
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pneumonia.cli import main
from pneumonia.errors import BundleError, ParityError, TamperedBundleError
from pneumonia.export.contract import CONTRACT, MODEL, OOD_DETECTOR, read_contract
from pneumonia.export.contract_schema import FIELDS
from pneumonia.export.ood_detector import PROTOTYPES, SIDE, OodDetector
from pneumonia.export.runtime import Bundle

Place = tuple[str | int, ...]
MISSING = object()
INF = float("inf")
HUGE = 10**400
FIELD_CASES: list[tuple[Place, object, str]] = [
    (("schema",), True, "has schema True"),
    (("schema",), 1, "has schema 1, and this version reads 3"),
    (("schema",), 3.0, r"has schema 3\.0"),
    (("task",), "other", "task=.*one of subtype, pneumonia"),
    (("task",), "pneumonia", "classes=.*those of task=pneumonia"),
    (("classes",), [], "classes=.*list of 2"),
    (("classes",), ["NORMAL", "NORMAL", "VIRUS"], "classes=.*those of task=subtype"),
    (("classes",), ["VIRUS", "NORMAL", "BACTERIA"], "classes=.*those of task=subtype"),
    (("classes",), "NORMAL", "classes=.*must be a list"),
    (("classes", 0), "", r"classes\[0\]=.*text, not empty"),
    (("model", "name"), "../up", "model.name=.*without separators"),
    (("model", "run_id"), "x", "model.run_id="),
    (("model", "epoch"), 0, "model.epoch=0.*1 or more"),
    (("model", "seed"), 1.0, "model.seed="),
    (("model", "version"), "another/run", "model.version="),
    (("image", "size"), 0, "image.size=0.*from 8 to 2048"),
    (("image", "size"), HUGE, "image.size=1000"),
    (("image", "size"), True, "image.size=true"),
    (("image", "resize"), "evil", "image.resize=.*one of stretch, pad"),
    (("image", "channels"), 2, "image.channels=2.*1 or 3"),
    (("image", "normalisation", "scale"), 0, "image.normalisation.scale=0.*from 1e-06"),
    (("image", "normalisation", "method"), None, "image.normalisation.method=null"),
    (("image", "views"), ["none"], "image.views="),
    *(
        (("calibration", "temperature"), value, r"calibration.temperature=.*number from 0\.02 to 50")
        for value in (0, -1)
    ),
    *((("calibration", "temperature"), value, "calibration.temperature=") for value in (1e999, 1e-9, "1", True, HUGE)),
    (("calibration", "temperature"), None, "calibration.temperature without a reason"),
    (("calibration", "reason"), "none", "calibration.temperature with a reason"),
    (("calibration", "images"), 10**6, "calibration.images=1000000"),
    (("operating_points",), [], "operating_points="),
    (("operating_points", 0, "threshold"), 1.5, r"operating_points\[0\].threshold=1.5.*from 0 to 1"),
    (("operating_points", 0, "threshold"), float("nan"), r"operating_points\[0\].threshold=NaN"),
    (("image", "normalisation", "shift"), -INF, "image.normalisation.shift=-Infinity"),
    (("operating_points", 0, "positive"), "LUNG", "operating_points=.*one for each question"),
    (("operating_points", 1, "positive"), "BACTERIA", "operating_points=.*one for each question"),
    (("operating_points", 0, "sensitivity"), 0, r"operating_points\[0\].sensitivity=0"),
    (("abstention", "coverage"), 5, "abstention.coverage=5.* to 1"),
    (("abstention", "coverage"), 0.1, r"abstention.coverage=0\.1.*abstention.asked"),
    (("abstention", "risk"), None, "abstention with some of"),
    (("abstention", "confidence"), -0.1, "abstention.confidence="),
    (("ood_detector", "threshold"), 0, "ood_detector.threshold=0"),
    (("ood_detector", "threshold"), 2.1, "ood_detector.threshold="),
    (("ood_detector", "prototypes"), 1, "holds .* prototypes"),
    (("ood_detector", "side"), 12, "prototypes of 24 pixels"),
    (("ood_detector", "measured_on"), 0, "ood_detector.measured_on=0"),
    (("ood_detector", "false_alarms"), 10**6, "ood_detector.false_alarms=1000000.*at most ood_detector.measured_on"),
    (("ood_detector", "false_alarm_rate"), 0.7, "ood_detector.false_alarm_rate="),
    (("parity", "largest"), 0.5, "parity.passed=true with parity.largest=0.5"),
    (("parity", "changed"), 2, "parity.passed=true with parity.changed=2"),
    (("parity", "passed"), 1, "parity.passed=1.*true or false"),
    (("parity", "images"), "14", "parity.images="),
    (("data", "manifest_sha256"), "a" * 63, "data.manifest_sha256="),
    (("data", "train"), 0, "data.train=0"),
    (("data", "leaks"), [{"part": "val", "images": 3, "of": 2}], "data.leaks=3"),
    (("metrics", "val"), {}, "no metrics.val.accuracy"),
    (("metrics", "val", "accuracy"), "high", "metrics.val.accuracy="),
    (("metrics", "test"), {"images": 3}, "no metrics.test.patients"),
    (("licence",), "\u001b[2J", "licence=.*control characters"),
    (("licence",), "\ud800", "licence=.*control characters"),
    (("intended_use",), "", "intended_use="),
    (("limits",), [], "limits="),
    (("metrics", "val", "accuracy"), 5, r"metrics\.val\.accuracy=5, and it must be at most 1"),
    (("metrics", "val", "recall_macro"), -0.5, r"metrics\.val\.recall_macro=-0\.5"),
    (("metrics", "val", "auroc"), 9e18, r"metrics\.val\.auroc=9e\+18"),
    (("data", "val"), 1, r"parity\.images=\d+, and it must be data\.val=1"),
    (("data", "source"), "x" * 20_000, "data.source="),
    (
        ("ood_detector", "fitted_on"),
        1,
        r"ood_detector\.prototypes=\d+, and it must be at most ood_detector\.fitted_on=1",
    ),
    (("image", "normalisation", "scale"), 1e-320, "image.normalisation.scale="),
    (("parity", "largest_recorded"), 5, "parity.largest_recorded=5"),
    (("abstention", "asked"), 1e-320, "abstention.asked="),
    (("calibration", "images"), 0, r"calibration\.images=0, and it must be parity\.images"),
    (("warnings",), ["Mind the gap."], "warnings that are not among its limits"),
    (("caveat",), None, "caveat=null"),
    (("files",), {}, r"no files.model\.onnx"),
    (("files", MODEL), "0" * 64, "is not the file that was exported"),
    (("files", "../../etc/passwd"), "0" * 64, r"files\.\"../../etc/passwd\", which no contract has"),
    (("onnx", "opset"), 17, "ONNX opset 17"),
    (("onnx", "opset"), "20", "onnx.opset="),
    (("versions", "torch"), 2, "versions.torch=2"),
    (("versions", "a b"), "1", "versions.*must be a word"),
    (("extra",), 1, '"extra", which no contract has'),
    (("model",), None, "model=null.*an object"),
]


def _resealed(plain: dict) -> dict:
    """The contract under a seal that fits, computed as an attacker would from the outside."""
    kept = {key: value for key, value in plain.items() if key not in {"seal", "bundle_version"}}
    seal = hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return plain | {"seal": seal, "bundle_version": seal[:12]}


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
    """A bundle with another contract, sealed anew."""

    def build(place: Place, value: object) -> Path:
        folder = Path(shutil.copytree(bundle_dir, tmp_path / "forged"))
        plain = _put(json.loads((folder / CONTRACT).read_text()), place, value)
        (folder / CONTRACT).write_text(json.dumps(_resealed(plain)))
        return folder

    return build


@pytest.mark.parametrize(("place", "value", "message"), FIELD_CASES)
def test_a_wrong_field_under_a_new_seal_is_named(place, value, message, forged):
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.load(forged(place, value))
    assert "xport the run again" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [0, -1, 1e999])
def test_a_wrong_field_ends_the_command_with_code_2(value, forged, monkeypatch, capsys, val_files):
    folder = forged(("calibration", "temperature"), value)
    for words in (["predict", folder, val_files[0]], ["serve", folder, "--port", "0"]):
        monkeypatch.setattr(sys, "argv", ["pneumonia", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        assert stop.value.code == 2
        assert captured.out == ""
        assert "BundleError: " in captured.err
        assert "calibration.temperature=" in captured.err
        assert "Traceback" not in captured.err


def test_every_field_of_a_contract_has_a_shape_and_may_not_be_missing(bundle_dir, forged):
    plain = json.loads((bundle_dir / CONTRACT).read_text())
    assert set(plain) == set(FIELDS)
    own = {("metrics", "val"), ("versions",)}  # tables with keys of their own
    for number, place in enumerate(_places(plain)):
        if (
            place in {("seal",), ("bundle_version",)}
            or isinstance(place[-1], int)
            or (place[:-1] in own and place[-1] != "accuracy")
        ):
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
    | st.sampled_from(
        [0, -1, 1, 2, 0.5, 1.5, INF, -INF, HUGE, "", "evil", "NORMAL", "PNEUMONIA", "a" * 64, "\ud800", "\x00"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_under_a_new_seal_is_read_as_it_stands_or_refused(bundle_dir, tmp_path, data):
    plain = json.loads((bundle_dir / CONTRACT).read_text())
    place = data.draw(st.sampled_from(_places(plain)))
    changed = _put(plain, place, data.draw(st.just(MISSING) | JSON))
    if data.draw(st.booleans()):
        changed[data.draw(st.text(max_size=10))] = data.draw(JSON)
    folder = tmp_path / "bundle"
    if not folder.exists():
        shutil.copytree(bundle_dir, folder)
    changed = _resealed(changed)
    (folder / CONTRACT).write_text(json.dumps(changed))
    try:
        bundle = Bundle.load(folder)
    except BundleError:
        return
    assert bundle.contract.as_dict() == changed


def _edited(bundle_dir: Path, tmp_path: Path, raw: bytes) -> Path:
    folder = Path(shutil.copytree(bundle_dir, tmp_path / "edited"))
    (folder / CONTRACT).write_bytes(raw)
    return folder


def _text_cases(raw: bytes) -> dict[str, bytes]:
    return {
        "BOM": b"\xef\xbb\xbf" + raw,
        "UTF-16": raw.decode().encode("utf-16"),
        "latin-1": raw.replace(b"Research", b"R\xe9search"),
        "twice": raw.replace(b'"schema": 3,', b'"schema": 3, "schema": 3,'),
        "twice inside": raw.replace(b'"passed": ', b'"passed": false, "passed": '),
        "deep list": b"[" * 100_000 + b"]" * 100_000,
        "deep object": b'{"seal": 1, "schema": ' + b'{"a":' * 3000 + b"1" + b"}" * 3001,
        "digits": raw.replace(b'"size": 32', b'"size": ' + b"1" * 5000),
        "cut": raw[:-40],
        "more": raw + b"{}",
        "string": b'"seal schema"',
        "list": b'["seal", "schema"]',
        "long": raw + b" " * 2**21,
    }


@pytest.mark.parametrize("name", list(_text_cases(b"")))
def test_a_file_that_is_not_plain_json_is_refused(name, bundle_dir, tmp_path):
    raw = (bundle_dir / CONTRACT).read_bytes()
    edited = _text_cases(raw)[name]
    assert edited != raw
    with pytest.raises(TamperedBundleError, match=r"contract\.json .*Export the run again"):
        read_contract(_edited(bundle_dir, tmp_path, edited))


def test_a_bundle_version_of_another_seal_is_refused(bundle_dir, tmp_path):
    raw = (bundle_dir / CONTRACT).read_bytes()
    version = json.loads(raw)["bundle_version"].encode()
    edited = raw.replace(b'"bundle_version": "' + version, b'"bundle_version": "' + b"0" * 12)
    with pytest.raises(BundleError, match=r"bundle_version=.*first digits of the seal"):
        read_contract(_edited(bundle_dir, tmp_path, edited))


@pytest.mark.parametrize("name", [CONTRACT, MODEL, OOD_DETECTOR])
def test_a_pipe_in_the_place_of_a_file_is_refused(name, bundle_dir, tmp_path):
    folder = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(TamperedBundleError, match="it is no regular file"):
        Bundle.load(folder)


def test_a_contract_of_failed_parity_is_refused(forged):
    with pytest.raises(ParityError):
        Bundle.load(forged(("parity", "passed"), False))


def _with_file(bundle_dir: Path, tmp_path: Path, name: str, raw: bytes, prototypes: int | None = None) -> Path:
    """A bundle with another file, whose contract fits it."""
    folder = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    plain = json.loads((folder / CONTRACT).read_text())
    plain["files"][name] = hashlib.sha256(raw).hexdigest()
    if prototypes is not None:
        plain["ood_detector"]["prototypes"] = prototypes
    (folder / CONTRACT).write_text(json.dumps(_resealed(plain)))
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
def test_a_detector_that_is_none_is_refused(name, bundle_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TamperedBundleError, match=r"detector of the bundle is damaged .*Export the run again"):
        Bundle.load(_with_file(bundle_dir, tmp_path, OOD_DETECTOR, DETECTORS[name]()))
    assert not (tmp_path / "called").exists()


def test_another_detector_of_the_right_form_is_loaded(bundle_dir, tmp_path):
    raw = OodDetector(_unit(PROTOTYPES), 0.5).to_bytes()
    assert (
        len(Bundle.load(_with_file(bundle_dir, tmp_path, OOD_DETECTOR, raw, PROTOTYPES)).ood_detector.prototypes)
        == PROTOTYPES
    )


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
def test_a_graph_that_is_none_is_refused(name, bundle_dir, tmp_path):
    with pytest.raises(BundleError, match=r"(is not an ONNX model|refuses the graph|The graph).*Export the run again"):
        Bundle.load(_with_file(bundle_dir, tmp_path, MODEL, MODELS[name](bundle_dir)))


def test_a_contract_that_export_wrote_is_read_back_as_it_was(bundle, bundle_dir):
    assert read_contract(bundle_dir) == bundle.contract
    assert replace(bundle.contract, licence="another").sealed().seal != bundle.contract.seal
