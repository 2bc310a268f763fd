"""What only a process shows: start and end, signals, slow and greedy callers, TLS, logs, what is imported."""

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

from pneumonia.cli.serve import bundle_folder, read_token, run
from pneumonia.errors import ConfigError, ServiceError, TamperedBundleError

from .conftest import all_of, body_of, film, post, serving, trusting

TOKEN = "a-token-of-sixteen-or-more"
HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n%b\r\n"


def test_it_answers_as_the_bundle_does_and_finishes_what_is_in_flight_after_sigterm(bundle_dir, bundle):
    raw = film()
    with serving(bundle_dir, "--no-page") as process:
        said = post(process.url, raw).json()
        assert said["raw"] == bundle.predict(raw).raw
        with process.connect() as connection:
            connection.sendall(HEAD % (len(raw), b"X-Request-Id: late\r\n") + raw[:500])
            post(process.url, raw)  # by now the other's headers are read
            process.popen.send_signal(signal.SIGTERM)
            while not process.events("stopping"):
                process.popen.poll()
            connection.sendall(raw[500:])
            answer = all_of(connection)
        assert answer.startswith(b"HTTP/1.1 200")
        assert body_of(answer)["raw"] == said["raw"]
        assert process.popen.wait(timeout=60) == 0
    assert [line["event"] for line in process.lines][-1] == "stopped"
    assert process.strange == []


def test_ctrl_c_ends_it_too(bundle_dir):
    with serving(bundle_dir, "--no-page") as process:
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(timeout=60) == 130
    assert process.strange == []


def test_a_body_with_two_lengths_is_refused(process):
    with process.connect() as connection:
        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
        connection.sendall(head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert "both Content-Length and Transfer-Encoding" in body_of(answer)["reason"]


def test_slow_callers_are_turned_away_and_no_one_waits_for_them(process):
    head = [process.connect() for _ in range(20)]
    body = [process.connect() for _ in range(20)]
    for connection in head:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\n")
    for connection in body:
        connection.sendall(HEAD % (1000, b"") + b"\xff\xd8\xff")
    assert post(process.url, film()).status_code == 200
    for connection in head:
        answer = all_of(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert "headers" in body_of(answer)["reason"]
    for connection in body:
        answer = all_of(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert "within 1 s" in body_of(answer)["reason"]
    silent = process.connect()
    assert all_of(silent).startswith(b"HTTP/1.1 408 ")


def test_a_second_request_of_a_connection_has_its_deadline_too(process):
    raw = film()
    connection = process.connect()
    connection.sendall(HEAD % (len(raw), b"") + raw)
    assert connection.recv(10) == b"HTTP/1.1 2"
    connection.sendall(b"GET /ping HTT")
    assert b"HTTP/1.1 408 " in all_of(connection)


@pytest.mark.parametrize("kind", [b"", b"Expect: 100-continue\r\n"])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(kind, process):
    connection = process.connect()
    size = 5 * 2**20
    connection.sendall(HEAD % (size, kind))
    if not kind:
        connection.sendall(bytes(size))  # the whole of it, so that a reset would hide the answer
    answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert "5,242,880 bytes" in body_of(answer)["reason"]


def test_a_chunked_body_is_counted_as_it_comes(process):
    connection = process.connect()
    connection.sendall(
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(20):
        connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
    connection.sendall(b"0\r\n\r\n")
    answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert "more than 1,048,576 bytes" in body_of(answer)["reason"]


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 2_000_000,  # still on its way when it is refused
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
    ],
)
def test_what_is_not_http_is_refused_in_json(said, process):
    connection = process.connect()
    connection.sendall(said)
    answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert body_of(answer)["remedy"]


def test_a_caller_who_leaves_harms_no_one(process):
    for _ in range(5):
        with process.connect() as connection:
            connection.sendall(HEAD % (1000, b"") + b"\xff")
    assert post(process.url, film()).status_code == 200


def test_one_more_than_are_taken_at_once_is_told_to_come_back(bundle_dir):
    many = json.dumps({"images": [base64.b64encode(film()).decode()] * 60}).encode()
    with serving(bundle_dir, "--at-once", "1", "--no-page") as process, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(process.url, many, "application/json"), range(16)))
        assert httpx.get(f"{process.url}/ping").status_code == 200
    codes = {answer.status_code for answer in answers}
    assert codes == {200, 429}
    late = next(answer for answer in answers if answer.status_code == 429)
    assert late.headers["retry-after"] == "1"
    assert late.json()["error"] == "too_many_requests"


def test_no_answer_in_time_is_said_so(bundle_dir):
    many = json.dumps({"images": [base64.b64encode(film()).decode()] * 64}).encode()
    with serving(bundle_dir, "--answer-s", "0.01", "--no-page") as process:
        answer = post(process.url, many, "application/json")
    assert answer.status_code == 503
    assert "within 0.01 s" in answer.json()["reason"]


def test_logs_tell_of_requests_and_give_nothing_away(bundle_dir, tmp_path):
    raw = film()
    (tmp_path / "token").write_text(TOKEN + "\n")
    with serving(bundle_dir, "--token-file", str(tmp_path / "token"), "--no-page") as process:
        answer = post(process.url, raw, authorization=f"Bearer {TOKEN}", **{"x-request-id": "ward-7"})
        assert answer.status_code == 200
        assert post(process.url, raw, authorization=f"Bearer {TOKEN}x").status_code == 401
        assert httpx.get(f"{process.url}/ping?token={TOKEN}").status_code == 200
        httpx.get(f"{process.url}/contract?token={TOKEN}")
        process.popen.terminate()
        assert process.popen.wait(timeout=60) == 0
    asked = process.events("request")
    assert asked[0] | {"time": "", "ms": 0} == {
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
        "labels": [answer.json()["label"]],
    }
    assert [line["status"] for line in asked] == [200, 401, 401]
    everything = json.dumps(process.lines)
    assert TOKEN not in everything
    assert base64.b64encode(raw[:30]).decode()[:20] not in everything


def test_tls_with_files_of_ones_own(bundle_dir, certificate):
    pem, key = certificate
    with serving(
        bundle_dir, "--tls-cert", str(pem), "--tls-key", str(key), "--no-page", PNEUMONIA_TOKEN=TOKEN
    ) as process:
        assert process.url.startswith("https://")
        headers = {"content-type": "image/jpeg", "authorization": f"Bearer {TOKEN}"}
        answer = httpx.post(f"{process.url}/invocations", content=film(), headers=headers, verify=trusting(pem))
        assert answer.status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(process.url.replace("https", "http") + "/ping")


def test_no_training_library_is_imported_to_answer(bundle_dir, tmp_path):
    (tmp_path / "a.jpeg").write_bytes(film())
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
    ("words", "reason"),
    [
        (["--port", "http"], "Port http is none"),
        (["--port", "65536"], "Port 65536"),
        (["--body-mib", "much"], "--body-mib much is not a number"),
        (["--at-once", "2.5"], "--at-once 2.5 is not a whole number"),
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
def test_words_that_make_no_service_are_refused(words, reason, bundle_dir):
    with pytest.raises(ConfigError, match=reason):
        run([str(bundle_dir), *words])


def test_a_key_that_is_none_is_refused(bundle_dir, certificate):
    pem = str(certificate[0])
    with pytest.raises(ConfigError, match="no certificate and key that fit together"):
        run([str(bundle_dir), "--tls-cert", pem, "--tls-key", pem])


def test_an_address_that_is_taken_is_refused_by_name(bundle_dir):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = ["serve", str(bundle_dir), "--port", str(port), "--no-page"]
        done = subprocess.run([sys.executable, "-m", "pneumonia", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{ServiceError.__name__}: Can't listen at 127.0.0.1 port {port}" in done.stderr


def test_a_bundle_that_was_tampered_with_is_not_served(bundle_dir, tmp_path):
    shutil.copytree(bundle_dir, tmp_path / "bundle")
    with (tmp_path / "bundle" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(TamperedBundleError, match="is not the file that was exported"):
        run([str(tmp_path / "bundle")])


def test_the_bundle_is_named_or_in_the_environment_or_where_sagemaker_puts_it(tmp_path, monkeypatch):
    assert bundle_folder(Path("a"), {"PNEUMONIA_BUNDLE": "b"}) == Path("a")
    assert bundle_folder(None, {"PNEUMONIA_BUNDLE": "b"}) == Path("b")
    monkeypatch.setattr("pneumonia.cli.serve.SAGEMAKER", tmp_path)
    assert bundle_folder(None, {}) == tmp_path
    monkeypatch.setattr("pneumonia.cli.serve.SAGEMAKER", tmp_path / "none")
    with pytest.raises(ConfigError, match="No bundle is named"):
        bundle_folder(None, {})


@pytest.mark.parametrize("token", ["", "short", "sixteen letters with spaces", "sechzehn-buchstäben"])
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(token, tmp_path):
    (tmp_path / "token").write_text(token, encoding="utf-8")
    for path, environ in [(tmp_path / "token", {}), (None, {"PNEUMONIA_TOKEN": token})]:
        with pytest.raises(ConfigError, match="holds no token that will do"):
            read_token(path, environ)
    assert read_token(None, {}) is None
    assert "PNEUMONIA_TOKEN" not in os.environ
