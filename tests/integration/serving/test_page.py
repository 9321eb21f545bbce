"""The page for people in a real browser: its facts, its live figures, and its form, which asks the real engine."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

from slipway.measure.example import Example, load_example
from slipway.stores.registry import CHAMPION
from slipway.wiring import workshop
from tests.integration.serving.conftest import Served

pytestmark = pytest.mark.integration

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS, START_MS = 60_000, 180_000
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium: apt install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, headless=True, args=list(FLAGS), timeout=START_MS)
        yield opened
        opened.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser said in its console that is no test's intention."""
    return []


@pytest.fixture
def page(browser: Browser, served: Served, complaints: list[str]) -> Iterator[Page]:
    """The page, opened; at the end the browser must have had nothing to complain of."""

    def said(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(WAIT_MS)
    opened.on("console", said)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(served.url)
    yield opened
    opened.close()
    assert complaints == []


@pytest.fixture(scope="module")
def stored(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Example:
    """The examples as the registry keeps them."""
    registry, folder = workshop(served.root).registry, tmp_path_factory.mktemp("beside")
    return load_example(registry.companions(served.name, served.version, folder)["example.npz"])


def test_the_facts_are_those_of_the_registry(page: Page, served: Served) -> None:
    evidence = workshop(served.root).registry.version(served.name, served.version).evidence
    timing, accuracy = evidence.timing, evidence.accuracy
    assert timing is not None
    assert accuracy is not None

    assert page.title() == f"{served.name} · Slipway"
    article = page.get_by_role("article", name=served.name)
    for fact in (
        f"version {served.version}",
        CHAMPION,
        evidence.spec.variant,
        evidence.spec.engine,
        str(evidence.digest),
        evidence.model_uri,
        evidence.hardware.cpu,
        "Promoted by the release's gates",
        f"{timing.speedup.value:.2f}x",
        f"{timing.latency.p50_ms:.3f} ms",
        f"{accuracy.value:.4f}",
        f"at most {accuracy.drop_upper:+.4f}",
    ):
        expect(article).to_contain_text(fact)
    article.get_by_text("gates, with reasons").click()
    for name in evidence.gates:
        expect(article.get_by_role("listitem").filter(has_text=name).first).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("up")


def test_every_stored_example_is_answered_as_the_release_answered_it(page: Page, stored: Example) -> None:
    choice, ask = page.get_by_label("Stored example"), page.get_by_role("button", name="Ask the model")
    scores, target = stored.outputs["logits"], stored.target
    expect(choice.locator("option")).to_have_count(len(target))

    for index in range(len(target)):
        choice.select_option(str(index))
        expect(page.get_by_role("img", name="x: FP32 [1, 64]")).to_be_visible()
        expect(ask).to_be_enabled()
        ask.click()
        expect(page.locator(".took")).to_be_visible()
        top = int(scores[index].argmax())
        shown = page.locator(".classes li")
        expect(shown.first).to_have_attribute("data-class", str(top))
        share = np.exp(scores[index] - scores[index].max())
        expect(shown.first.locator(".share")).to_have_text(f"{share.max() / share.sum():.1%}")
        expect(page.locator(f'.classes li[data-class="{int(target[index])}"] .true')).to_have_text("true label")
        expect(page.locator(".same")).to_contain_text(f"The stored answer is class {top} too")


def test_the_drawing_is_the_examples(page: Page, stored: Example) -> None:
    expect(page.get_by_role("img", name="x: FP32 [1, 64]")).to_be_visible()
    inked = page.evaluate(
        """() => {
            const canvas = document.querySelector("canvas.series");
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            const heights = [];
            for (let step = 0; step < 64; step++) {
                const x = Math.round(12 + (step * 936) / 63);
                const rows = [];
                for (let y = 0; y < canvas.height; y++) if (pixels[(y * canvas.width + x) * 4 + 3] > 128) rows.push(y);
                heights.push([Math.min(...rows), Math.max(...rows)]);
            }
            return heights;
        }"""
    )

    x = stored.inputs["x"][0]
    for value, (above, below) in zip((x - x.min()) / (x.max() - x.min()), inked, strict=True):
        assert above - 3 <= 340 - 328 * value <= below + 3


def test_the_figures_follow_the_requests(page: Page, served: Served, stored: Example) -> None:
    answered = page.locator('[data-live="answered"]')
    expect(page.locator("[data-window]")).to_contain_text("over the last")
    before = int(answered.inner_text().replace(",", ""))
    body = request_of(stored)

    with asking(f"{served.url}/v2/models/{served.name}/infer", body) as answers:
        expect(page.locator('[data-live="rate"]')).to_have_text(re.compile(r"^\d*[1-9]"))
        expect(page.locator('[data-live="p50"]')).to_have_text(re.compile(r"^[\d.]+ ms$"))
        expect(page.locator('[data-live="p99"]')).to_have_text(re.compile(r"^[\d.]+ ms$"))
    wait_for(page, lambda: int(answered.inner_text().replace(",", "")) >= before + len(answers))
    assert page.locator('[data-spark="rate"] path').get_attribute("d")

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{served.url}/v2/models/{served.name}/infer", b"no JSON", timeout=30)
    refused.value.close()
    expect(page.locator('[data-live="errors"]')).to_have_text(re.compile("^[1-9]"))
    expect(page.locator('[data-live="causes"]')).to_contain_text("bad request: ")


def test_inputs_unlike_those_of_the_release_are_told(page: Page, served: Served, stored: Example) -> None:
    strange = Example({"x": stored.inputs["x"] + 100}, {}, stored.target)

    with asking(f"{served.url}/v2/models/{served.name}/infer", request_of(strange)):
        expect(page.locator(".drift .high")).to_have_text(re.compile(r"^PSI \d.*, unlike the data of the release$"))
    expect(page.locator(".drift dt")).to_have_text("Drift of x")


def test_without_a_script_the_facts_are_there_and_no_form_that_would_not_work(browser: Browser, served: Served) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(served.url)
        expect(page.get_by_role("heading", name=served.name)).to_be_visible()
        expect(page.get_by_text("As the release measured it")).to_be_visible()
        expect(page.get_by_text("with JavaScript, which does not run here")).to_be_visible()
        expect(page.get_by_role("button")).to_have_count(0)


def test_a_server_that_is_gone_is_told_and_one_that_is_back_too(page: Page, complaints: list[str]) -> None:
    state = page.get_by_role("status")
    expect(state).to_have_text("up")

    page.route("**/metrics", lambda route: route.abort())
    expect(state).to_have_text("does not answer; asked again every 2 s")
    page.unroute("**/metrics")
    expect(state).to_have_text("up")
    assert all("ERR_FAILED" in one for one in complaints)
    complaints.clear()


def test_another_version_is_announced(page: Page, served: Served) -> None:
    expect(page.get_by_text("Another version serves now")).to_be_hidden()

    def later(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        told["model_stats"][0]["version"] = "77"
        route.fulfill(response=answer, json=told)

    page.route("**/stats", later)
    expect(page.get_by_role("link", name="Show it")).to_be_visible()
    page.unroute_all(behavior="wait")


@pytest.mark.parametrize(
    ("shape", "place"),
    [
        ((1, 3, 4, 6), lambda y, x, colour: (0, colour, y, x)),
        ((1, 4, 6, 3), lambda y, x, colour: (0, y, x, colour)),
        ((1, 1, 4, 6), lambda y, x, colour: (0, 0, y, x)),
    ],
)
def test_images_of_one_or_three_channels_are_drawn_in_their_colours(
    page: Page, complaints: list[str], shape: tuple[int, ...], place: Callable[[int, int, int], tuple[int, ...]]
) -> None:
    values = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32)
    image = np.random.default_rng(0).permutation(values).reshape(shape)
    example = {
        "label": 1,
        "answer": [],
        "request": {"inputs": [{"name": "image", "datatype": "FP32", "shape": shape, "data": image.ravel().tolist()}]},
    }
    page.route("**/examples/**", lambda route: route.fulfill(json=example))
    page.reload()

    expect(page.get_by_role("img", name=f"image: FP32 [{', '.join(map(str, shape))}]")).to_be_visible()
    pixels = page.evaluate(
        """() => Array.from(
            document.querySelector("canvas.image").getContext("2d").getImageData(0, 0, 6, 4).data
        )"""
    )
    for y, x, colour in itertools.product(range(4), range(6), range(3)):
        wanted = (image[place(y, x, colour)] + 1) / 2 * 255
        assert pixels[(y * 6 + x) * 4 + colour] == pytest.approx(wanted, abs=1)

    # The model takes no image: the form tells what the server said to it.
    page.get_by_role("button", name="Ask the model").click()
    expect(page.locator(".error")).to_contain_text("the model takes x float32[-1, 64], but was given image")
    assert all("400" in one for one in complaints)
    complaints.clear()
    page.unroute_all(behavior="wait")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_cut_off_at_any_width(
    browser: Browser, served: Served, tmp_path: Path, width: int, scheme: Any
) -> None:
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(served.url)
        page.get_by_role("button", name="Ask the model").click()
        expect(page.locator(".took")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", ground))) < 128) is (scheme == "dark")


def request_of(stored: Example) -> bytes:
    x = stored.inputs["x"]
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


@contextmanager
def asking(place: str, body: bytes) -> Iterator[list[bytes]]:
    """Ask over and over, as long as the block lasts; the answers so far."""
    answers: list[bytes] = []
    enough = threading.Event()

    def ask() -> None:
        while not enough.wait(0.01):
            with urllib.request.urlopen(place, body, timeout=30) as answer:
                answers.append(answer.read())

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        yield answers
    finally:
        enough.set()
        asker.join()


def wait_for(page: Page, happened: Callable[[], bool]) -> None:
    for _ in range(WAIT_MS // 100):
        with suppress(ValueError):
            if happened():
                return
        page.wait_for_timeout(100)
    pytest.fail("it did not happen")
