"""The routes of the Open Inference Protocol: the protocol's schemas, a client of it, the service's own limits."""

import base64
import json
import logging

import cv2
import httpx
import jsonschema
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pneumonia.serving.limits import Limits
from pneumonia.serving.open_inference import RequestInput, _squares

from .conftest import serving, xray

TOKEN = "a-token-of-sixteen-or-more"
TENSOR_DATA = {
    "type": "array",
    "items": {"anyOf": [{"$ref": "#/$defs/data"}, {"type": ["number", "string", "boolean"]}]},
}
TENSOR = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "datatype": {"enum": ["BOOL", "UINT8", "UINT16", "INT32", "INT64", "FP32", "FP64", "BYTES"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["name", "datatype", "shape"],
}
# The published schemas of the protocol (open_inference_rest.yaml, version 2.0), without descriptions and examples.
SCHEMAS = {
    "server": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "version": {"type": "string"},
            "extensions": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "version", "extensions"],
    },
    "model": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "versions": {"type": "array", "items": {"type": "string"}},
            "platform": {"type": "string"},
            "inputs": {"type": "array", "items": TENSOR},
            "outputs": {"type": "array", "items": TENSOR},
        },
        "required": ["name", "platform", "inputs", "outputs"],
    },
    "response": {
        "type": "object",
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": {
                "type": "array",
                "items": {
                    **TENSOR,
                    "properties": {**TENSOR["properties"], "data": {"$ref": "#/$defs/data"}},
                    "required": [*TENSOR["required"], "data"],
                },
            },
        },
        "required": ["model_name", "outputs"],
    },
    "error": {
        "type": "object",
        "properties": {"error": {"type": "string"}},
        "required": ["error"],
        "additionalProperties": False,
    },
}


def check(response: httpx.Response, schema: str) -> dict:
    """Return the body of a response after its validation against a schema of the protocol."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    jsonschema.validate(body, {**SCHEMAS[schema], "$defs": {"data": TENSOR_DATA}})
    return body


def assert_refused(response: httpx.Response, status: int, *parts: str) -> None:
    assert response.status_code == status, response.text
    message = check(response, "error")["error"]
    for part in parts:
        assert part in message


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def of_files(*files: bytes, **fields: object) -> dict:
    return {
        "inputs": [{"name": "images", "datatype": "BYTES", "shape": [len(files)], "data": [text(raw) for raw in files]}],
        **fields,
    }


def of_pixels(pixels: np.ndarray, datatype: str = "UINT8", flat: bool = True) -> dict:
    data = (pixels.ravel() if flat else pixels).tolist()
    return {"inputs": [{"name": "images", "datatype": datatype, "shape": list(pixels.shape), "data": data}]}


def tensors(body: dict) -> dict[str, np.ndarray]:
    return {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in body["outputs"]}


@pytest.fixture(scope="module")
def model(bundle) -> str:
    return f"/v2/models/{bundle.contract.model.name}"


@pytest.fixture(scope="module")
def infer(client, model):
    def send(body: object, **headers: str) -> httpx.Response:
        return client.post(f"{model}/infer", content=json.dumps(body), headers=headers)

    return send


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_server_metadata_has_the_published_schema(path, client):
    body = check(client.get(path), "server")
    assert body["name"] == "pneumonia"
    assert body["extensions"] == []


def test_health_needs_no_token_and_is_not_logged(client_of, caplog, model):
    guarded = client_of(token=TOKEN)
    caplog.set_level("INFO", logger="pneumonia.serving")
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert guarded.get(path).json() == {"live": True, "ready": True}
        assert guarded.head(path).status_code == 200
    assert not caplog.records
    assert_refused(guarded.get(model), 401, "unauthorized: A token is required")
    assert_refused(guarded.post(f"{model}/infer", json={}), 401, "none was sent")
    assert guarded.get(f"{model}/ready", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_model_metadata_has_the_published_schema(client, model, bundle):
    contract = bundle.contract
    body = check(client.get(model), "model")
    assert body == check(client.get(f"{model}/versions/{contract.model.run_id}"), "model")
    assert body["versions"] == [contract.model.run_id]
    assert [(one["name"], one["datatype"], one["shape"]) for one in body["inputs"]] == [("images", "BYTES", [-1])]
    size = contract.preprocessing.size
    assert f"[-1,1,{size},{size}]" in body["inputs"][0]["parameters"]["also"]
    for path in (f"{model}/ready", f"{model}/versions/{contract.model.run_id}/ready"):
        assert client.get(path).json() == {"name": contract.model.name, "ready": True}


@pytest.mark.parametrize("end", ["", "/ready", "/infer"])
def test_unknown_model_and_version_are_404(end, client, model, bundle):
    method = "POST" if end == "/infer" else "GET"
    run_id = bundle.contract.model.run_id
    assert_refused(client.request(method, f"/v2/models/other{end}"), 404, "There is no model 'other'", bundle.contract.model.name)
    assert_refused(client.request(method, f"/v2/models/other/versions/{run_id}{end}"), 404, "There is no model 'other'")
    assert_refused(client.request(method, f"{model}/versions/1{end}"), 404, "There is no version '1'", run_id)
    assert_refused(client.request("PUT", f"{model}{end}"), 405, "method_not_allowed: ")
    assert_refused(client.get("/v2/nothing"), 404, "not_found: ")


@pytest.mark.parametrize("versioned", [False, True])
def test_files_get_the_predictions_of_the_bundle(versioned, client, model, bundle, files):
    path = f"{model}/versions/{bundle.contract.model.run_id}" if versioned else model
    raws = list(files.values())
    body = check(client.post(f"{path}/infer", json=of_files(*raws, id="a-1")), "response")
    assert body["id"] == "a-1"
    assert (body["model_name"], body["model_version"]) == (bundle.contract.model.name, bundle.contract.model.run_id)
    assert body["parameters"] == {"bundle_version": bundle.contract.bundle_version}
    expected = [bundle.predict(raw) for raw in raws]
    found = tensors(body)
    assert found["probabilities"].tolist() == [list(one.probabilities.values()) for one in expected]
    assert found["raw"].tolist() == [list(one.raw.values()) for one in expected]
    assert found["label"].tolist() == [one.label or "" for one in expected]
    assert found["classes"].tolist() == list(bundle.contract.classes)
    for name in ("confidence", "abstained", "out_of_distribution", "ood_score"):
        assert found[name].tolist() == [getattr(one, name) for one in expected]
    declared = {one["name"]: one for one in client.get(model).json()["outputs"]}
    for one in body["outputs"]:
        assert one["datatype"] == declared[one["name"]]["datatype"]
        assert [len(raws) if side == -1 else side for side in declared[one["name"]]["shape"]] == one["shape"]


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_grey_levels_get_the_prediction_of_their_file(datatype, flat, infer, bundle):
    raws = [xray(), xray(seed=6)]
    squares = np.stack([bundle.decode(raw) for raw in raws])[:, None]
    pixels = squares if datatype == "UINT8" else squares.astype(np.float32)
    body = check(infer(of_pixels(pixels, datatype, flat)), "response")
    expected = [list(bundle.predict(raw).probabilities.values()) for raw in raws]
    assert tensors(body)["probabilities"].tolist() == expected
    assert "id" not in body


def test_only_requested_outputs_are_returned(infer):
    asked = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    body = check(infer(of_files(xray(), outputs=asked, parameters={"other": 1})), "response")
    assert [one["name"] for one in body["outputs"]] == ["label", "probabilities"]


def test_out_of_distribution_image_gets_an_empty_label(infer):
    blank = cv2.imencode(".png", np.full((64, 64), 90, dtype=np.uint8))[1].tobytes()
    found = tensors(check(infer(of_files(blank)), "response"))
    assert found["out_of_distribution"].tolist() == [True]
    assert found["label"].tolist() == [""]


def changed(**fields: object) -> dict:
    body = of_files(xray())
    body["inputs"][0] |= fields
    return body


GREY = np.zeros((1, 1, 32, 32), np.uint8)
BAD = {
    "no inputs": ({}, 400, "inputs: Field required"),
    "a list": ([], 400, "Not an inference request: the body"),
    "an empty list of inputs": ({"inputs": []}, 400, "has the inputs none"),
    "two inputs": ({"inputs": of_files(xray())["inputs"] * 2}, 400, "'images', 'images'; the model takes one"),
    "another input": (changed(name="pixels"), 400, "inputs 'pixels'"),
    "another output": (of_files(xray(), outputs=[{"name": "logits"}]), 400, "no output 'logits'"),
    "no data": ({"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1]}]}, 400, "binary tensor data extension"),
    "binary size": (changed(data=[], parameters={"binary_data_size": 9}), 400, "binary tensor data extension"),
    "a shape of text": (changed(shape=["1"]), 400, "inputs.0.shape.0: Input should be a valid integer"),
    "an id of a number": (of_files(xray(), id=3), 400, "id: Input should be a valid string"),
    "a long id": (of_files(xray(), id="x" * 1001), 400, "at most 1000 characters"),
    "another datatype": (changed(datatype="INT64"), 400, "datatype 'INT64', which is not supported. Send UINT8 or FP32"),
    "no images": (changed(shape=[0], data=[]), 400, "shape [0]; [B] or [B,1]"),
    "files in a square": (changed(shape=[1, 2]), 400, "shape [1,2]; [B] or [B,1]"),
    "a shape without end": (changed(shape=[1] * 10_000), 400, "shape [1,1,1,1,1,1,...]"),
    "fewer files than its shape": (changed(shape=[2]), 400, "1 elements; its shape [2] has 2"),
    "65 files": (changed(shape=[65], data=["AA=="] * 65), 413, "65 images in one request; the limit is 64"),
    "a shape of a million": (changed(shape=[10**6]), 413, "1000000 images"),
    "not base64": (changed(data=["x x"]), 422, "images[0] is not base64"),
    "a number as a file": (changed(data=[3]), 422, "images[0] is not a string"),
    "a gif": (of_files(xray(), b"GIF89a" + bytes(200)), 415, "images[1]: The bytes are no JPEG"),
    "half a jpeg": (of_files(xray(), xray()[:4000]), 422, "images[1]: The image can't be read"),
    "another size": (of_pixels(np.zeros((1, 1, 8, 8), np.uint8)), 400, "shape [1,1,8,8]; the model takes [B,1,32,32]"),
    "three channels": (of_pixels(np.zeros((1, 3, 32, 32), np.uint8)), 400, "the model takes [B,1,32,32]"),
    "no channel": (of_pixels(GREY[0]), 400, "shape [1,32,32]"),
    "65 squares": (of_pixels(np.zeros((65, 1, 32, 32), np.uint8)), 413, "65 images"),
    "too few pixels": (changed(datatype="UINT8", shape=[1, 1, 32, 32], data=[1, 2]), 400, "have 2 elements; its shape"),
    "ragged": (changed(datatype="UINT8", shape=[1, 1, 32, 32], data=[[1], 2]), 400, "not nested as the shape"),
    "text as pixels": (changed(datatype="UINT8", shape=[1, 1, 32, 32], data=["7"] * 1024), 400, "not all numbers"),
    "a list among pixels": (changed(datatype="UINT8", shape=[1, 1, 32, 32], data=[*[1] * 1023, [1]]), 400, "not all numbers"),
    "a huge number": (changed(datatype="UINT8", shape=[1, 1, 32, 32], data=[10**400] * 1024), 400, "not all numbers"),
    "above white": (of_pixels(GREY + 256.0, "FP32"), 400, "whole grey levels from 0 to 255"),
    "negative": (of_pixels(GREY.astype(int) - 1), 400, "whole grey levels from 0 to 255"),
    "scaled to 1": (of_pixels(GREY + 0.5, "FP32"), 400, "normalisation is part of the model"),
    "nan": (of_pixels(GREY + np.nan, "FP32"), 400, "whole grey levels from 0 to 255"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_reason(case, infer):
    body, status, reason = BAD[case]
    assert_refused(infer(body), status, reason)


def test_bodies_of_other_kinds_are_refused(client, model):
    path = f"{model}/infer"
    assert_refused(client.post(path, content=b""), 400, "bad_request: The body is empty")
    assert_refused(client.post(path, content=b"{"), 400, "not JSON")
    assert_refused(client.post(path, content=b'{"inputs": [], "inputs": []}'), 422, "one key twice")
    assert_refused(client.post(path, content=b"[" * 100_000), 400, "too deeply nested")
    assert_refused(client.post(path, content=xray(), headers={"content-type": "image/jpeg"}), 415, "not supported here")
    assert_refused(client.post(path, content=b"{}", headers={"content-encoding": "gzip"}), 415, "Content-Encoding")
    header = {"inference-header-content-length": "2"}
    assert_refused(client.post(path, content=b"{}", headers=header), 400, "binary tensor data extension", "binary_data=False")


def test_limits_of_the_service_hold(client_of, model):
    small = client_of(body_mib=0.05, held_mib=0.05, images=2, megapixels=0.01, request_megapixels=0.01)
    path = f"{model}/infer"
    assert_refused(small.post(path, content=bytes(60_000)), 413, "request_entity_too_large: The body has 60,000 bytes")
    assert_refused(small.post(path, json=of_files(b"a", b"b", b"c")), 413, "3 images in one request; the limit is 2")
    assert_refused(small.post(path, json=of_files(xray())), 413, "images[0]: The image has")
    full = client_of(at_once=1)
    full.app._in_flight = 1
    assert_refused(full.post(path, json={}), 429, "too_many_requests: 1 requests are in flight")
    tensor = RequestInput(name="images", datatype="UINT8", shape=[2, 1, 300, 300], data=[])
    with pytest.raises(Exception, match="180,000 pixels together"):
        _squares(tensor, 300, Limits(megapixels=0.1, request_megapixels=0.1))


def test_metrics_and_logs_name_the_template_of_the_path(client_of, model, caplog, monkeypatch):
    client = client_of()
    logger = logging.getLogger("pneumonia.serving")
    monkeypatch.setattr(logger, "disabled", False)  # a test of another program's logging may have disabled it
    caplog.set_level("INFO", logger="pneumonia.serving")
    client.post(f"{model}/infer", json=of_files(xray(), xray()))
    client.post("/v2/models/unknown/infer", json={})
    samples = [one for family in text_string_to_metric_families(client.get("/metrics").text) for one in family.samples]
    requests = {
        (one.labels["route"], one.labels["status"]): one.value for one in samples if one.name == "pneumonia_requests_total"
    }
    assert requests["/v2/models/{name}/infer", "200"] == 1
    assert requests["other", "404"] == 1
    assert sum(one.value for one in samples if one.name == "pneumonia_images_total") == 2
    fields = caplog.records[0].fields
    assert (fields["route"], fields["images"], len(fields["labels"])) == ("/v2/models/{name}/infer", 2, 2)


def test_client_of_the_protocol_predicts(client, bundle, files):
    openapi = pytest.importorskip("open_inference.openapi.client", reason="the client of the protocol is not installed")
    types = pytest.importorskip("open_inference.openapi.types")
    errors = pytest.importorskip("open_inference.openapi.errors")
    caller = openapi.OpenInferenceClient(base_url="http://testserver", httpx_client=client)
    api_error = pytest.importorskip("open_inference.openapi.core.api_error")
    contract = bundle.contract
    name, version = contract.model.name, contract.model.run_id
    caller.check_server_liveness()
    caller.check_server_readiness()
    caller.check_model_readiness(name)
    caller.check_model_version_readiness(name, version)
    assert caller.read_server_metadata().name == "pneumonia"
    described = caller.read_model_metadata(name)
    assert described == caller.read_model_version_metadata(name, version)
    given = described.inputs[0]
    raws = list(files.values())
    data = types.TensorData(__root__=[text(raw) for raw in raws])
    tensor = types.RequestInput(name=given.name, shape=[len(raws)], datatype=given.datatype, data=data)
    response = caller.model_infer(name, request=types.InferenceRequest(id="7", inputs=[tensor]))
    assert response.id == "7"
    assert [one.name for one in response.outputs] == [one.name for one in described.outputs]
    probabilities = np.array(response.outputs[0].data.__root__).reshape(response.outputs[0].shape)
    assert probabilities.tolist() == [list(bundle.predict(raw).probabilities.values()) for raw in raws]
    with pytest.raises(api_error.ApiError, match=r"status_code: 404.*There is no model 'other'"):
        caller.model_infer("other", request=types.InferenceRequest(inputs=[tensor]))
    bad = types.RequestInput(name=given.name, shape=[1], datatype="FP16", data=data)
    with pytest.raises(errors.BadRequestError, match="datatype 'FP16'"):
        caller.model_infer(name, request=types.InferenceRequest(inputs=[bad]))


def test_tritonclient_predicts(bundle_dir, bundle):
    http = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed", exc_type=ImportError)
    contract = bundle.contract
    with serving(bundle_dir, "--no-page") as process, http.InferenceServerClient(process.url.removeprefix("http://")) as caller:
        assert caller.is_server_live()
        assert caller.is_server_ready()
        assert caller.is_model_ready(contract.model.name, contract.model.run_id)
        assert caller.get_model_metadata(contract.model.name)["platform"] == "onnx_onnxv1"
        tensor = http.InferInput("images", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text(xray()).encode()], dtype=object), binary_data=False)
        found = caller.infer(contract.model.name, [tensor])
        expected = np.array([list(bundle.predict(xray()).probabilities.values())], np.float32)
        assert found.as_numpy("probabilities") == pytest.approx(expected, abs=1e-7)
        assert found.as_numpy("classes").tolist() == list(contract.classes)
        tensor.set_data_from_numpy(np.array([xray()], dtype=object), binary_data=True)
        with pytest.raises(http.InferenceServerException, match="binary tensor data extension"):
            caller.infer(contract.model.name, [tensor])
