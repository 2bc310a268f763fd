"""The page in a real browser: X-rays, drawn examples, bad files, narrow screens; no request to another server."""

import os
import shutil
import signal
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import dicom

from pneumonia.export.contract_file import read_contract
from pneumonia.serving.limits import Limits
from pneumonia.serving.page import page_assets

from .conftest import Process, serving, xray

CHROMIUM = os.environ.get("PNEUMONIA_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
TOKEN = "a-token-of-sixteen-or-more"
WAIT_MS = 60_000  # on a busy machine
PICTURES = os.environ.get("PNEUMONIA_SCREENSHOTS")  # a folder for screenshots
KEYS = (
    "label",
    "probabilities",
    "calibrated",
    "abstained",
    "out_of_distribution",
    "ood_score",
    "ood_threshold",
    "ms",
)

needs_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")


@pytest.fixture(scope="module")
def running(bundle_dir) -> Iterator[Process]:
    with serving(bundle_dir, "--body-mib", "2", PNEUMONIA_TOKEN=TOKEN) as process:
        yield process


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def requested() -> list[str]:
    return []


@pytest.fixture(scope="module")
def console() -> list[str]:
    """Messages of the browser's console, violations of the content security policy included."""
    return []


@pytest.fixture(scope="module")
def page(running, browser, requested, console):
    """The loaded page; every URL that it requests is recorded."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, http_credentials={"username": "anyone", "password": TOKEN}
    )
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)
    opened.on("request", lambda request: requested.append(request.url))
    opened.on("console", lambda message: console.append(message.text))
    opened.on("pageerror", lambda error: console.append(str(error)))
    opened.goto(running.url)
    yield opened
    context.close()


def choose(page, name: str, raw: bytes) -> None:
    """Choose a file, in place of the last one."""
    page.get_by_label("Drop a file here").set_input_files({"name": name, "mimeType": "application/octet-stream", "buffer": raw})


def look(page, name: str) -> None:
    """Keep screenshots, light and dark."""
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=f"{PICTURES}/{name}-{scheme}.png", full_page=True)


@needs_a_browser
@pytest.mark.parametrize("name", ["a.jpeg", "a.png", "a.dcm", "bare.dcm"])
def test_xray_gets_bars_and_a_heat_map(name, page, bundle):
    is_dicom = name.endswith(".dcm")
    raw = dicom(read(xray()).astype(np.uint16) * 16) if is_dicom else xray(kind=f".{name.partition('.')[2]}")
    if name == "bare.dcm":  # as image archives write it: without preamble
        raw = raw[132:]
    choose(page, name, raw)
    page.locator("#picture").wait_for()
    prediction = bundle.predict(raw)
    assert page.locator(".bar").count() == len(prediction.probabilities)
    for label, probability in prediction.probabilities.items():
        meter = page.get_by_role("meter", name=label)
        assert float(meter.get_attribute("aria-valuenow")) == pytest.approx(probability, abs=1e-4)
    slider = page.get_by_label("Opacity of the heat map")
    slider.fill("60")
    heat = page.locator("#heat")
    assert heat.evaluate("e => getComputedStyle(e).opacity") == "0.6"
    look(page, f"answer-{name.replace('.', '-')}")
    slider.fill("10")
    assert heat.evaluate("e => getComputedStyle(e).opacity") == "0.1"
    slider.fill("60")
    assert page.locator("#image").evaluate("e => Math.max(e.naturalWidth, e.naturalHeight)") == 512
    height, width = read(xray()).shape
    for picture in (page.locator("#image"), heat):
        box = picture.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.02)


def read(raw: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_GRAYSCALE)


@needs_a_browser
@pytest.mark.parametrize("name", ["Normal", "Viral", "Bacterial"])
def test_drawn_example_is_predicted(name, page):
    page.get_by_role("button", name=name, exact=True).click()
    page.locator("#picture").wait_for()
    assert page.get_by_role("status").count() == 1
    assert page.locator(".bar").count() == 3


@needs_a_browser
def test_page_works_by_keyboard_alone(page):
    page.get_by_role("button", name="Viral").focus()
    page.keyboard.press("Enter")
    page.locator("#picture").wait_for()
    page.get_by_label("Opacity of the heat map").focus()
    before = page.locator("#heat").evaluate("e => e.style.opacity")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#heat").evaluate("e => e.style.opacity") < before


@needs_a_browser
def test_dropped_file_is_sent(page):
    page.get_by_role("button", name="Normal").click()
    page.locator("#picture").wait_for()
    drop = """raw => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(raw)], "a.txt"));
      document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    }"""
    page.evaluate(drop, list(b"hello"))
    page.get_by_role("alert").filter(has_text="no JPEG, PNG or DICOM").wait_for()


@needs_a_browser
@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("notes.txt", b"hello", "no JPEG, PNG or DICOM"),
        ("half.jpeg", xray()[:4000], "cut short"),
        ("none.png", b"", "0 bytes"),
        ("large.png", b"\x89PNG\r\n\x1a\n" + bytes(2**21), "the limit is 2,097,152"),
    ],
)
def test_bad_file_is_refused_with_its_reason(name, raw, reason, page, console):
    choose(page, name, raw)
    page.get_by_role("alert").filter(has_text=reason).wait_for()
    page.locator("#picture").wait_for(state="hidden")  # of the prediction before
    assert page.locator(".bar").count() == 0
    look(page, f"bad-{name.partition('.')[0]}")
    console[:] = [line for line in console if "status of 422" not in line]  # browsers report every problem


@needs_a_browser
def test_noise_is_flagged_as_out_of_distribution(page, bundle):
    noise = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8))[1].tobytes()
    assert bundle.predict(noise).out_of_distribution
    choose(page, "noise.png", noise)
    page.get_by_role("status").filter(has_text="does not look like the X-rays").wait_for()
    page.locator("#picture").wait_for()
    look(page, "ood")


@needs_a_browser
@pytest.mark.parametrize("label", ["VIRUS", None])
def test_abstention_names_the_most_probable_class(label, page, bundle, console):
    prediction = {key: value for key, value in bundle.predict(xray()).model_dump().items() if key in KEYS}
    prediction |= {"label": label, "abstained": True, "out_of_distribution": False, "ms": 1.0, "model_version": "a/b"}
    prediction["probabilities"] = {"NORMAL": 0.2, "VIRUS": 0.41, "BACTERIA": 0.39}
    page.route("**/invocations", lambda route: route.fulfill(json=prediction))
    choose(page, "a.jpeg", xray())
    page.get_by_role("status").filter(has_text="abstains").wait_for()
    assert "VIRUS is the most probable class, with a probability of 41%" in page.get_by_role("status").inner_text()
    page.locator("#picture").wait_for()
    look(page, "abstained")
    page.unroute("**/invocations")


@needs_a_browser
@pytest.mark.parametrize(
    ("fulfil", "sentence"),
    [
        (
            {"status": 503, "json": {"error": "a", "reason": "There was no response within 60 s.", "remedy": "b"}},
            "within 60 s",
        ),
        ({"status": 502, "body": "<html>Bad gateway"}, "The service failed (HTTP status 502)."),
        ({"status": 200, "body": "<html>"}, "can't be read"),
        (None, "can't be reached"),
    ],
)
def test_failure_of_the_service_is_one_sentence(fulfil, sentence, page, console):
    page.route("**/invocations", lambda route: route.fulfill(**fulfil) if fulfil else route.abort())
    choose(page, "a.jpeg", xray())
    alert = page.get_by_role("alert").filter(has_text=sentence)
    alert.wait_for()
    assert "<html>" not in alert.inner_text()
    page.unroute("**/invocations")
    console[:] = [line for line in console if "Failed to load resource" not in line]


@needs_a_browser
def test_page_states_purpose_and_limitations(page, bundle):
    text = page.locator("body").inner_text()
    assert "Not a medical device" in text
    for sentence in bundle.contract.limitations:
        assert sentence in text
    assert bundle.contract.bundle_version in text


@needs_a_browser
def test_narrow_screen_does_not_scroll_sideways(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("button", name="Bacterial").click()
    page.locator("#picture").wait_for()
    look(page, "narrow")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in (".layers", ".bar", ".drop"):
        box = page.locator(part).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


@needs_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme, page):
    page.emulate_media(color_scheme=scheme)
    for name in ("h1", ".classes", ".note", ".box.warn", "a", "button", "dd"):
        text, ground = page.locator(name).first.evaluate(
            """element => {
              let ground = element;
              while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
              return [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
            }"""
        )
        assert contrast(text, ground) >= 4.5, (name, text, ground)


def contrast(one: str, other: str) -> float:
    """Of two colours such as ``rgb(1, 2, 3)``, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@needs_a_browser
def test_openapi_page_works_under_its_policy(page, running):
    page.goto(f"{running.url}/docs")
    page.get_by_text("/explanation").first.wait_for()
    look(page, "docs")


@needs_a_browser
def test_no_other_server_is_requested_and_the_console_is_empty(page, requested, running, console):
    assert len(requested) > 5
    assert {url for url in requested if not url.startswith((running.url, "data:", "blob:"))} == set()
    assert console == []


@needs_a_browser
def test_page_works_below_a_path(browser, running):
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)

    def pass_on(route) -> None:
        path = route.request.url.removeprefix(running.url)
        if path.startswith("/below/a/path/"):
            headers = {**route.request.headers, "authorization": f"Bearer {TOKEN}"}
            route.fulfill(response=route.fetch(url=running.url + path.removeprefix("/below/a/path"), headers=headers))
        else:
            route.abort()

    opened.route("**/*", pass_on)
    opened.goto(f"{running.url}/below/a/path/")
    opened.get_by_role("button", name="Viral").click()
    opened.locator("#picture").wait_for()
    context.close()


@needs_a_browser
def test_open_page_does_not_delay_the_stop(page, running):
    running.popen.send_signal(signal.SIGTERM)
    assert running.popen.wait(timeout=15) == 0
    assert not running.events("failed")
    assert running.unparsed == []


def test_every_file_of_the_page_requires_the_token(client_of):
    client = client_of(token=TOKEN, page=True)
    for path in ("/", "/page.css", "/page.js", "/examples/virus", "/docs/start.js"):
        assert client.get(path).status_code == 401, path
        assert client.get(path, auth=("anyone", TOKEN)).status_code == 200, path


def test_no_page_option_removes_the_page(client):
    for path in ("/", "/page.css", "/page.js", "/examples/virus"):
        assert client.get(path).status_code == 404, path
    assert client.get("/docs").status_code == 200


def test_text_of_a_contract_is_escaped(bundle_dir):
    contract = read_contract(bundle_dir).model_copy(update={"licence": "<script>alert(1)</script> $body_mib"})
    html = page_assets(contract, Limits())["/"].content.decode()
    assert "<script>alert" not in html
    assert "<script>alert(1)</script> $body_mib" in unescape(html)


def test_page_has_no_inline_code_or_style(paged):
    html = paged.get("/").text + paged.get("/docs").text
    assert "style=" not in html
    assert "<style" not in html
    assert " on" not in "".join(tag.partition(">")[0] for tag in html.split("<") if tag.startswith(("input", "button", "body")))
    assert html.count("<script") == html.count("<script src=")
