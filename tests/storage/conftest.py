"""Start a real Azurite on loopback, and a proxy in front of it that delays, drops and corrupts responses."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import pytest
from azure.storage.blob import BlobServiceClient

from pneumonia.storage.client import connect

ACCOUNT = "devstoreaccount1"  # the emulator's well-known account and key: public, and good for nothing else
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def find_azurite() -> str | None:
    """Return the emulator: PNEUMONIA_AZURITE, the one on the path, or that of `make azurite`."""
    here = Path(__file__).parents[2] / ".azurite" / "node_modules" / ".bin" / "azurite-blob"
    return os.environ.get("PNEUMONIA_AZURITE") or shutil.which("azurite-blob") or (str(here) if here.exists() else None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_azurite(*options: str) -> Iterator[int]:
    """Run an emulator that keeps its data in memory; yield its port."""
    command = find_azurite()
    if command is None:
        pytest.skip("no Azurite: `make azurite` installs it (npm), or PNEUMONIA_AZURITE names it")
    port = free_port()
    arguments = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--disableTelemetry"]
    arguments += ["--skipApiVersionCheck", "--inMemoryPersistence", *options]
    server = subprocess.Popen([command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(150):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "Azurite ended at once"
            time.sleep(0.2)
        else:
            raise AssertionError("Azurite did not start in 30 s")
        yield port
    finally:
        server.terminate()
        server.wait(10)


def connection_string(port: int) -> str:
    address = f"http://127.0.0.1:{port}/{ACCOUNT}"
    return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={address};"


@pytest.fixture(scope="session")
def azurite() -> Iterator[int]:
    with running_azurite() as port:
        yield port


@pytest.fixture
def service(azurite: int, monkeypatch: pytest.MonkeyPatch) -> BlobServiceClient:
    """Return a client of the emulator, and set the environment in which commands find it."""
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(azurite))
    monkeypatch.setattr("pneumonia.storage.client.PAUSES_S", (0.01, 0.02, 0.05, 0.1))
    return connect()


@pytest.fixture
def container(service: BlobServiceClient, request: pytest.FixtureRequest) -> str:
    """Create a container and return its name."""
    name = f"c{abs(hash(request.node.nodeid)) % 10**12}-{free_port()}"
    service.create_container(name)
    return name


def refusal(status: str, *headers: str) -> bytes:
    """Return a complete error response, after which the proxy closes the connection."""
    lines = [f"HTTP/1.1 {status}", "Content-Length: 0", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Proxy:
    """Forward bytes between a client and a server; its faults can be set while it runs.

    Attributes:
        delay_s: How much later each piece of an answer arrives; pieces on the way do not wait for each other.
        cut_after: Answers' bytes after which a connection is cut, counted over all connections; ``None`` never cuts.
        cuts: Connections still to be cut so.
        dies_after: Answers' bytes after which every connection is cut, for ever.
        damage: Called with each piece of an answer; returns what is passed on instead.
        connections: How many there were.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.delay_s = 0.0
        self.cut_after: int | None = None
        self.cuts = 0
        self.dies_after: int | None = None
        self.damage: Callable[[bytes], bytes] = lambda piece: piece
        self.connections = 0
        self._passed = 0
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self.target))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _late(self, source: socket.socket) -> Iterator[bytes]:
        """Yield what a socket receives, each piece after ``delay_s``."""
        pieces: Queue[tuple[float, bytes]] = Queue()

        def read() -> None:
            piece = b"-"
            while piece:
                try:
                    piece = source.recv(65536)
                except OSError:
                    piece = b""
                pieces.put((time.monotonic() + self.delay_s, piece))

        threading.Thread(target=read, daemon=True).start()
        while True:
            due, piece = pieces.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not piece:
                return
            yield piece

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            for piece in self._late(source) if answers else iter(lambda: source.recv(65536), b""):
                if answers:
                    self._passed += len(piece)
                    if self.dies_after is not None and self._passed >= self.dies_after:
                        break
                    if self.cuts and self.cut_after is not None and self._passed >= self.cut_after:
                        self.cuts -= 1
                        self._passed = 0
                        sink.sendall(piece[: len(piece) // 2])
                        break
                    piece = self.damage(piece)
                sink.sendall(piece)
                if answers and b"Connection: close" in piece:
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


@pytest.fixture
def proxy(azurite: int) -> Iterator[Proxy]:
    made = Proxy(azurite)
    yield made
    made.close()


@pytest.fixture
def through_proxy(proxy: Proxy, service: BlobServiceClient, monkeypatch: pytest.MonkeyPatch) -> BlobServiceClient:
    """Return a client that reaches the emulator through the proxy, and set the environment for it."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(proxy.port))
    return connect()
