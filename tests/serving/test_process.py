"""A service as a process: start and stop, signals, slow and greedy callers, TLS, logs, imports."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from pneumonia.cli import run
from pneumonia.cli.serve import bundle_folder, read_token
from pneumonia.errors import BundleError, ConfigError, ServiceError, TamperedBundleError

from .conftest import body_of, post, receive_all, serving, trusting, xray

TOKEN = "a-token-of-sixteen-or-more"
HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n%b\r\n"


def test_sigterm_lets_the_request_in_flight_finish(bundle_dir, bundle):
    raw = xray()
    with serving(bundle_dir, "--no-page") as process:
        prediction = post(process.url, raw).json()
        assert prediction["raw"] == bundle.predict(raw).raw
        with process.connect() as connection:
            connection.sendall(HEAD % (len(raw), b"X-Request-Id: late\r\n") + raw[:500])
            post(process.url, raw)  # by now the headers of the other request are read
            process.popen.send_signal(signal.SIGTERM)
            while not process.events("stopping"):
                process.popen.poll()
            connection.sendall(raw[500:])
            response = receive_all(connection)
        assert response.startswith(b"HTTP/1.1 200")
        assert body_of(response)["raw"] == prediction["raw"]
        assert process.popen.wait(timeout=60) == 0
    assert [line["event"] for line in process.lines][-1] == "stopped"
    assert process.unparsed == []


def test_ctrl_c_exits_with_130(bundle_dir):
    with serving(bundle_dir, "--no-page") as process:
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(timeout=60) == 130
    assert process.unparsed == []


def test_body_with_two_lengths_is_refused(process):
    with process.connect() as connection:
        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
        connection.sendall(head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        response = receive_all(connection)
    assert response.startswith(b"HTTP/1.1 400")
    assert "both Content-Length and Transfer-Encoding" in body_of(response)["reason"]


def test_slow_callers_get_408_and_delay_no_one(process):
    head = [process.connect() for _ in range(20)]
    body = [process.connect() for _ in range(20)]
    for connection in head:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\n")
    for connection in body:
        connection.sendall(HEAD % (1000, b"") + b"\xff\xd8\xff")
    assert post(process.url, xray()).status_code == 200
    for connection in head:
        response = receive_all(connection)
        assert response.startswith(b"HTTP/1.1 408 ")
        assert "headers" in body_of(response)["reason"]
    for connection in body:
        response = receive_all(connection)
        assert response.startswith(b"HTTP/1.1 408 ")
        assert "within 1 s" in body_of(response)["reason"]
    silent = process.connect()
    assert receive_all(silent).startswith(b"HTTP/1.1 408 ")


def test_second_request_of_a_connection_has_a_deadline(process):
    raw = xray()
    connection = process.connect()
    connection.sendall(HEAD % (len(raw), b"") + raw)
    assert connection.recv(10) == b"HTTP/1.1 2"
    connection.sendall(b"GET /ping HTT")
    assert b"HTTP/1.1 408 " in receive_all(connection)


@pytest.mark.parametrize("kind", [b"", b"Expect: 100-continue\r\n"])
def test_too_large_body_is_refused_before_it_is_read(kind, process):
    connection = process.connect()
    size = 5 * 2**20
    connection.sendall(HEAD % (size, kind))
    if not kind:
        connection.sendall(bytes(size))  # the whole of it, so that a reset would hide the response
    response = receive_all(connection)
    assert response.startswith(b"HTTP/1.1 413 ")
    assert "5,242,880 bytes" in body_of(response)["reason"]


def test_chunked_body_is_counted_as_it_arrives(process):
    connection = process.connect()
    connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(20):
        connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
    connection.sendall(b"0\r\n\r\n")
    response = receive_all(connection)
    assert response.startswith(b"HTTP/1.1 413 ")
    assert "more than 1,048,576 bytes" in body_of(response)["reason"]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 2_000_000,  # still on its way when it is refused
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
    ],
)
def test_invalid_http_is_refused_in_json(sent, process):
    connection = process.connect()
    connection.sendall(sent)
    response = receive_all(connection)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert body_of(response)["remedy"]


def test_caller_who_leaves_harms_no_one(process):
    for _ in range(5):
        with process.connect() as connection:
            connection.sendall(HEAD % (1000, b"") + b"\xff")
    assert post(process.url, xray()).status_code == 200


def test_too_many_requests_at_once_get_429(bundle_dir):
    many = json.dumps({"images": [base64.b64encode(xray()).decode()] * 60}).encode()
    with serving(bundle_dir, "--at-once", "1", "--no-page") as process, ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: post(process.url, many, "application/json"), range(16)))
        assert httpx.get(f"{process.url}/ping").status_code == 200
    codes = {response.status_code for response in responses}
    assert codes == {200, 429}
    late = next(response for response in responses if response.status_code == 429)
    assert late.headers["retry-after"] == "1"
    assert late.json()["error"] == "too_many_requests"


def test_response_past_the_time_limit_is_503(bundle_dir):
    many = json.dumps({"images": [base64.b64encode(xray()).decode()] * 64}).encode()
    with serving(bundle_dir, "--answer-s", "0.01", "--no-page") as process:
        response = post(process.url, many, "application/json")
    assert response.status_code == 503
    assert "within 0.01 s" in response.json()["reason"]


def test_logs_describe_requests_and_no_content(bundle_dir, tmp_path):
    raw = xray()
    (tmp_path / "token").write_text(TOKEN + "\n")
    with serving(bundle_dir, "--token-file", str(tmp_path / "token"), "--no-page") as process:
        response = post(process.url, raw, authorization=f"Bearer {TOKEN}", **{"x-request-id": "ward-7"})
        assert response.status_code == 200
        assert post(process.url, raw, authorization=f"Bearer {TOKEN}x").status_code == 401
        assert httpx.get(f"{process.url}/ping?token={TOKEN}").status_code == 200
        httpx.get(f"{process.url}/contract?token={TOKEN}")
        process.popen.terminate()
        assert process.popen.wait(timeout=60) == 0
    requests = process.events("request")
    assert requests[0] | {"time": "", "ms": 0} == {
        "time": "",
        "level": "info",
        "event": "request",
        "request_id": "ward-7",
        "method": "POST",
        "route": "/invocations",
        "status": 200,
        "ms": 0,
        "bytes": len(raw),
        "images": 1,
        "labels": [response.json()["label"]],
    }
    assert [line["status"] for line in requests] == [200, 401, 401]
    everything = json.dumps(process.lines)
    assert TOKEN not in everything
    assert base64.b64encode(raw[:30]).decode()[:20] not in everything


def test_tls_with_own_certificate(bundle_dir, certificate):
    pem, key = certificate
    with serving(bundle_dir, "--tls-cert", str(pem), "--tls-key", str(key), "--no-page", PNEUMONIA_TOKEN=TOKEN) as process:
        assert process.url.startswith("https://")
        headers = {"content-type": "image/jpeg", "authorization": f"Bearer {TOKEN}"}
        response = httpx.post(f"{process.url}/invocations", content=xray(), headers=headers, verify=trusting(pem))
        assert response.status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(process.url.replace("https", "http") + "/ping")


def test_serving_imports_no_training_library(bundle_dir, tmp_path):
    (tmp_path / "a.jpeg").write_bytes(xray())
    code = f"""
import asyncio, sys
from pneumonia.export.runtime import Bundle
from pneumonia.serving import page
from pneumonia.serving import server as run
from pneumonia.serving.app import Service
from pneumonia.serving.limits import Limits
service = Service(Bundle.load({str(bundle_dir)!r}), Limits())
raw = open({str(tmp_path / "a.jpeg")!r}, "rb").read()
asyncio.run(service.pool.predict(raw, "image/jpeg"))
asyncio.run(service.pool.explain(raw, "image/jpeg"))
page.example("virus")
heavy = {{"torch", "lightning", "hydra", "pandas", "matplotlib", "albumentations"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--port", "http"], "'http' is not a valid integer range"),
        (["--port", "65536"], "65536 is not in the range 0<=x<=65535"),
        (["--body-mib", "much"], "'--body-mib': 'much' is not a valid float"),
        (["--at-once", "2.5"], "'--at-once': '2.5' is not a valid integer"),
        (["--megapixels", "1000"], "--megapixels 1000 is more than the 8"),
        (["--at-once", "0"], "--at-once 0 is out of range"),
        (["--answer-s", "nan"], "--answer-s nan is out of range"),
        (["--body-mib", "200"], "--held-mib 128 is less than --body-mib 200"),
        (["--request-megapixels", "5"], "--request-megapixels 5 is less than --megapixels 25"),
        (["--tls-cert", "a.pem"], "go together"),
        (["--tls-cert", "a.pem", "--tls-key", "a.pem"], "There is no file a.pem"),
        (["--token-file", "no-such-file"], "no-such-file can't be read"),
    ],
)
def test_bad_options_are_refused(options, reason, bundle_dir):
    with pytest.raises(ConfigError, match=reason):
        run(["serve", str(bundle_dir), *options])


def test_invalid_key_is_refused(bundle_dir, certificate):
    pem = str(certificate[0])
    with pytest.raises(ConfigError, match="not a matching certificate and key"):
        run(["serve", str(bundle_dir), "--tls-cert", pem, "--tls-key", pem])


def test_address_in_use_is_named(bundle_dir):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        options = ["serve", str(bundle_dir), "--port", str(port), "--no-page"]
        done = subprocess.run([sys.executable, "-m", "pneumonia", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{ServiceError.__name__}: Can't listen on 127.0.0.1 port {port}" in done.stderr


def test_changed_bundle_is_not_served(bundle_dir, tmp_path):
    shutil.copytree(bundle_dir, tmp_path / "bundle")
    with (tmp_path / "bundle" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(TamperedBundleError, match="was changed after the export"):
        run(["serve", str(tmp_path / "bundle")])


def test_bundle_comes_from_argument_environment_or_sagemaker(tmp_path, monkeypatch):
    assert bundle_folder(Path("a")) == Path("a")
    monkeypatch.setattr("pneumonia.cli.serve.SAGEMAKER", tmp_path)
    assert bundle_folder(None) == tmp_path
    monkeypatch.setattr("pneumonia.cli.serve.SAGEMAKER", tmp_path / "none")
    with pytest.raises(ConfigError, match="No bundle is named"):
        bundle_folder(None)
    monkeypatch.setenv("PNEUMONIA_BUNDLE", str(tmp_path / "named"))
    with pytest.raises(BundleError, match=r"There is no bundle .*named"):
        run(["serve"])


@pytest.mark.parametrize("token", ["", "short", "sixteen letters with spaces", "sechzehn-buchstäben"])
def test_weak_or_unsendable_token_is_refused(token, tmp_path):
    (tmp_path / "token").write_text(token, encoding="utf-8")
    for path, environ in [(tmp_path / "token", {}), (None, {"PNEUMONIA_TOKEN": token})]:
        with pytest.raises(ConfigError, match="holds no valid token"):
            read_token(path, environ)
    assert read_token(None, {}) is None
    assert "PNEUMONIA_TOKEN" not in os.environ
