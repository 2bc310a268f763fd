"""Randomly broken files: each is predicted or refused with a reason, none fails, and memory stays constant."""

import base64
import http.client
import json
from collections import Counter
from collections.abc import Iterator
from random import Random

import cv2
import numpy as np
import pytest
from builders import dicom

from pneumonia.data.sources.phantom import draw
from pneumonia.tasks import VIRUS

from .conftest import serving, xray

ALLOWED = {200, 400, 413, 415, 422}
TENTH = 10


def sound_files() -> list[tuple[str, bytes]]:
    """Valid files of every supported format and encoding."""
    pixels = draw(VIRUS, 7, 0)
    deep = pixels.astype(np.uint16) * 16
    colour = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    progressive = cv2.imencode(".jpeg", colour, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    small = cv2.resize(pixels, (64, 48))
    return [
        ("image/jpeg", xray()),
        ("image/jpeg", progressive),
        ("image/jpeg", cv2.imencode(".jpeg", small, [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])[1].tobytes()),
        ("image/png", cv2.imencode(".png", small)[1].tobytes()),
        ("image/png", cv2.imencode(".png", cv2.resize(deep, (64, 48)))[1].tobytes()),
        ("image/png", cv2.imencode(".png", cv2.resize(colour, (64, 48)))[1].tobytes()),
        ("application/dicom", dicom(cv2.resize(deep, (64, 48)), WindowCenter=2000, WindowWidth=3000)),
        ("application/dicom", dicom(small, PhotometricInterpretation="MONOCHROME1")),
        ("application/json", json.dumps({"image": base64.b64encode(xray()).decode()}).encode()),
        ("application/json", json.dumps({"images": [base64.b64encode(xray()).decode()] * 2}).encode()),
    ]


def mutations(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Files with bytes changed, cut out, doubled, swapped or taken from another file; headers are hit as often as the rest."""
    draws, sound = Random(seed), sound_files()
    for _ in range(count):
        kind, raw = draws.choice(sound)
        broken = bytearray(raw)
        for _ in range(draws.choice((1, 1, 1, 2, 5, 30))):
            reach = draws.choice((32, 256, 1024, len(broken)))
            place, length = draws.randrange(min(reach, len(broken)) or 1), draws.choice((1, 1, 2, 4, 16, 200))
            act = draws.randrange(7)
            if act == 0:
                broken[place : place + 1] = bytes([draws.randrange(256)])
            elif act == 1:
                broken[place : place + 1] = draws.choice((b"\0", b"\xff", b"\x7f", b"\x80"))
            elif act == 2:
                del broken[place : place + length]
            elif act == 3:
                broken[place:place] = broken[place : place + length]
            elif act == 4:
                broken[place : place + length] = draws.randbytes(length)
            elif act == 5:
                other = draws.choice(sound)[1]
                broken[place : place + length] = other[place : place + length]
            else:
                del broken[draws.randrange(len(broken) + 1) :]
            if not broken:
                break
        yield kind if draws.random() < 0.95 else draws.choice(sound)[0], bytes(broken)


def test_broken_files_are_predicted_or_refused(client):
    seen: Counter[int] = Counter()
    for kind, raw in mutations(400, seed=1):
        response = client.post("/invocations", content=raw, headers={"content-type": kind})
        assert response.status_code in ALLOWED, (response.status_code, kind, raw)
        body = response.json()
        assert body.get("reason") or body.get("predictions") or "label" in body
        seen[response.status_code] += 1
    assert min(seen[200], seen[415], seen[422]) > TENTH, seen  # the mutations reach the decoders, and past them


def test_broken_files_are_explained_or_refused(client):
    seen: Counter[int] = Counter()
    for kind, raw in mutations(60, seed=2):
        response = client.post("/explanation", content=raw, headers={"content-type": kind})
        assert response.status_code in ALLOWED, (response.status_code, kind, raw)
        assert response.json().get("reason") or response.json()["heat_map"]
        seen[response.status_code] += 1
    assert min(seen[200], seen[415] + seen[422]) > TENTH, seen


@pytest.mark.slow
def test_ten_thousand_broken_files_leave_memory_constant(bundle_dir):
    seen: Counter[int] = Counter()
    with serving(bundle_dir, "--no-page") as process:
        connection = http.client.HTTPConnection(*process.address, timeout=60)

        def send(kind: str, raw: bytes) -> None:
            connection.request("POST", "/invocations", raw, {"Content-Type": kind})
            response = connection.getresponse()
            response.read()
            seen[response.status] += 1

        for kind, raw in mutations(2_000, seed=3):
            send(kind, raw)
        before = process.rss
        for kind, raw in mutations(10_000, seed=4):
            send(kind, raw)
        after = process.rss
        connection.close()
        process.popen.terminate()
        assert process.popen.wait(timeout=60) == 0
    assert set(seen) <= ALLOWED, seen
    assert after < before * 1.05, (before, after)
    assert not process.events("failed")
