"""The page in a real browser: type, drop, slide, open, back; by mouse and keyboard, wide and narrow."""

import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serve.conftest import base64_of

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("compile_fast"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}"),
]
QUIET = ("background-networking", "component-update", "sync", "gpu", "quic")
ARGUMENTS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
PICTURES = Path(os.environ.get("VACSR_SCREENSHOTS", ""))  # a folder, to look at the page


@pytest.fixture(scope="module")
def address(app):
    """The application on a port of this machine."""
    from vacsr_jax.serve.app import Server

    port, opened = [], threading.Event()
    server = Server(app, "127.0.0.1", 0, lambda x: (port.append(x), opened.set()))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert opened.wait(30)
    yield f"http://127.0.0.1:{port[0]}"
    server.should_exit = True
    began = time.monotonic()
    thread.join(30)
    assert time.monotonic() - began < 20  # open pages do not hold it up


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(params=[1280, 400], ids=["wide", "narrow"])
def page(request, browser, address):
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.set_default_timeout(15_000)
    faults = []
    page.on("response", lambda x: faults.append(f"{x.status} {x.url}") if x.status >= 400 else None)
    page.on("pageerror", lambda x: faults.append(str(x)))
    page.on("dialog", lambda x: faults.append("a script of a document ran"))
    page.on("request", lambda x: faults.append(x.url) if not x.url.startswith((address, "data:", "blob:")) else None)
    page.goto(address)
    page.get_by_label("What are you looking for?").wait_for()
    yield page
    if PICTURES.name:
        page.screenshot(path=PICTURES / f"{request.node.name}.png")
    fits = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()
    assert faults == []
    assert fits


def kinds(page):
    return page.locator("#grid li .badge").all_text_contents()


def ids(page):
    return page.locator("#grid li code").all_text_contents()


def search(page, text):
    page.get_by_label("What are you looking for?").fill(text)
    page.get_by_label("What are you looking for?").press("Enter")
    page.get_by_text(f"for “{text}”").wait_for()


def places_of_texts(page):
    return sum(i for i, kind in enumerate(kinds(page)) if kind == "text")


def test_type_slide_open_and_back(page):
    search(page, "a red circle")
    assert sorted(set(kinds(page))) == ["picture", "text"]
    assert len(ids(page)) == 11
    assert "{{value}} ${1+1} <img src=x onerror=alert(1)>" in page.locator("#grid").text_content()
    picture = page.locator("#grid li img").first
    picture.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#grid li img').naturalWidth > 0")

    if page.viewport_size["width"] < 700:
        page.get_by_role("button", name="Adjust the results").click()
    fair, places = ids(page), places_of_texts(page)
    slider = page.get_by_role("slider", name=re.compile("Favour texts"))
    slider.focus()
    slider.press("End")  # by keyboard, to 3
    page.wait_for_function(
        "(x) => [...document.querySelectorAll('#grid code')].map((x) => x.textContent) + '' !== x", arg=",".join(fair)
    )
    before = ids(page)
    assert sorted(before) == sorted(fair)
    assert places_of_texts(page) < places
    details = page.locator("#grid li.k0").first.get_by_role("button", name="Details")
    details.focus()
    details.press("Enter")
    page.get_by_text("The model holds a match for").wait_for()
    assert page.locator("#detail svg").count() == 1
    page.wait_for_function("document.activeElement.id === 'close'")
    page.keyboard.press("Escape")
    page.locator("#close").wait_for(state="hidden")
    page.wait_for_function("document.activeElement.dataset.act === 'open'")
    assert ids(page) == before

    first = before[0]
    page.locator("#grid li").first.get_by_role("button", name="More like").click()
    page.get_by_text(f"like {first}").wait_for()
    assert first not in ids(page)
    page.get_by_role("button", name="Back to the search before").click()
    page.get_by_text("for “a red circle”").wait_for()
    assert ids(page) == before


def test_drop_a_picture(page, served):
    file = "new File([Uint8Array.from(atob(blob), (x) => x.charCodeAt(0))], 'p3.png', {type: 'image/png'})"
    make = f"(blob) => {{ const data = new DataTransfer(); data.items.add({file}); return data; }}"
    data = page.evaluate_handle(make, base64_of(served / "pictures" / "p3.png"))
    page.locator(".drop button").first.dispatch_event("drop", {"dataTransfer": data})
    page.get_by_text("for your picture").wait_for()
    assert "p3.png" in ids(page)
    texts = page.get_by_role("checkbox", name="texts")
    if not texts.is_visible():
        page.get_by_role("button", name="Adjust the results").click()
    texts.uncheck()
    page.wait_for_function("![...document.querySelectorAll('#grid .badge')].some((x) => x.textContent === 'text')")
    assert set(kinds(page)) == {"picture"}


@pytest.mark.parametrize("page", [1280], indirect=True)
def test_a_file_that_is_no_picture_gets_a_sentence(page, tmp_path):
    (tmp_path / "no.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "no.png")
    assert "no picture that can be read" in page.get_by_role("alert").filter(has_text="picture").inner_text()


def test_compare_a_picture_with_captions(page, tmp_path):
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / "grey.png")
    page.get_by_role("tab", name="Compare").click()
    page.locator("input[type=file]").last.set_input_files(tmp_path / "grey.png")
    page.get_by_label("Captions").fill("a red circle\na blue square\n\na red circle")
    page.get_by_role("button", name="Compare").click()
    page.locator(".captions tbody tr").first.wait_for()
    rows = page.locator(".captions tbody tr").all_inner_texts()
    assert len(rows) == 2
    assert all(re.search(r"% to .* %", row.replace("\n", " ")) for row in rows)


@pytest.mark.parametrize("page", [400], indirect=True)
def test_the_bias_of_the_index_is_shown(page):
    page.get_by_role("tab", name="Fairness").click()
    page.get_by_text("By raw similarity they would take").first.wait_for()
    assert page.locator("img.diagnosis").is_visible()


@pytest.mark.parametrize("page", [1280], indirect=True)
def test_a_search_in_the_address(page, address):
    page.goto(f"{address}/?text=blue")
    page.get_by_text("for “blue”").wait_for()
    assert page.get_by_label("What are you looking for?").input_value() == "blue"
