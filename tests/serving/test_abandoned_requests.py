"""Abandoned, late and slow requests: their work ends, and small requests overtake large ones."""

import asyncio
import base64
import json
import os
import re
import select
import socket
import threading
import time

import cv2
import httpx
import numpy as np
import pytest

from pneumonia.export.runtime import Bundle
from pneumonia.serving.inference_pool import InferencePool
from pneumonia.serving.limits import Limits
from pneumonia.serving.middleware import Middleware
from pneumonia.serving.telemetry import Metrics

from .conftest import Process, body_of, post, receive_all, serving, xray

JSON = "application/json"
PATIENCE_S = 30


def images(count: int, side: int) -> bytes:
    """A request for black squares; black packs well, so that a small body takes long to decode."""
    png = base64.b64encode(cv2.imencode(".png", np.zeros((side, side), np.uint8))[1].tobytes()).decode()
    return json.dumps({"images": [png] * count}).encode()


def hold(process: Process, body: bytes, after: bytes = b"") -> socket.socket:
    """A connection on which a complete request was sent."""
    connection = process.connect()
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % len(body) + body + after)
    return connection


def until(true, seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def held_bytes(process: Process) -> float:
    """Bytes of the requests that the service has read and not yet answered."""
    text = httpx.get(f"{process.url}/metrics", timeout=PATIENCE_S).text
    return float(re.search(r"^pneumonia_held_bytes (\S+)", text, re.MULTILINE)[1])


def statuses(process: Process) -> list[int]:
    return [line["status"] for line in process.events("request")]


class Slow(Bundle):
    """A bundle each of whose decodes waits to be let through."""

    def __init__(self, bundle: Bundle) -> None:
        self.__dict__ = dict(bundle.__dict__)
        self.begun: list[int] = []
        self.open = threading.Event()

    def decode(self, data: bytes, max_pixels: int = 0) -> np.ndarray:
        self.begun.append(len(data))
        assert self.open.wait(PATIENCE_S)
        return super().decode(data)


@pytest.fixture
def slow(bundle):
    found = Slow(bundle)
    yield found
    found.open.set()


def test_cancelled_request_decodes_no_further_image(slow):
    async def main() -> None:
        pool = InferencePool(slow, Limits(workers=1))
        first = asyncio.create_task(pool.predict(images(5, 16), JSON))
        second = asyncio.create_task(pool.predict(images(5, 16), JSON))
        while not slow.begun:
            await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.wait([second], timeout=5)
        assert second.cancelled(), "it had not begun, so it ends at once"
        first.cancel()
        await asyncio.sleep(0.05)
        assert not first.done(), "its memory is in use until its unit of work has ended"
        slow.open.set()
        await asyncio.wait([first], timeout=PATIENCE_S)
        assert first.cancelled()
        await asyncio.sleep(0.05)
        assert len(slow.begun) == 1
        predictions = (await pool.predict(xray(), "image/jpeg"))[1]  # the thread is free again
        assert len(predictions) == 1
        pool.close()

    asyncio.run(main())


def test_small_request_overtakes_a_large_one(slow):
    ended: list[str] = []

    async def ask(pool: InferencePool, name: str, body: bytes) -> None:
        await pool.predict(body, JSON)
        ended.append(name)

    async def main() -> None:
        pool = InferencePool(slow, Limits(workers=1))
        tasks = [asyncio.create_task(ask(pool, "large", images(8, 1000)))]
        while not slow.begun:
            await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(ask(pool, f"large {number}", images(8, 1000))) for number in range(3)]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(ask(pool, "small", images(1, 16))))
        await asyncio.sleep(0.05)
        slow.open.set()
        await asyncio.gather(*tasks)
        pool.close()

    asyncio.run(main())
    assert ended[0] == "small"


def test_slow_images_leave_a_thread_to_the_others(bundle):
    async def scenario() -> None:
        pool = InferencePool(bundle, Limits(workers=2))
        hold = threading.Event()
        slow = [asyncio.create_task(pool.run(hold.wait, slow=True)) for _ in range(4)]
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            assert await pool.run(lambda: "answered") == "answered"
        assert not any(task.done() for task in slow)
        hold.set()
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.gather(*slow) == [True] * 4
        pool.close()

    asyncio.run(scenario())


def test_units_of_work_run_in_order_of_due_time(bundle):
    order: list[float] = []
    gate = threading.Event()

    async def main() -> None:
        pool = InferencePool(bundle, Limits(workers=1))
        tasks = [asyncio.create_task(pool.run(lambda: gate.wait(PATIENCE_S), 0.0))]
        for due in (3.0, 1.0, 2.0, 1.0):
            tasks.append(asyncio.create_task(pool.run(lambda due=due: order.append(due), due)))
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        gate.set()
        await asyncio.gather(*tasks[2:])
        pool.close()

    asyncio.run(main())
    assert order == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("path", ["/invocations", "/explanation"])
def test_app_is_cancelled_when_its_client_hangs_up(path):
    cancelled: list[str] = []
    sent: list[dict] = []
    messages = [{"type": "http.request", "body": b"abc"}, {"type": "http.disconnect"}]

    async def app(scope, receive, send) -> None:
        assert (await receive())["body"] == b"abc"
        try:
            await asyncio.sleep(PATIENCE_S)
        except asyncio.CancelledError:
            cancelled.append(scope["path"])
            raise

    async def receive() -> dict:
        await asyncio.sleep(0.01)
        return messages.pop(0)

    async def send(message: dict) -> None:
        sent.append(message)

    metrics = Metrics("a", "b")
    scope = {"type": "http", "path": path, "method": "POST", "headers": [(b"content-length", b"3")]}
    asyncio.run(Middleware(app, Limits(), metrics, routes={path: path})(scope, receive, send))
    assert cancelled == [path]
    assert sent == []
    text = metrics.text().decode()
    assert f'pneumonia_requests_total{{route="{path}",status="499"}} 1.0' in text
    assert "pneumonia_held_bytes 0.0" in text


def test_abandoned_requests_do_not_keep_the_service_busy(bundle_dir):
    many = images(60, 5000)  # tens of seconds of work each
    with serving(bundle_dir, "--no-page", "--request-megapixels", "2000", "--workers", "2") as process:
        connections = [hold(process, many) for _ in range(4)]
        until(lambda: held_bytes(process) >= 4 * len(many))
        for connection in connections:
            connection.close()
        assert post(process.url, xray()).status_code == 200
        until(lambda: statuses(process).count(499) == 4)
        process.popen.terminate()
        assert process.popen.wait(timeout=PATIENCE_S) == 0
    assert process.unparsed == []


def test_requests_past_their_time_limit_end(bundle_dir):
    with serving(bundle_dir, "--no-page", "--request-megapixels", "2000", "--answer-s", "0.5", "--workers", "1") as process:
        response = post(process.url, images(60, 5000), JSON)
        assert response.status_code == 503
        assert "within 0.5 s" in response.json()["reason"]
        assert post(process.url, xray()).status_code == 200


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="only Linux tells of a connection that is not read")
def test_client_that_pipelines_and_leaves_is_detected(bundle_dir):
    with serving(bundle_dir, "--no-page", "--request-megapixels", "2000") as process:
        many = images(60, 5000)
        connection = hold(process, many, after=b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000)
        until(lambda: held_bytes(process) >= len(many))
        connection.close()
        until(lambda: 499 in statuses(process))


def test_pipelined_requests_are_answered_in_order(process):
    raw = xray()
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    connection = process.connect()
    connection.sendall((head % len(raw) + raw) * 3 + b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    got = receive_all(connection)
    assert got.count(b"HTTP/1.1 200 OK") == 4
    assert got.rindex(b'"ready"') > got.rindex(b'"probabilities"')


def test_client_that_does_not_read_is_disconnected(bundle_dir):
    with serving(bundle_dir, "--no-page", "--body-s", "1") as process:
        first = process.connect()
        first.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        receive_all(first)  # by now all that the service keeps open is open
        before = len(os.listdir(f"/proc/{process.popen.pid}/fd"))
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(process.address)
            connection.sendall(b"GET /docs/swagger-ui.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            until(lambda: len(os.listdir(f"/proc/{process.popen.pid}/fd")) > before)
            until(lambda: len(os.listdir(f"/proc/{process.popen.pid}/fd")) == before)


def test_request_that_outlasts_the_stop_gets_503(bundle_dir):
    options = ("--no-page", "--request-megapixels", "2000", "--drain-s", "1", "--workers", "1")
    with serving(bundle_dir, *options) as process:
        connection = hold(process, images(60, 5000))
        until(lambda: post(process.url, xray()).status_code == 200)
        process.popen.terminate()
        got = receive_all(connection)
        assert process.popen.wait(timeout=PATIENCE_S) == 0
    assert got.startswith(b"HTTP/1.1 503 ")
    assert "stopping" in body_of(got)["reason"]
    assert process.unparsed == []
