"""The page for people: what it tells of a served model, and the stored examples that it lets them try."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from slipway.measure.example import Example, save_example
from slipway.records import Decision, Evidence, TensorSpec, Verdict
from slipway.serving.answering.local_engine import Origin
from slipway.serving.answering.served import ServedModel, Statistics
from slipway.serving.http.payload import read_infer_request
from slipway.serving.page.page import routes
from slipway.serving.page.page_words import approval
from slipway.serving.page.stored_examples import MOST_NUMBERS
from tests.fakes.evidence import ACCURACY, LATENCY, SIGNATURE, TIMING, evidence

DIGEST = "d" * 64
OPENED = 1_790_000_000.0  # 21 September 2026, 13:33:20 UTC


@dataclass
class Served:
    """As much of a served model as the page looks at."""

    name: str = "digits.x86"
    version: str = "3"
    evidence: Evidence = field(default_factory=lambda: evidence(DIGEST))
    origin: Origin = field(default_factory=Origin)
    opened: float = OPENED
    statistics: Statistics = field(default_factory=Statistics)
    inputs: tuple[TensorSpec, ...] = SIGNATURE.inputs
    outputs: tuple[TensorSpec, ...] = SIGNATURE.outputs


class Page(HTMLParser):
    """What a browser would find: the tags, the text outside of them, and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "action"}]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def client(*models: Served) -> TestClient:
    return TestClient(Starlette(routes=routes(lambda: cast(list[ServedModel], list(models)))))


def page_of(*models: Served) -> Page:
    answer = client(*models).get("/")
    assert answer.status_code == 200
    return Page(answer.text)


def stored(path: Path, n: int = 3, width: int = 4, **changes: Any) -> Origin:
    """An origin with ``n`` examples of the evidence's signature."""
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "inputs": {"x": random.normal(size=(n, width)).astype(np.float32)},
        "outputs": {"y": random.normal(size=(n, 2)).astype(np.float32)},
        "target": np.arange(n),
    }
    file = path / "example.npz"
    save_example(file, Example(**(arrays | changes)))
    return Origin(companions={"example.npz": file})


def test_a_person_finds_without_a_script_what_is_served_and_how_it_was_measured() -> None:
    text = page_of(Served()).text

    for fact in (
        "digits.x86 version 3 champion fp32 onnxruntime",
        "Served since 21 September 2026, 14:13 UTC",
        "Promoted by the release's gates",
        "Speed-up 2.00x 1.80 to 2.20, over eager PyTorch in fp32",
        "Latency, median 1.000 ms batch 1, 1 thread; eager PyTorch 1.000 ms",
        "Accuracy (top1) 0.9800 reference 0.9810; drop +0.0010, at most +0.0040 at 95% confidence, 1,000 examples",
        "Target x86: cpu, 2 cores, avx2",
        f"sha256 {DIGEST}",
        "input x FP32 [any, 4]",
        "output y FP32 [any, 2]",
    ):
        assert fact in text


def test_what_was_not_measured_is_left_out() -> None:
    latency = LATENCY.model_copy(update={"p99_ms": 1.75})
    measured = page_of(Served(evidence=evidence(DIGEST, timing=TIMING.model_copy(update={"latency": latency}))))
    bare = page_of(Served(evidence=evidence(DIGEST, timing=None, accuracy=None, size_bytes=None)))

    assert "1.750 ms of 100 calls" in measured.text
    assert "1.750 ms" not in page_of(Served()).text
    assert not {"Speed-up", "Accuracy", "Size", "None"} & set(re.findall(r"[\w-]+", bare.text))


def test_gates_are_told_with_their_reasons() -> None:
    gate = Decision(verdict=Verdict.PASS, reasons=("drop 0.001 <= 0.010", "n 1000 >= 100"))

    assert "1 gate, with reasons PASS accuracy drop 0.001 <= 0.010; n 1000 >= 100" in (
        page_of(Served(evidence=evidence(DIGEST, gates={"accuracy": gate}))).text
    )


def test_answers_and_failures_until_now_are_told() -> None:
    served = Served()
    for _ in range(1200):
        served.statistics.answered(2_500_000)
    served.statistics.failed(1)

    assert (
        "1,200 requests answered since it is served , in 2.5 ms on average ; 1 refused or failed"
        in page_of(served).text
    )


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (Origin(), "Promoted by the release's gates"),
        (Origin(decision="promoted", approver="ada", reason="seen it"), "Promoted by ada"),
        (Origin(alias="challenger"), "It passed the release's gates; nobody has decided on it yet"),
        (Origin(approver="ada"), "Decided on by ada"),
    ],
)
def test_it_is_told_by_whose_word_a_model_is_served(origin: Origin, words: str) -> None:
    assert approval(origin) == words


def test_whatever_a_thing_is_called_stays_text() -> None:
    evil = "\"><script>alert('x')</script>"
    found = evidence(
        evil,
        accuracy=ACCURACY.model_copy(update={"metric": evil}),
        gates={evil: Decision(verdict=Verdict.PASS, reasons=(evil,))},
        model_uri=evil,
        engine_version=evil,
        executed_precision={evil: 1},
    )
    spec = TensorSpec(name=evil, dtype="float32", shape=(-1, 4))
    origin = Origin(alias=evil, decision=evil, approver=evil, reason=evil)
    plain = page_of(Served())
    page = page_of(Served(evil, evil, found, origin, inputs=(spec,)))

    assert page.tags.count("script") == plain.tags.count("script")
    assert page.text.count(evil) >= 11
    assert not [reference for reference in page.references if evil in reference]


def test_the_page_needs_nothing_but_this_server(tmp_path: Path) -> None:
    asked = client(Served(origin=stored(tmp_path)))
    answer = asked.get("/")
    page = Page(answer.text)

    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not re.search(r"\sstyle=|\son\w+=", answer.text)
    files = [one for one in page.references if one.startswith("page/")]
    assert sorted(files) == ["page/ask.js", "page/live.js", "page/page.css"]
    for file in files:
        found = asked.get(f"/{file}")
        assert (found.status_code, found.headers["x-content-type-options"]) == (200, "nosniff")
        assert found.headers["content-type"].startswith("text/css" if file.endswith("css") else "text/javascript")
        assert "//" not in re.sub(r"^ *//.*|; // .*", "", found.text, flags=re.MULTILINE)
    others = [one for one in page.references if not one.startswith(("page/", "v2/", "data:image/svg+xml,"))]
    assert others == ["", "metrics"]  # the page itself, to be loaded anew


def test_the_page_has_no_other_files() -> None:
    for name in ("page.html", "..%2fpage.py", "missing.js"):
        assert client(Served()).get(f"/page/{name}").status_code == 404


def test_a_stored_example_is_a_request_of_the_protocol_beside_its_answer_and_label(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    inputs = {
        "x": random.normal(size=(3, 2, 5)).astype(np.float32),
        "mask": np.array([[True], [False], [True]]),
        "ids": np.array([[1, 2**40], [3, 4], [5, 6]]),
    }
    outputs = {"y": random.normal(size=(3, 2)).astype(np.float16)}
    asked = client(Served(origin=stored(tmp_path, inputs=inputs, outputs=outputs, target=np.array([7, 8, 9]))))

    answer = asked.get("/examples/digits.x86/1")

    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert told["label"] == 8
    sent = asked.get("/examples/digits.x86/1").content
    request = sent[sent.index(b'{"inputs"') : sent.index(b',"answer"')]
    read = read_infer_request(request, None)
    assert list(read.arrays) == ["x", "mask", "ids"]
    for name, array in inputs.items():
        np.testing.assert_array_equal(read.arrays[name], array[1:2], strict=True)
    (output,) = told["answer"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP16", [1, 2])
    np.testing.assert_array_equal(np.array(output["data"], np.float16), outputs["y"][1])
    assert "3 · label 9" in page_of(Served(origin=stored(tmp_path, target=np.array([7, 8, 9])))).text


def test_a_target_of_several_numbers_is_no_label(tmp_path: Path) -> None:
    origin = stored(tmp_path, target=np.zeros((3, 2)))

    assert client(Served(origin=origin)).get("/examples/digits.x86/0").json()["label"] is None
    assert "label" not in page_of(Served(origin=origin)).text.split("Stored example")[1].split("Ask the model")[0]


def test_what_is_not_stored_is_not_found(tmp_path: Path) -> None:
    kept = Served(origin=stored(tmp_path))
    for place in ("digits.x86/3", "other.x86/0", "digits.x86/-1", "digits.x86/x", "digits.x86/" + 5000 * "9"):
        assert client(kept).get(f"/examples/{place}").status_code == 404
    assert client(kept).get("/examples/digits.x86/2").status_code == 200


@pytest.mark.parametrize("case", ["none was kept", "the version has gone with its files", "one is too large"])
def test_a_model_without_examples_says_so(tmp_path: Path, case: str) -> None:
    origin = {
        "none was kept": Origin,
        "the version has gone with its files": lambda: Origin(companions={"example.npz": tmp_path / "gone"}),
        "one is too large": lambda: stored(tmp_path, n=1, width=MOST_NUMBERS),
    }[case]()
    asked = client(Served(origin=origin))

    assert asked.get("/examples/digits.x86/0").status_code == 404
    page = Page(asked.get("/").text)
    assert "kept no example beside this engine" in page.text
    assert "form" not in page.tags


def test_every_served_model_has_its_part_and_none_is_no_error() -> None:
    two = page_of(Served(), Served("ecg.x86", "1"))

    assert (two.tags.count("article"), two.tags.count("h1")) == (2, 2)
    assert "v2/models/ecg.x86/config" in two.references
    assert "No model is served at the moment." in page_of().text
