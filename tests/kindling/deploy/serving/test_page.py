"""The page of the server, in a real browser."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.kindling.runs.run import Run
from tests.kindling.deploy.serving.server_process import (
    Server,
    encode,
    file_of,
    form,
    serve,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not installed; run apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)  # its default, 5 s, is short for a busy machine
    return expect(locator)


@contextmanager
def open_page(browser: Any, server: Server, **options: Any) -> Iterator[Any]:
    """A page that may send requests only to the server."""
    page = browser.new_page(bypass_csp=True, **options)  # or wait_for_function is blocked
    page.set_default_timeout(60_000)
    urls: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    yield page
    assert errors == []
    assert [url for url in urls if not url.startswith((server.url, "blob:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


DROP = """bytes => {
    const data = new DataTransfer(), type = "image/png";
    data.items.add(new File([new Uint8Array(bytes)], "it's seven.png", {type}));
    const options = {dataTransfer: data, bubbles: true, cancelable: true};
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", options));
}"""
PASTE = """bytes => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "image.png", {type: "image/png"}));
    dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
}"""
WIDE, NARROW = {"width": 1200, "height": 800}, {"width": 360, "height": 740}


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_page_predicts_a_dropped_image(
    size: Any, scheme: str, browser: Any, images: Server, digits: Run, tmp_path: Path
) -> None:
    x = digits.data().samples.x[7, 0].numpy()
    file = encode((x * (255 / 16)).round().astype(np.uint8))
    expected = images.request("/predict", file)[1]
    ranked = sorted(expected["probabilities"].items(), key=lambda item: -item[1])
    with open_page(browser, images, viewport=size, color_scheme=scheme) as page:
        bars = page.locator("#bars li")
        for script in (PASTE, DROP):
            page.reload()
            page.wait_for_selector("#drawing")  # else the drop may come before the page listens
            page.evaluate(script, list(file))
            expect(bars).to_have_count(10)
            assert page.text_content("#prediction") == expected["prediction"]
            names = bars.locator("span:first-child").all_text_contents()
            assert names == [name for name, _ in ranked]
            values = bars.locator("span:last-child").all_text_contents()
            assert values == [f"{100 * value:.1f} %" for _, value in ranked]
            filled = bars.locator(".bar i").first.bounding_box()["width"]
            width = bars.locator(".bar").first.bounding_box()["width"]
            assert filled == pytest.approx(width * ranked[0][1], rel=0.05)
            assert " ms in the server, " in page.text_content("#time")
        # The displayed command sends the same request.
        (tmp_path / "it's seven.png").write_bytes(file)
        if shutil.which("curl"):
            command = page.text_content("#curl")
            done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
            probabilities = json.loads(done.stdout)["probabilities"]
            assert probabilities == pytest.approx(expected["probabilities"], abs=1e-6)
        page.screenshot(path=tmp_path / f"image-{scheme}.png", full_page=True)
        page.evaluate(DROP, [1, 2, 3])
        expect(page.locator("#error")).to_contain_text("not an image; send one of PNG")
        assert_no_answer(page)
        expect(page.locator("#image")).to_be_hidden()
        page.evaluate(DROP, list(file))
        expect(page.locator("#error")).to_be_empty()
        assert page.locator("#prediction").inner_text() == expected["prediction"]


def assert_no_answer(page: Any) -> None:
    """Nothing of an earlier response is left, neither visible nor in the document."""
    assert page.locator("#answer").is_hidden()
    assert page.locator("#answer").inner_text().strip() == ""
    assert page.locator("#bars li").count() == 0
    assert page.locator("#answer img[src]").count() == 0


def test_page_predicts_a_drawing(browser: Any, images: Server, tmp_path: Path) -> None:
    with open_page(browser, images, viewport=WIDE) as page:
        page.wait_for_selector("#drawing")
        box = page.locator("#canvas").bounding_box()
        page.mouse.move(box["x"] + 128, box["y"] + 30)
        page.mouse.down()
        page.mouse.move(box["x"] + 128, box["y"] + 220, steps=5)
        page.mouse.up()
        page.wait_for_selector("#bars li")
        with page.expect_download() as download:
            page.click("#save")
        drawing = np.asarray(Image.open(download.value.path()).convert("L"))
        assert drawing.shape == (256, 256)
        assert drawing[60:200, 125:131].min() == 255
        assert drawing[:, :90].max() == 0
        before = page.text_content("#bars")
        page.click("#clear")
        page.focus("#canvas")
        page.keyboard.press("Space")
        for key in ["ArrowUp"] * 8 + ["ArrowRight"] * 6:
            page.keyboard.press(key)
        expect(page.locator("#bars")).not_to_have_text(before)
        page.screenshot(path=tmp_path / "drawing.png")
        page.evaluate(DROP, list(encode()))
        expect(page.locator("#image")).to_be_visible()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#image")).to_be_hidden()  # the answer is the drawing's
        page.click("#clear")
        assert_no_answer(page)
        expect(page.locator("#nothing")).to_be_visible()


# The first drawing is ready only when `held` is called, as on a slow machine.
HOLD = """() => {
    const toBlob = HTMLCanvasElement.prototype.toBlob;
    window.held = new Promise(resolve => {
        HTMLCanvasElement.prototype.toBlob = function(ready) {
            toBlob.call(this, blob => resolve(() => ready(blob)));
        };
    });
}"""


@pytest.mark.parametrize("later", ["file", "clear"])
def test_drawing_that_is_encoded_late_does_not_replace_what_came_after_it(
    later: str, browser: Any, images: Server
) -> None:
    with open_page(browser, images, viewport=WIDE) as page:
        page.wait_for_selector("#drawing")
        page.evaluate(HOLD)
        page.focus("#canvas")
        page.keyboard.press("Space")
        page.keyboard.press("ArrowUp")
        if later == "file":
            page.evaluate(DROP, list(encode()))
            expect(page.locator("#bars li")).to_have_count(10)
        else:
            page.click("#clear")
        page.evaluate("async () => (await held)()")
        assert page.locator("#save").is_hidden()
        assert page.locator("#image").is_visible() == (later == "file")
        assert page.locator("#command").is_visible() == (later == "file")
        if later == "file":
            assert "seven.png" in page.text_content("#curl")


def test_page_and_docs_obey_their_content_policy(browser: Any, images: Server) -> None:
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(images.url)
    page.locator("#file").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": encode()}
    )
    expect(page.locator("#bars li")).to_have_count(10)
    page.goto(f"{images.url}docs")
    expect(page.locator("section")).to_have_count(6)
    page.close()
    assert refused == []


def test_page_has_a_form_for_the_columns(browser: Any, tables: Server, tmp_path: Path) -> None:
    with open_page(browser, tables, viewport=NARROW) as page:
        page.wait_for_selector("#row button")
        labels = page.locator("#row label").all_text_contents()
        assert labels == ["size", "rooms", "colorblueredmissing", "newtruefalsemissing"]
        page.fill("[name=size]", "3")
        page.fill("[name=rooms]", "")
        page.select_option("[name=color]", "red")
        page.press("[name=size]", "Enter")
        expect(page.locator("#prediction")).not_to_be_empty()
        given = {"size": 3, "rooms": None, "color": "red", "new": True}
        expected = tables.request("/predict", json.dumps(given).encode())[1]["prediction"]
        assert float(page.text_content("#prediction")) == pytest.approx(expected, rel=1e-3)
        assert page.text_content("#what") == "price"
        assert json.dumps(given, separators=(",", ":")) in page.text_content("#curl")
        page.screenshot(path=tmp_path / "table.png", full_page=True)
        page.fill("[name=size]", "large")
        page.press("[name=size]", "Enter")
        expect(page.locator("#error")).to_contain_text("column 'size': 'large' (row 1)")
        assert_no_answer(page)
        page.screenshot(path=tmp_path / "refused.png", full_page=True)
        page.context.set_offline(True)
        page.fill("[name=size]", "3")
        page.press("[name=size]", "Enter")
        expect(page.locator("#error")).to_have_text("The server does not respond.")
        assert_no_answer(page)


def test_page_with_a_key_and_docs(browser: Any, locked: Server, tmp_path: Path) -> None:
    with open_page(browser, locked, viewport=WIDE) as page:
        page.wait_for_selector("#key")
        assert page.locator("main").is_hidden()
        page.keyboard.type("much secret")  # the field has the focus
        page.keyboard.press("Enter")
        page.wait_for_selector("#row button")
        page.click("#row button")
        expect(page.locator("#prediction")).not_to_be_empty()
        assert '-H "Authorization: Bearer $KEY"' in page.text_content("#curl")
        page.click("nav a")
        page.wait_for_selector("section")
        titles = page.locator("h2").all_text_contents()
        assert titles[:2] == ["POST /predict", "POST /predict/batch"]
        commands = page.locator("pre").all_text_contents()
        page.screenshot(path=tmp_path / "docs.png", full_page=True)
    if shutil.which("curl"):
        env = {**os.environ, "KEY": "much secret"}
        for command in commands:
            words = ["bash", "-c", command]
            done = subprocess.run(words, capture_output=True, text=True, env=env)
            assert done.stdout, command
            assert '"error"' not in done.stdout, command


def test_predict_mask_matches_run(scenes: Run, browser: Any) -> None:
    data, classes = scenes.data(), scenes.spec.classes
    x = data.samples.x[data.indices["test"][0]]
    expected = scenes.predict(x[None])["prediction"][0].numpy()
    pixels = (x[0].numpy() * (255 / scenes.spec.max_value)).round().astype(np.uint8)
    large = encode(np.kron(pixels, np.ones((3, 3), dtype=np.uint8)))
    shares = {name: float((expected == i).mean()) for i, name in enumerate(classes)}
    with serve(file_of(scenes)) as server:
        status, response = server.request("/predict", encode(pixels))
        assert status == 200
        assert set(response) == {"prediction", "shares", "milliseconds"}
        assert response["shares"] == pytest.approx(shares, abs=1e-6)
        several = server.request("/predict/batch", *form(encode(pixels), name="files"))[1]
        assert several["predictions"][0]["prediction"] == response["prediction"]
        mask = decode_mask(response)
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), expected)
        mask = decode_mask(server.request("/predict", large)[1])
        assert mask.size == (3 * expected.shape[1], 3 * expected.shape[0])
        with open_page(browser, server) as page:
            page.wait_for_selector("#drop")
            assert page.text_content("#about") == (
                f"Input: an image. Prediction: a mask of {len(classes)} classes."
            )
            page.evaluate(DROP, list(large))
            page.wait_for_function("document.getElementById('mask').naturalWidth == 96")
            largest = max(shares, key=lambda name: shares[name])
            assert page.locator("#bars li span:first-child").first.text_content() == largest
            image, mask = page.locator("#masked-image"), page.locator("#mask")
            assert image.bounding_box() == mask.bounding_box()  # the mask overlays the image
            assert image.evaluate("image => image.naturalWidth") == 96
            page.evaluate(DROP, [1, 2, 3])
            expect(page.locator("#error")).to_contain_text("not an image")
            assert_no_answer(page)


def decode_mask(response: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(b64decode(response["prediction"].partition(",")[2])))
