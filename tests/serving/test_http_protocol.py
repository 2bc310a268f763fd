"""Responses of a service in this process: predictions of the bundle, problems with a reason."""

import base64
import gzip
import io
import json
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from builders import dicom
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from pneumonia.data.images.decode import read_header, read_image
from pneumonia.export.occlusion import occlusion_map
from pneumonia.serving.problem import Problem
from pneumonia.serving.routes import count_images
from pneumonia.serving.telemetry import Metrics

from .conftest import xray

TOKEN = "a-token-of-sixteen-or-more"


def post(client: TestClient, raw: bytes, kind: str = "image/jpeg", **headers: str):
    return client.post("/invocations", content=raw, headers={"content-type": kind, **headers})


def as_json(client: TestClient, value: object):
    return post(client, json.dumps(value).encode(), "application/json")


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def assert_problem(response, status: int, reason: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error", "reason", "remedy"}
    assert reason in body["reason"]
    assert body["remedy"]
    assert response.headers["x-request-id"]


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG with this size in its header, whatever it holds."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def zipped() -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("run.sh", "echo")
    return raw.getvalue()


def jpeg_of_size(width: int, height: int) -> bytes:
    """A valid JPEG with another size in its header."""
    raw = bytearray(xray())
    place = raw.index(b"\xff\xc0")
    raw[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(raw)


def gif() -> bytes:
    return b"GIF89a" + bytes(200)


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "application/dicom"])
def test_raw_bytes_get_the_prediction_of_the_bundle(kind, client, files, bundle):
    response = post(client, files[kind], kind)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body.pop("ms") > 0
    assert body == json.loads(json.dumps(bundle.predict(files[kind]).model_dump()))
    assert sum(body["probabilities"].values()) == pytest.approx(1, abs=1e-6)


def test_json_gives_an_object_or_a_list(client, files, bundle):
    expected = {kind: bundle.predict(raw).model_dump() for kind, raw in files.items()}
    one = as_json(client, {"image": text(files["image/png"])}).json()
    assert one["probabilities"] == expected["image/png"]["probabilities"]
    many = as_json(client, {"images": [text(raw) for raw in files.values()]}).json()
    assert [body["raw"] for body in many["predictions"]] == [expected[kind]["raw"] for kind in files]
    assert many["bundle_version"] == bundle.contract.bundle_version
    assert many["ms"] > 0
    assert len(as_json(client, {"images": [text(xray())]}).json()["predictions"]) == 1


def test_content_type_may_have_parameters_and_aliases(client, files):
    assert post(client, files["image/jpeg"], "Image/JPG; charset=binary").status_code == 200
    assert post(client, b'{"image": "%s"}' % text(xray()).encode(), "application/json; charset=utf-8").status_code == 200


BAD = {
    "empty": (b"", "image/jpeg", 400, "empty (0 bytes)"),
    "octet stream": (xray(), "application/octet-stream", 415, "application/octet-stream"),
    "form": (b"a=b", "application/x-www-form-urlencoded", 415, "is not supported"),
    "png body to be jpeg": (xray(kind=".png"), "image/jpeg", 415, "is image/jpeg, and the bytes are image/png"),
    "jpeg body to be dicom": (xray(), "application/dicom", 415, "the bytes are image/jpeg"),
    "gif": (gif(), "image/png", 415, "no JPEG, PNG or DICOM"),
    "bmp": (xray(kind=".bmp"), "image/jpeg", 415, "no JPEG, PNG or DICOM"),
    "text": (b"hello", "image/jpeg", 415, "begin with b'hello'"),
    "half a jpeg": (xray()[:4000], "image/jpeg", 422, "cut short"),
    "half a png": (xray(kind=".png")[:4000], "image/png", 422, "cut short"),
    "half a dicom": (dicom(np.zeros((64, 64), np.uint16))[:1000], "application/dicom", 422, "can't be read"),
    "magic alone": (b"\xff\xd8\xff", "image/jpeg", 422, "cut short"),
    "jpeg and zip": (xray() + zipped(), "image/jpeg", 422, "appended"),
    "png and zip": (xray(kind=".png") + zipped(), "image/png", 422, "appended"),
    "dicom and program": (b"MZ" + dicom(np.zeros((64, 64), np.uint16))[2:], "application/dicom", 415, "something else"),
    "dicom and html": (b"<html>" + dicom(np.zeros((64, 64), np.uint16))[6:], "application/dicom", 415, "b'<'"),
    "100 megapixels": (png_of(10_000, 10_000), "image/png", 413, "pixels"),
    "bomb": (png_of(60_000, 60_000), "image/png", 413, "pixels"),
    "over our own limit": (png_of(6_000, 6_000), "image/png", 413, "6000x6000 pixels"),
    "0 x 0 png": (png_of(0, 0), "image/png", 422, "can't be read"),
    "0 x 0 jpeg": (jpeg_of_size(0, 0), "image/jpeg", 422, "can't be read"),
    "jpeg of 64 thousand pixels a side": (jpeg_of_size(65_000, 65_000), "image/jpeg", 413, "pixels"),
    "png whose rows are missing": (png_of(400, 400), "image/png", 422, "broken or cut short"),
    "3 x 3": (cv2.imencode(".png", np.zeros((3, 3), np.uint8))[1].tobytes(), "image/png", 422, "too small"),
    "a thousand scans": (xray()[:-2] + b"\xff\xda" * 1000 + b"\xff\xd9", "image/jpeg", 422, "scans"),
    "dicom in colour": (
        dicom(np.zeros((64, 64), np.uint8), PhotometricInterpretation="RGB"),
        "application/dicom",
        422,
        "RGB",
    ),
    "not json": (b"{", "application/json", 400, "not JSON"),
    "not utf-8": (b"\xff\xfe{", "application/json", 400, "not JSON"),
    "deep json": (b"[" * 100_000, "application/json", 400, "not JSON"),
    "a list": (b"[]", "application/json", 422, "one key"),
    "both keys": (b'{"image": "", "images": []}', "application/json", 422, "one key"),
    "one key twice": (b'{"image": "AA", "image": "BB"}', "application/json", 422, "one key twice"),
    "no images": (b'{"images": []}', "application/json", 422, "at least one"),
    "a number": (b'{"image": 3}', "application/json", 422, "not a string"),
    "not base64": (b'{"image": "data:image/png;base64,AA"}', "application/json", 422, "not base64"),
    "letters beyond ascii": ('{"image": "ä"}'.encode(), "application/json", 422, "not base64"),
    "empty image": (b'{"image": ""}', "application/json", 422, "empty"),
    "a number too long to read": (b'{"image": ' + b"1" * 5000 + b"}", "application/json", 400, "not JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_reason(case, client):
    raw, kind, status, reason = BAD[case]
    assert_problem(post(client, raw, kind), status, reason)


def test_repeated_header_is_refused(client_of):
    twice = [("authorization", f"Bearer {name}") for name in ("a", "b")]
    assert_problem(client_of(token="a" * 16).get("/contract", headers=twice), 400, "more than one header authorization")


def test_error_names_are_the_same_on_every_python():
    names = {status: json.loads(Problem(status, "", "").body)["error"] for status in (400, 413, 415, 422, 503)}
    assert names == {
        400: "bad_request",
        413: "request_entity_too_large",
        415: "unsupported_media_type",
        422: "unprocessable_entity",
        503: "service_unavailable",
    }


def test_bad_image_of_several_is_named(client):
    assert_problem(as_json(client, {"images": [text(xray()), text(xray()[:3000])]}), 422, "images[1]: ")
    assert_problem(as_json(client, {"images": [text(xray()), text(png_of(400, 400))]}), 422, "images[1]: ")


def test_missing_content_type_is_refused(client):
    assert_problem(client.post("/invocations", content=xray()), 415, "no Content-Type")


ROUTES = {
    "/ping": "GET, HEAD",
    "/contract": "GET, HEAD",
    "/metrics": "GET, HEAD",
    "/docs": "GET, HEAD",
    "/docs/swagger-ui.js": "GET, HEAD",
    "/openapi.json": "GET, HEAD",
    "/": "GET, HEAD",
    "/page.js": "GET, HEAD",
    "/examples/virus": "GET, HEAD",
    "/invocations": "POST",
    "/explanation": "POST",
}


@pytest.mark.parametrize("path", ROUTES)
def test_every_405_names_the_allowed_methods(path, paged):
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
        response = paged.request(method, path)
        if method in ROUTES[path].split(", "):
            assert response.status_code != 405, method
        else:
            assert response.status_code == 405, method
            assert response.headers["allow"] == ROUTES[path]
            if method != "HEAD":
                assert_problem(response, 405, "method not allowed")


@pytest.mark.parametrize("path", [path for path in ROUTES if "GET" in ROUTES[path]])
def test_head_is_get_without_a_body(path, paged):
    head, get = paged.head(path), paged.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    if path != "/metrics":  # which count this request
        assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("path", ["/nothing", "/ping/", "/docs/swagger-ui.css.map", "/%00"])
def test_unknown_path_is_a_problem_in_json(path, paged):
    for method in ("GET", "POST", "DELETE"):
        assert_problem(paged.request(method, path), 404, "not found")


def test_too_many_images_or_bytes_are_refused(client_of):
    small = client_of(images=2, body_mib=0.02, held_mib=0.02)
    assert_problem(as_json(small, {"images": ["AA==", "AA==", "AA=="]}), 413, "3 images")
    assert_problem(post(small, bytes(30_000)), 413, "30,000 bytes")

    def chunks():
        for _ in range(40):
            yield bytes(1000)

    assert_problem(post(small, chunks()), 413, "more than 20,971 bytes")


def test_pixels_of_a_request_are_counted_before_decoding(client_of, monkeypatch):
    small = client_of(megapixels=1, request_megapixels=1)
    decoded = []
    monkeypatch.setattr("pneumonia.export.runtime.Bundle.decode", lambda *_: decoded.append(1))
    assert_problem(as_json(small, {"images": [text(png_of(600, 600))] * 3}), 413, "1,080,000 pixels together")
    assert not decoded


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", ["/invocations", "/explanation", "/ping", "/", "/nothing", "/gradio_api/upload"])
def test_bodies_are_limited_on_every_route_and_method(method, path, client_of, monkeypatch):
    monkeypatch.setattr("pneumonia.serving.middleware.LINGER_S", 0.01)  # this client does not wait for a response
    small = client_of(body_mib=0.02, held_mib=0.02)

    def chunks():
        for _ in range(40):
            yield bytes(1000)

    assert_problem(small.request(method, path, content=bytes(30_000)), 413, "30,000 bytes")
    assert_problem(small.request(method, path, content=chunks()), 413, "more than 20,971 bytes")
    metrics = text_string_to_metric_families(small.get("/metrics").text)
    assert {one.value for family in metrics for one in family.samples if one.name == "pneumonia_held_bytes"} == {0}


def test_compressed_body_is_refused(client):
    body = {"content-type": "image/jpeg", "content-encoding": "gzip"}
    assert_problem(client.post("/invocations", content=gzip.compress(xray()), headers=body), 415, "Content-Encoding 'gzip'")


def test_every_route_but_ping_requires_the_token(client_of):
    client = client_of(token=TOKEN)
    assert client.get("/ping").status_code == 200
    for path in ("/metrics", "/contract", "/openapi.json", "/docs", "/"):
        assert_problem(client.get(path), 401, "none was sent")
    assert_problem(post(client, xray(), authorization="Bearer wrong"), 401, "wrong")
    assert_problem(post(client, xray(), authorization="Basic !"), 401, "wrong")
    assert_problem(post(client, xray(), authorization="Negotiate abc"), 401, "none was sent")
    response = post(client, xray())
    assert response.headers.get_list("www-authenticate")[0].startswith("Bearer")
    assert post(client, xray(), authorization=f"Bearer {TOKEN}").status_code == 200
    assert client.get("/contract", auth=("anyone", TOKEN)).status_code == 200


def test_contract_and_versions_are_served(client, bundle):
    assert client.get("/contract").json() == bundle.contract.model_dump(mode="json")
    assert client.head("/ping").status_code == 200, "load balancers use HEAD"
    body = client.get("/ping").json()
    assert body["bundle_version"] == bundle.contract.bundle_version
    assert body["model_version"] == bundle.contract.model.version


def test_openapi_page_names_every_status_and_loads_nothing_from_elsewhere(client):
    schema = client.get("/openapi.json").json()
    operation = schema["paths"]["/invocations"]["post"]
    assert {"200", "400", "401", "408", "413", "415", "422", "429", "503"} <= set(operation["responses"])
    assert set(operation["requestBody"]["content"]) == {
        "image/jpeg",
        "image/png",
        "application/dicom",
        "application/json",
    }
    page = client.get("/docs").text
    assert "//cdn" not in page
    assert "https://" not in page
    assert client.get("/docs/swagger-ui.js").headers["content-type"].startswith("text/javascript")
    assert set(schema["paths"]["/explanation"]["post"]["requestBody"]["content"]) == {
        "image/jpeg",
        "image/png",
        "application/dicom",
    }


def test_metrics_count_requests_and_images_by_label(client_of, bundle):
    client = client_of()
    label = bundle.predict(xray()).label or "none"
    for _ in range(2):
        post(client, xray())
    post(client, b"")
    client.get("/no/such/path")
    found = {
        (
            sample.name,
            *(sample.labels[key] for key in ("route", "status", "label") if key in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }
    assert found["pneumonia_requests_total", "/invocations", "200"] == 2
    assert found["pneumonia_requests_total", "/invocations", "400"] == 1
    assert found["pneumonia_requests_total", "other", "404"] == 1
    assert found["pneumonia_images_total", label] == 2
    assert found["pneumonia_held_bytes",] == 0


def test_out_of_distribution_image_gets_no_label(client_of):
    client = client_of()
    blank = cv2.imencode(".png", np.full((64, 64), 90, dtype=np.uint8))[1].tobytes()
    response = post(client, blank, "image/png").json()
    assert response["out_of_distribution"]
    assert response["label"] is None
    assert set(response["decisions"].values()) == {None}
    assert response["confidence"] == max(response["probabilities"].values())
    assert 'label="none",out_of_distribution="true"} 1.0' in client.get("/metrics").text


def test_request_id_is_kept_if_harmless(client):
    assert client.get("/ping", headers={"x-request-id": "ward-7.x_1"}).headers["x-request-id"] == "ward-7.x_1"
    for bad in ("a b", "x" * 65, '{"a":1}', ""):
        assert client.get("/ping", headers={"x-request-id": bad}).headers["x-request-id"] != bad


def test_content_security_policy_forbids_foreign_and_inline_code(paged):
    for path in (*ROUTES, "/nothing"):
        policy = paged.get(path).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "http" not in policy
        assert "unsafe-eval" not in policy
        assert ("unsafe-inline" in policy) == (path == "/docs")
        for directive in ("frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"):
            assert directive in policy


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "application/dicom"])
def test_explanation_shows_the_image_and_the_occlusion_map(kind, client, files, bundle):
    raw = files[kind]
    response = client.post("/explanation", content=raw, headers={"content-type": kind})
    assert response.status_code == 200, response.text
    body = response.json()
    probabilities = bundle.predict(raw).probabilities
    assert body["explained_class"] == max(probabilities, key=probabilities.get)
    image, heat = (cv2.imdecode(np.frombuffer(base64.b64decode(body[name]), np.uint8), -1) for name in ("image", "heat_map"))
    header = read_header(raw)
    assert max(image.shape) == 512
    assert image.shape[1] / image.shape[0] == pytest.approx(header.width / header.height, rel=0.01)
    assert heat.shape == (*image.shape, 4)
    expected = cv2.resize(read_image(raw)[1].pixels, image.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - expected).mean() < 4
    found = occlusion_map(bundle, raw)
    assert body["largest_fall"] == pytest.approx(max(found.max(), 0))
    assert body["largest_rise"] == pytest.approx(max(-found.min(), 0))
    top, left = np.unravel_index(found.argmax(), found.shape)
    size = len(found)
    red = heat[int((top + 0.5) / size * heat.shape[0]), int((left + 0.5) / size * heat.shape[1])]
    assert red[2] > red[0], "covering the most important place lowers the probability, shown in red"


@pytest.mark.parametrize("case", [case for case in BAD if BAD[case][1] != "application/json"])
def test_explanation_refuses_bad_input_too(case, client):
    raw, kind, status, reason = BAD[case]
    assert_problem(client.post("/explanation", content=raw, headers={"content-type": kind}), status, reason)


def test_explanation_refuses_json(client):
    raw = json.dumps({"image": text(xray())}).encode()
    assert_problem(
        client.post("/explanation", content=raw, headers={"content-type": "application/json"}),
        415,
        "is not supported here",
    )


def test_images_without_a_label_are_counted_as_none(bundle):
    metrics = Metrics("a", "b")
    abstained = {"label": None, "abstained": True, "out_of_distribution": False}
    count_images(metrics, [bundle.predict(xray()).model_copy(update=abstained)])
    assert 'abstained="true",label="none",out_of_distribution="false"} 1.0' in metrics.text().decode()
