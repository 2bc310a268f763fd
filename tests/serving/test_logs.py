"""The logs of a service: one JSON object a line, whatever goes wrong, and no data of its callers."""

import io
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import dicom
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from pneumonia.serving.telemetry import JsonLines

from .conftest import post, receive_all, serving, xray

NAME = "CANARY^JANE"
SMALL = np.zeros((64, 64), np.uint8)
PRINTING = """
import os, sys, threading, warnings, logging
from pneumonia.serving.telemetry import log_to, standard_error, log_event

def fail():
    raise ValueError("one\\nCANARY")

class Unraisable:
    def __del__(self):
        fail()

with standard_error() as stream:
    log_to(stream)
    os.write(2, b"Corrupt JPEG data: 3 extraneous bytes\\n[ WARN:0] second\\n")
    print("printed\\nin two lines", file=sys.stderr)
    warnings.warn("of a library\\nin two lines")
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\\n", exc_info=ValueError("CANARY"))
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Unraisable()
    reader = threading.Thread(target=lambda: logging.getLogger("pydicom").error("CANARY"), name="inference_0")
    reader.start()
    reader.join()
    log_event("ours")
    sys.excepthook(*[ValueError, ValueError("CANARY"), None])
os.write(2, b"after\\n")
"""


def test_everything_printed_is_one_json_object_per_line():
    done = subprocess.run([sys.executable, "-c", PRINTING], capture_output=True, text=True, check=True)
    assert "CANARY" not in done.stderr
    *lines, last = done.stderr.splitlines()
    assert last == "after", "standard error is restored"
    entries = [json.loads(line) for line in lines]
    assert all({"time", "level", "event"} <= set(line) for line in entries)
    output = [line["text"] for line in entries if line["event"] == "library output"]
    assert output == ["Corrupt JPEG data: 3 extraneous bytes", "[ WARN:0] second", "printed", "in two lines"]
    events = [line["event"] for line in entries if line["event"] != "library output"]
    assert "in two lines" in events[0]
    assert events[1:] == [
        "Exception in ASGI application",
        "unhandled exception",
        "unhandled exception",
        "ours",
        "crashed",
    ]


def test_unread_logs_keep_no_thread_busy(bundle_dir):
    command = [sys.executable, "-m", "pneumonia", "serve", str(bundle_dir), "--port", "0", "--no-page"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as popen:
        url = json.loads(popen.stderr.readline())["url"]
        popen.stderr.close()
        try:
            post(url, xray())
            before = cpu_seconds(popen.pid)
            time.sleep(1)  # a thread that writes in vain would use a second of a core
            assert cpu_seconds(popen.pid) - before < 0.5
            assert post(url, xray()).status_code == 200
        finally:
            popen.kill()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_exception_is_logged_without_its_message():
    logger, stream = logging.getLogger("pneumonia.serving.of_this_test"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    try:
        try:
            raise KeyError(NAME)
        except KeyError as error:
            raise ValueError(f"broken\n{NAME}") from error
    except ValueError:
        logger.exception("failed", extra={"fields": {"request_id": "a"}})
    finally:
        logger.removeHandler(handler)
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert NAME not in line
    assert entry["error"] == "ValueError"
    assert entry["cause"]["error"] == "KeyError"
    assert entry["trace"][0].startswith("test_logs.py:")
    assert entry["request_id"] == "a"


def damaged() -> dict[str, tuple[str, bytes]]:
    """Files on which decoders log a message, each with a name in it."""
    junk = NAME.encode() * 20
    jpeg = bytearray(xray())
    place = jpeg.index(b"\xff\xda") + 40
    jpeg[place : place + 30] = b"\xff\xd0\x11" * 10
    whole = cv2.imencode(".jpeg", SMALL)[1].tobytes()
    return {
        "jpeg": ("image/jpeg", bytes(jpeg)),
        "png": ("image/png", cv2.imencode(".png", SMALL)[1].tobytes().replace(b"IDAT", b"IDAX")),
        "tag": ("application/dicom", dicom(SMALL, PatientName=NAME, PixelData=bytes(10))),
        "frame": ("application/dicom", dicom(SMALL, JPEGBaseline8Bit, PatientName=NAME, PixelData=encapsulate([junk]))),
        "cut frame": ("application/dicom", dicom(SMALL, JPEGBaseline8Bit, PixelData=encapsulate([whole[:200]]))),
        "jpeg 2000": (
            "application/dicom",
            dicom(SMALL, JPEG2000Lossless, PatientName=NAME, PixelData=encapsulate([junk])),
        ),
        "run length": ("application/dicom", dicom(SMALL, RLELossless, PatientName=NAME, PixelData=encapsulate([junk]))),
        "window": ("application/dicom", dicom(SMALL, WindowCenter=1, WindowWidth=2, VOILUTFunction=NAME)),
        "text": ("image/jpeg", junk),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bad_file_is_no_error_and_is_not_quoted(bundle_dir):
    seen = set()
    with serving(bundle_dir, "--no-page") as process:
        for kind, raw in damaged().values():
            seen.add(post(process.url, raw, kind).status_code)
        bad = process.connect()
        bad.sendall(f"GET {NAME}\r\n\r\n".encode())
        receive_all(bad)
        odd = process.connect()
        odd.sendall(
            f"{NAME} /{NAME}?{NAME} HTTP/1.1\r\nHost: {NAME}\r\nUpgrade: websocket\r\nConnection: close, upgrade\r\n\r\n".encode()
        )
        receive_all(odd)
        process.popen.terminate()
        assert process.popen.wait(timeout=60) == 0
    assert process.unparsed == []
    assert seen <= {200, 415, 422}
    assert {line["level"] for line in process.lines} <= {"info", "warning"}
    about_requests = [line for line in process.lines if line["event"] != "serving"]  # which has our own address
    text = json.dumps(about_requests)
    assert "CANARY" not in text
    assert "127.0.0.1" not in text
    assert process.events("invalid request")


def test_failed_start_is_logged_and_exits_with_1(bundle_dir):
    code = f"""
from pathlib import Path
from pneumonia.serving import server as run
from pneumonia.serving.inference_pool import InferencePool
from pneumonia.serving.limits import Limits
def fail(self):
    raise ValueError("broken")
InferencePool.warm_up = fail
run.serve(Path({str(bundle_dir)!r}), run.ServerOptions(port=0), Limits())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["error"] == "ValueError", "one line, and no port was opened"
