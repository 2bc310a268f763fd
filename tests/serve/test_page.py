"""The page in a real browser: an X-ray, a drawn one, a bad file, a narrow screen; no request to anyone else."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from pneumonia.bundle.answers import Bundle
from pneumonia.serve import page_words

from .conftest import Process, film, serving

CHROMIUM = os.environ.get("PNEUMONIA_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
TOKEN = "a-token-of-sixteen-or-more"
WAIT_MS = 90_000  # on a busy machine; an idle one loads the page in some seconds
PICTURES = os.environ.get("PNEUMONIA_SCREENSHOTS")  # a folder for what the tests see

needs_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")


def answer_of(bundle: Bundle, raw: bytes):
    return bundle.answer(raw)


@pytest.fixture(scope="module")
def paged(bundle_dir) -> Iterator[Process]:
    with serving(bundle_dir, PNEUMONIA_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def asked() -> list[str]:
    return []


@pytest.fixture(scope="module")
def page(paged, browser, asked):
    """The page, loaded; every address that it asks for is noted."""
    context = browser.new_context(
        viewport={"width": 1100, "height": 900}, http_credentials={"username": "anyone", "password": TOKEN}
    )
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(paged.url)
    opened.get_by_text("Drop File Here").first.wait_for()
    yield opened
    context.close()


def choose(page, name: str, raw: bytes) -> None:
    """Puts a file where one is dropped, in place of the last."""
    clear = page.get_by_label("Clear")
    if clear.count():
        clear.first.click()
    page.locator("input[type=file]").first.set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": raw}
    )


def look(page, name: str) -> None:
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{PICTURES}/{name}.png", full_page=True)


@needs_a_browser
def test_an_xray_is_answered_with_bars_and_a_heat_map_under_a_slider(page, bundle):
    raw = film()
    choose(page, "a.jpeg", raw)
    heat = page.locator(".px-heat")
    heat.wait_for()
    answer = bundle.answer(raw)
    assert page.locator(".px-bar").count() == len(answer.probabilities)
    for name, share in answer.probabilities.items():
        assert float(page.get_by_role("meter", name=name).get_attribute("aria-valuenow")) == pytest.approx(
            share, abs=1e-4
        )
    assert not list(Path(tempfile.gettempdir()).glob("pneumonia-page-*/*/a.jpeg")), "an X-ray lies about"
    slider = page.get_by_label("Opacity of the heat map")
    assert heat.evaluate("e => getComputedStyle(e).opacity") == "0.6"
    look(page, "answer")
    slider.fill("10")
    assert heat.evaluate("e => getComputedStyle(e).opacity") == "0.1"
    shown = page.locator(".px-film img").first.evaluate("e => [e.naturalWidth, e.complete]")
    assert shown == [page_words.SHOWN, True]
    box = page.locator(".px-film").bounding_box()
    height, width = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_GRAYSCALE).shape
    assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.02)


@needs_a_browser
def test_a_drawn_example_is_answered(page):
    page.get_by_role("button", name="Drawn, viral").click()
    page.locator(".px-map").wait_for()
    assert page.locator(".px-verdict").count() == 1


@needs_a_browser
@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("notes.txt", b"hello", "no JPEG, PNG or DICOM"),
        ("half.jpeg", film()[:4000], "cut short"),
        ("none.png", b"", "0 bytes"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(name, raw, reason, page):
    choose(page, name, raw)
    page.get_by_role("alert").filter(has_text=reason).wait_for()
    page.locator(".px-film").wait_for(state="detached")  # that of the answer before
    look(page, f"bad-{name.partition('.')[0]}")


@needs_a_browser
def test_a_photograph_is_flagged(page, bundle):
    noise = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8))[1].tobytes()
    assert bundle.answer(noise).out_of_distribution
    choose(page, "noise.png", noise)
    page.get_by_role("status").filter(has_text="does not look like the X-rays").wait_for()


@needs_a_browser
def test_the_page_says_what_it_is_and_what_the_model_can_do(page, bundle):
    text = page.locator("body").inner_text()
    assert "Not a medical device" in text
    for sentence in bundle.contract.limits:
        assert sentence in text
    assert bundle.contract.bundle_version in text


@needs_a_browser
def test_a_narrow_screen_needs_no_scrolling_sideways(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("button", name="Drawn, bacterial").click()
    page.locator(".px-map").wait_for()
    look(page, "narrow")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in (".px-film", ".px-bar"):
        box = page.locator(part).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


@needs_a_browser
def test_only_the_service_itself_is_asked(page, asked, paged):
    assert len(asked) > 5
    assert {url for url in asked if not url.startswith((paged.url, "data:", "blob:"))} == set()


@needs_a_browser
def test_gradio_is_shut_but_for_what_the_page_needs(page, paged):
    auth = ("anyone", TOKEN)
    for path in (
        "/gradio_api/proxy=https://example.com/",
        "/gradio_api/file=https://example.com/",
        "/gradio_api/openapi.json",
        "/gradio_api/runs",
        "/gradio_api/deep_link",
        "/login",
        "/monitoring",
    ):
        assert httpx.get(paged.url + path, auth=auth).status_code == 404, path
    assert httpx.get(f"{paged.url}/gradio_api/file=/etc/passwd", auth=auth).status_code in {403, 404}
    for path in ("/", "/config", "/assets/index.js", "/gradio_api/queue/data?session_hash=a"):
        assert httpx.get(paged.url + path).status_code == 401, path


@needs_a_browser
def test_an_open_page_does_not_keep_the_service_from_ending(page, paged):
    paged.popen.send_signal(signal.SIGTERM)
    assert paged.popen.wait(timeout=15) == 0  # the page's streams alone would last until drain-s, 20 s
    assert not paged.events("failed")


def test_without_its_page_the_service_has_none(client):
    assert client.get("/").status_code == 404
