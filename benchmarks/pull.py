"""Pulling many small blobs through a slow line, against a serial loop; and pulling again when nothing changed.

    .venv/bin/python benchmarks/pull.py [--blobs 2000] [--delay-ms 30] [--rounds 3] [--out FILE.json]

A real Azurite (see `make azurite`) behind a proxy on loopback that holds every piece of an answer back. Ours is `pull` with its
checksums, journal and 16 workers; the baseline is `download_blob(name).readall()`, one after the other, on a sample of 200 blobs,
scaled. Arms are interleaved. The blobs are X-rays of PNEUMONIA_XRAYS where that is set, random bytes of 10 kB otherwise. Guard:
every byte that was pulled is compared.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import azure.storage.blob
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from pneumonia.storage.client import Place, connect
from pneumonia.storage.pull import pull
from pneumonia.storage.push import push
from pneumonia.system.console import CONSOLE, table
from tests.storage.conftest import Proxy, connection_string, running_azurite

SAMPLE = 200  # blobs of the serial arm


def contents(count: int) -> dict[str, bytes]:
    """Blobs by name."""
    if root := os.environ.get("PNEUMONIA_XRAYS"):
        files = sorted(Path(root).rglob("*.jpeg"))[:count]
        return {path.name: path.read_bytes() for path in files}
    rng = np.random.default_rng(0)
    return {f"{number:05d}.jpeg": rng.bytes(10_000) for number in range(count)}


def main() -> None:
    """Fills a container, interleaves the arms, prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blobs", type=int, default=2000)
    parser.add_argument("--delay-ms", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    blobs = contents(options.blobs)
    CONSOLE.quiet = True
    first, again, serial = [], [], []
    with running_azurite() as port, tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        source.mkdir()
        for name, content in blobs.items():
            (source / name).write_bytes(content)
        place = Place.parse("train")
        push(connect(environ={"AZURE_STORAGE_CONNECTION_STRING": connection_string(port)}), source, place)
        proxy = Proxy(port)
        proxy.delay_s = options.delay_ms / 1000
        service = connect(environ={"AZURE_STORAGE_CONNECTION_STRING": connection_string(proxy.port)})
        for number in range(options.rounds):
            mirror = Path(scratch) / f"mirror-{number}"
            start = time.perf_counter()
            pull(service, place, mirror)
            first.append(time.perf_counter() - start)
            start = time.perf_counter()
            done = pull(service, place, mirror)
            again.append(time.perf_counter() - start)
            if done.moved or any((mirror / name).read_bytes() != content for name, content in blobs.items()):
                raise SystemExit("a pull brought other bytes than were pushed; no ratio counts")
            client = service.get_container_client(place.container)
            sample = list(blobs)[number * SAMPLE :: max(1, len(blobs) // SAMPLE)][:SAMPLE]
            start = time.perf_counter()
            for name in sample:
                client.download_blob(name).readall()
            serial.append((time.perf_counter() - start) * len(blobs) / len(sample))
    CONSOLE.quiet = False
    middle = {"pull": statistics.median(first), "serial loop (scaled)": statistics.median(serial)}
    middle["pull, nothing changed"] = statistics.median(again)
    rows = [(name, f"{seconds:.2f}", f"{len(blobs) / seconds:.0f}") for name, seconds in middle.items()]
    table(f"{len(blobs)} blobs, {options.delay_ms:.0f} ms of added latency", ("arm", "seconds", "blobs/s"), rows)
    result = {
        "blobs": len(blobs),
        "mean_bytes": round(sum(map(len, blobs.values())) / len(blobs)),
        "delay_ms": options.delay_ms,
        "times_serial": [round(b / a, 2) for a, b in zip(first, serial, strict=True)],
        "again_of_first": [round(b / a, 4) for a, b in zip(first, again, strict=True)],
        "versions": {"azure-storage-blob": azure.storage.blob.__version__, "python": platform.python_version()},
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
