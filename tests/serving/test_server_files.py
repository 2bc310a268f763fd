"""No request reads a file of the server or hangs, whatever paths it names."""

import asyncio
import base64
import json
import os
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pneumonia.serving.app import Service
from pneumonia.serving.limits import Limits

from .conftest import Process, body_of, receive_all, serving

HANG_S = 10
CANARY = f"canary-{secrets.token_hex(16)}"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
ROUTES = {
    "/ping": "GET",
    "/contract": "GET",
    "/metrics": "GET",
    "/docs": "GET",
    "/docs/start.js": "GET",
    "/docs/swagger-ui.js": "GET",
    "/docs/swagger-ui.css": "GET",
    "/openapi.json": "GET",
    "/": "GET",
    "/page.css": "GET",
    "/page.js": "GET",
    "/examples/normal": "GET",
    "/examples/virus": "GET",
    "/examples/bacteria": "GET",
    "/invocations": "POST",
    "/explanation": "POST",
}
FORMER = (  # of the page that was Gradio's
    "/gradio_api/queue/join",
    "/gradio_api/queue/data",
    "/gradio_api/upload",
    "/gradio_api/file=",
    "/gradio_api/file/",
    "/gradio_api/proxy=",
    "/gradio_api/call/x",
    "/gradio_api/run/predict",
    "/gradio_api/heartbeat/s",
    "/gradio_api/info",
    "/config",
    "/theme.css",
    "/file=",
    "/assets/",
    "/static/",
    "/static-offline-docs/",
    "/login",
)
EXACT = {
    "data": [{"path": "/etc/shadow", "meta": {"_type": "gradio.FileData"}}],
    "fn_index": 0,
    "session_hash": "s",
    "event_data": None,
    "trigger_id": None,
}


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> list[str]:
    """Names of files that hold the canary, and of files of the system."""
    folder = tmp_path_factory.mktemp("canary")
    canary, link = folder / "canary.txt", folder / "link.dcm"
    canary.write_text(CANARY)
    link.symlink_to(canary)
    up = os.path.relpath(canary, os.getcwd())
    environ = "/proc/self/environ"
    found = [str(canary), str(link), up, f"..{canary}", f"../../../../../..{canary}", f"file://{canary}", f"/{canary}"]
    found += [str(canary).replace("/", "%2f"), str(canary).replace("/", "%252f"), str(canary).replace("/", "\\")]
    return [
        *found,
        "/etc/shadow",
        "/etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        environ,
        "/proc/self/fd/0",
        f"{canary}\0.png",
    ]


@pytest.fixture(scope="module")
def service(bundle) -> Service:
    os.environ["PNEUMONIA_CANARY"] = CANARY  # /proc/self/environ of a process holds it
    return Service(bundle, Limits())


@pytest.fixture(scope="module")
def running(bundle_dir) -> Iterator[Process]:
    """A service with its page."""
    with serving(bundle_dir) as process:
        yield process


def call(service: Service, method: str, path: str, body: bytes, kind: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send one ASGI request, whose path no client has normalized."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await asyncio.sleep(HANG_S)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())],
    }
    asyncio.run(asyncio.wait_for(service.asgi(scope, receive, send), HANG_S))
    start, *rest = sent
    return start["status"], dict(start["headers"]), b"".join(message.get("body", b"") for message in rest)


def check_response(method: str, path: str, status: int, headers: dict[bytes, bytes], body: bytes) -> None:
    """Check that a response has the right status, is JSON if not 200, and holds no canary."""
    route = path.partition("?")[0]
    assert CANARY.encode() not in body
    assert base64.b64encode(CANARY.encode())[:30] not in body
    if route not in ROUTES:
        assert status == 404
    elif ROUTES[route] == ("GET" if method == "HEAD" else method):
        assert status == 200 if ROUTES[route] == "GET" else status in {400, 415, 422}
    else:
        assert status == 405
        assert headers[b"allow"] == (b"GET, HEAD" if ROUTES[route] == "GET" else b"POST")
    if status != 200:
        assert headers[b"content-type"] == b"application/json"
        if method != "HEAD":
            assert set(json.loads(body)) == {"error", "reason", "remedy"}


def bodies(name: str) -> st.SearchStrategy[Any]:
    """JSON that names a file, as Gradio, the routes here and others take files."""
    data = st.fixed_dictionaries(
        {"path": st.just(name)},
        optional={
            "meta": st.just({"_type": "gradio.FileData"}),
            "url": st.just(name),
            "orig_name": st.just("a.jpeg"),
            "is_stream": st.booleans(),
        },
    )
    leaves = st.one_of(st.just(name), data, st.none(), st.integers(), st.text(max_size=5))
    values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
    keys = st.sampled_from(["image", "images", "data", "fn_index", "session_hash", "file", "path", "event_data", "fn"])
    return st.one_of(st.dictionaries(keys, values, max_size=4), values)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_request_reads_a_file_of_the_server(data, service, named):
    name = data.draw(st.sampled_from(named))
    method = data.draw(st.sampled_from(METHODS))
    base = data.draw(st.sampled_from([*ROUTES, *FORMER]))
    path = data.draw(st.sampled_from([base, base + name, f"{base}/{name}", name, f"{base}?path={name}&file={name}"]))
    kind = data.draw(st.sampled_from(["application/json", "image/jpeg", "application/dicom", "multipart/form-data", ""]))
    value = data.draw(bodies(name))
    body = data.draw(st.sampled_from([json.dumps(value).encode(), name.encode(), b""]))
    check_response(method, path, *call(service, method, path, body, kind))


@pytest.mark.parametrize("name", ["/etc/shadow", "/dev/zero"])
def test_routes_of_gradio_are_not_found(name, running):
    body = json.dumps(EXACT).replace("/etc/shadow", name).encode()
    for head in (
        b"POST /gradio_api/queue/join HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body),
        b"GET /gradio_api/queue/data?session_hash=s HTTP/1.1\r\n",
    ):
        connection = running.connect()
        connection.sendall(head + b"Host: x\r\nConnection: close\r\n\r\n" + (body if b"POST" in head else b""))
        got = receive_all(connection)
        assert got.startswith(b"HTTP/1.1 404 ")
        assert body_of(got)["error"] == "not_found"


@pytest.mark.parametrize(
    "target",
    [
        b"/..%2f..%2f..%2fetc/passwd",
        b"/examples/..%2f..%2fpage.py",
        b"/docs/%2e%2e/%2e%2e/etc/passwd",
        b"/examples//etc/passwd",
        b"/%00",
        b"/%ff%fe",
        b"//etc/passwd",
        b"http://x/etc/passwd",
        b"*",
    ],
)
def test_encoded_paths_are_not_found(target, running):
    connection = running.connect()
    connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    got = receive_all(connection)
    assert got.startswith(b"HTTP/1.1 404 ")
    assert b"root:" not in got
    assert body_of(got)["error"] == "not_found"
