"""Measure the overhead of the service over the bundle alone, in one run, as a table (and Markdown).

Usage: .venv/bin/python benchmarks/service.py BUNDLE IMAGES_DIR [--images 200] [--seconds 4] [--rounds 3] [--out FILE.md]

- overhead: the same JPEG files through ``bundle.predict`` in this process and over one connection, in turn; medians.
- 16 clients against one: responses per second in total, in turn; and the 99th percentile of the 16 clients over their median.
- start: from the command to its first response; memory: resident, after all of the above, and once the page was loaded.
"""

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pneumonia.export.runtime import Bundle
from pneumonia.system.console import say, table

CLIENTS = 16
HEADER_END = b"\r\n\r\n"
PATIENCE_S = 60


@dataclass(frozen=True)
class Row:
    """A measured value and its target."""

    what: str
    value: str
    wanted: str
    met: bool


class Client:
    """A persistent connection that sends JPEG files."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, raw: bytes) -> float:
        """Return the seconds until the response.

        Raises:
            RuntimeError: The status is not 200.
        """
        start = time.perf_counter()
        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(raw)
        self._socket.sendall(head + raw)
        got = b""
        while HEADER_END not in got:
            got += self._more()
        headers, _, body = got.partition(HEADER_END)
        length = int(re.search(rb"content-length: (\d+)", headers)[1])
        while len(body) < length:
            body += self._more()
        if not headers.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the service responded {headers[:60]!r} {body!r}")
        return time.perf_counter() - start

    def _more(self) -> bytes:
        piece = self._socket.recv(65536)
        if not piece:
            raise RuntimeError("the service closed the connection")
        return piece

    def close(self) -> None:
        self._socket.close()


def main() -> None:
    """Parse options, measure, print and write; exit with 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path, help="a folder with JPEG files, at any depth")
    parser.add_argument("--images", dest="count", type=int, default=200, help="files that are sent (200)")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement with 16 clients and with one (4)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, metavar="FILE.md")
    options = parser.parse_args()
    found = (path for path in sorted(options.images.rglob("*")) if path.suffix.lower() in {".jpeg", ".jpg"})
    paths = list(found)
    files = [path.read_bytes() for path in paths[:: max(1, len(paths) // options.count)][: options.count]]
    if not files:
        parser.error(f"{options.images} holds no JPEG file")
    rows = _measure(options.bundle, files, options.seconds, options.rounds)
    shown = [(row.what, row.value, row.wanted, "yes" if row.met else "NO") for row in rows]
    table("Service", ("what", "measured", "wanted", "met"), shown)
    if options.out:
        _write(options.out, shown, files)
    raise SystemExit(0 if all(row.met for row in rows) else 1)


def _measure(bundle_dir: Path, files: list[bytes], seconds: float, rounds: int) -> list[Row]:
    starts = []
    for number in range(rounds):
        say(f"Start {number + 1} of {rounds}")
        with _service(bundle_dir, files[0]) as (_, _, taken):
            starts.append(taken)
    bundle = Bundle.load(bundle_dir)
    with _service(bundle_dir, files[0]) as (popen, port, _):
        say("One client, and the bundle alone")
        direct, served = _in_turn(bundle, port, files, rounds)
        one, many, waits = [], [], []
        for number in range(rounds):
            say(f"One client and {CLIENTS}, round {number + 1} of {rounds}")
            one.append(_throughput(port, files, 1, seconds)[0])
            rate, times = _throughput(port, files, CLIENTS, seconds)
            many.append(rate)
            waits += times
        plain = _rss_mib(popen.pid)
        _load_page(port)
        with_page = _rss_mib(popen.pid)
    overhead = (statistics.median(served) - statistics.median(direct)) * 1000
    start = statistics.median(starts)
    ratio = statistics.median(b / a for a, b in zip(one, many, strict=True))
    tail = _quantile(waits, 0.99) / statistics.median(waits)
    alone = _quantile(served, 0.99) / statistics.median(served)
    return [
        Row("bundle alone, median", f"{statistics.median(direct) * 1000:.2f} ms", "", True),
        Row("one client, median", f"{statistics.median(served) * 1000:.2f} ms", "", True),
        Row("overhead of the service", f"{overhead:.2f} ms", "< 3 ms", overhead < 3),
        Row("one client, p99 over median", f"{alone:.2f}", "< 5", alone < 5),
        Row("one client, responses per second", f"{statistics.median(one):.0f}", "", True),
        Row(f"{CLIENTS} clients, responses per second", f"{statistics.median(many):.0f}", "", True),
        Row(f"{CLIENTS} clients over one", f"{ratio:.2f}", ">= 1", ratio >= 1),
        Row(f"{CLIENTS} clients, p99 over median", f"{tail:.2f}", "< 5", tail < 5),
        Row("start to first response", f"{start:.2f} s", "< 2 s", start < 2),
        Row("memory", f"{plain:.0f} MiB", "< 400 MiB", plain < 400),
        Row("memory with the page", f"{with_page:.0f} MiB", "< 400 MiB", with_page < 400),
    ]


@contextmanager
def _service(bundle: Path, raw: bytes) -> Iterator[tuple[subprocess.Popen[bytes], int, float]]:
    """Yield the process, its port, and the seconds to its first response."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pneumonia", "serve", str(bundle), "--port", str(port)]
    start = time.perf_counter()
    popen = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                client = Client(port)
                break
            except OSError:
                if popen.poll() is not None or time.perf_counter() - start > PATIENCE_S:
                    raise RuntimeError("the service does not start") from None
                time.sleep(0.005)
        client.send(raw)
        taken = time.perf_counter() - start
        client.close()
        yield popen, port, taken
    finally:
        popen.send_signal(signal.SIGTERM)
        code = popen.wait(timeout=PATIENCE_S)
    if code != 0:
        raise RuntimeError(f"the service ended with {code}")


def _in_turn(bundle: Bundle, port: int, files: list[bytes], rounds: int) -> tuple[list[float], list[float]]:
    client = Client(port)
    direct, served = [], []
    for number in range(rounds + 1):
        for raw in files:
            start = time.perf_counter()
            bundle.predict(raw)
            alone, asked = time.perf_counter() - start, client.send(raw)
            if number:  # the first round warms both
                direct.append(alone)
                served.append(asked)
    client.close()
    return direct, served


def _throughput(port: int, files: list[bytes], clients: int, seconds: float) -> tuple[float, list[float]]:
    """Return the responses per second of all clients together, and the seconds of each."""
    times: list[list[float]] = [[] for _ in range(clients)]
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        client = Client(port)
        place = number
        while time.perf_counter() < until:
            times[number].append(client.send(files[place % len(files)]))
            place += clients
        client.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = [one for own in times for one in own]
    return len(together) / (time.perf_counter() - start), together


def _load_page(port: int) -> None:
    for path in ("", "page.css", "page.js", "examples/virus", "docs", "docs/swagger-ui.js"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
            answer.read()


def _rss_mib(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def _write(path: Path, rows: list[tuple[str, str, str, str]], files: list[bytes]) -> None:
    kib = statistics.median(map(len, files)) / 1024
    names = ("onnxruntime", "fastapi", "uvicorn", "numpy", "opencv-python-headless")
    lines = ["| what | measured | wanted | met |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += [
        "",
        f"{len(files)} JPEG files of {kib:.0f} KiB (median), {os.cpu_count()} cores shared by service and clients; ",
    ]
    lines[-1] += ", ".join(f"{name} {version(name)}" for name in names) + "."
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
