"""Shared fixtures: services in this process, and services in processes of their own."""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from builders import dicom
from starlette.testclient import TestClient

from pneumonia.data.sources.phantom import draw
from pneumonia.export.runtime import Bundle
from pneumonia.serving.app import Service
from pneumonia.serving.limits import Limits
from pneumonia.tasks import BACTERIA, NORMAL, VIRUS

LABELS = (NORMAL, VIRUS, BACTERIA)
START_S = 60  # for a start on a busy machine; an idle one needs a second or two


@dataclass
class Process:
    """A running `pneumonia serve`."""

    popen: subprocess.Popen[str]
    url: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    unparsed: list[str] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.partition("//")[2].rpartition(":")
        return host, int(port)

    @property
    def rss(self) -> int:
        """Resident memory in KiB."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


def xray(seed: int = 5, label: str = BACTERIA, kind: str = ".jpeg") -> bytes:
    """A phantom as an image file."""
    return cv2.imencode(kind, draw(label, seed, 0))[1].tobytes()


@contextmanager
def serving(bundle: Path, *options: str, **environ: str) -> Iterator[Process]:
    """`pneumonia serve` in a process of its own, on a free port; killed at the end if it still runs."""
    command = [sys.executable, "-m", "pneumonia", "serve", str(bundle), "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}
    ) as popen:
        process = Process(popen)
        ready = threading.Event()
        reader = threading.Thread(target=_read, args=(process, ready))
        reader.start()
        try:
            assert ready.wait(START_S), "the service does not start"
            assert process.url, process.unparsed
            yield process
        finally:
            if popen.poll() is None:
                popen.kill()
            popen.wait()
            reader.join()


def _read(process: Process, ready: threading.Event) -> None:
    """Collect the log lines of a process and the URL that it serves."""
    for line in process.popen.stderr:
        try:
            entry = json.loads(line)
        except ValueError:
            process.unparsed.append(line)
            continue
        process.lines.append(entry)
        if entry["event"] == "serving":
            process.url = entry["url"]
            ready.set()
    ready.set()


@pytest.fixture(scope="session")
def bundle(bundle_dir: Path) -> Bundle:
    return Bundle.load(bundle_dir)


@pytest.fixture(scope="session")
def client_of(bundle: Bundle) -> Iterator[Callable[..., TestClient]]:
    """A client of a service in this process: ``client_of(token=..., page=True, body_mib=1)``."""
    opened: list[TestClient] = []

    def make(token: str | None = None, page: bool = False, **limits: float) -> TestClient:
        service = Service(bundle, Limits(**limits), token, page)
        client = TestClient(service.asgi, raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def client(client_of: Callable[..., TestClient]) -> TestClient:
    return client_of()


@pytest.fixture(scope="session")
def paged(client_of: Callable[..., TestClient]) -> TestClient:
    """A client of a service with a page."""
    return client_of(page=True)


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    """One image file of each type."""
    pixels = draw(VIRUS, 7, 0)
    return {
        "image/jpeg": xray(),
        "image/png": xray(kind=".png"),
        "application/dicom": dicom(pixels.astype(np.uint16) * 16),
    }


@pytest.fixture(scope="module")
def process(bundle_dir: Path) -> Iterator[Process]:
    """A service with short deadlines; without a page, since no test here opens it."""
    with serving(bundle_dir, "--header-s", "1", "--body-s", "1", "--body-mib", "1", "--no-page") as running:
        yield running


def receive_all(connection: socket.socket) -> bytes:
    """Return what arrives until the other side closes."""
    got = b""
    with connection:
        while piece := connection.recv(65536):
            got += piece
    return got


def body_of(raw: bytes) -> dict:
    return json.loads(raw.partition(b"\r\n\r\n")[2])


def post(url: str, raw: bytes, kind: str = "image/jpeg", **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/invocations", content=raw, headers={"content-type": kind, **headers}, timeout=60)


def trusting(certificate: Path) -> ssl.SSLContext:
    """A TLS context that trusts this certificate alone."""
    return ssl.create_default_context(cafile=str(certificate))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    options = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", *options.split(), "-keyout", str(secret), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    return pem, secret
