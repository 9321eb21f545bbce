from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from slipway.errors import BadInputError, TamperedError
from slipway.examples.recipe import Example, Reporter, Split
from slipway.records import TensorSpec
from slipway.stores.tracking import verify
from tests.fakes.registry import FakeRegistry


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(1024, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(image.flatten(1))
        return logits


@dataclass
class Bench:
    """A tiny example in a fresh project, and what happened to it."""

    root: Path
    source: Path
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    makes: int = 0
    told: list[str] = field(default_factory=list)

    def example(self, *distributions: str) -> Example:
        return Example(
            name="tiny",
            model_name="tiny-net",
            params=Path("params.yaml"),
            input=TensorSpec(name="image", dtype="float32", shape=(-1, 1, 32, 32)),
            classes=10,
            sources=(self.source,),
            distributions=distributions,
            make=self.make,
        )

    def make(self, root: Path, progress: Reporter) -> tuple[dict[str, Split], torch.nn.Module]:
        self.makes += 1
        images = np.random.default_rng(0).random((4, 1, 32, 32), dtype=np.float32)
        split = Split(images, np.arange(4))
        return {"test": split, "calibration": split}, Network().eval()

    def restore(self) -> None:
        self.told.clear()
        self.example("numpy").restore(self.root, self.registry, self.told.append)

    def prepare(self) -> str:
        self.told.clear()
        return self.example("numpy").prepare(self.root, self.registry, self.told.append).uri

    @property
    def record(self) -> Path:
        return self.root / "data" / "tiny" / "test.dvc"

    @property
    def shard(self) -> Path:
        return self.root / "data" / "tiny" / "test" / "shard-00000.npz"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    root, source = tmp_path / "project", tmp_path / "source.py"
    root.mkdir()
    source.write_text("one")
    return Bench(root, source)


def test_data_is_tracked_and_the_model_registered(bench: Bench) -> None:
    assert bench.prepare() == "models:/tiny-net/1"
    assert {name: verify(bench.root / "data" / "tiny" / name).files for name in ("test", "calibration")} == {
        "test": 1,
        "calibration": 1,
    }
    assert bench.told == [
        "preparing the example tiny: not prepared here yet",
        "writing data/tiny/test: 4 examples",
        "writing data/tiny/calibration: 4 examples",
        "registering tiny-net",
    ]


def test_what_is_there_already_is_left_alone(bench: Bench) -> None:
    bench.prepare()
    before = bench.shard.stat().st_mtime_ns
    assert bench.prepare() == "models:/tiny-net/1"
    assert (bench.makes, bench.told, bench.shard.stat().st_mtime_ns) == (1, [], before)


def _remove_the_data(bench: Bench) -> None:
    bench.shard.unlink()
    bench.shard.parent.rmdir()


def _use_an_empty_registry(bench: Bench) -> None:
    bench.registry = FakeRegistry()


def _edit_the_source(bench: Bench) -> None:
    bench.source.write_text("two")


def _damage_the_record(bench: Bench) -> None:
    (bench.root / ".slipway" / "examples" / "tiny.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_remove_the_data, "does not exist"),
        (_use_an_empty_registry, "tiny-net"),
        (_edit_the_source, "its source, or a package it is made with, has changed"),
        (_damage_the_record, "tiny.json is damaged"),
    ],
)
def test_what_changed_is_made_again_and_the_reason_told(
    bench: Bench, change: Callable[[Bench], None], reason: str
) -> None:
    bench.prepare()
    md5 = verify(bench.shard.parent).md5
    change(bench)
    assert bench.prepare() == "models:/tiny-net/1"
    assert bench.makes == 2
    assert reason in bench.told[0]
    assert verify(bench.shard.parent).md5 == md5


def test_a_missing_package_is_told_with_the_extra_that_brings_it(bench: Bench) -> None:
    with pytest.raises(BadInputError, match=r"tiny needs no-such-thing.*pip install 'slipway\[examples\]'"):
        bench.example("no-such-thing").prepare(bench.root, bench.registry, bench.told.append)
    assert bench.makes == 0


@pytest.mark.parametrize("git_root", ["project", "."])
def test_a_git_repository_gets_a_dvc_repository_where_the_project_is(bench: Bench, git_root: str) -> None:
    subprocess.run(["git", "init", "--quiet", str(bench.root.parent / git_root)], check=True)
    bench.prepare()
    assert (bench.root / ".dvc" / "config").is_file()
    assert (bench.root / "data" / "tiny" / ".gitignore").read_text().split() == ["/test", "/calibration"]


def test_changed_data_is_refused_rather_than_made_again_over_it(bench: Bench) -> None:
    bench.prepare()
    bench.shard.write_bytes(b"something else")
    with pytest.raises(TamperedError, match="should have md5"):
        bench.prepare()
    assert bench.shard.read_bytes() == b"something else"


@pytest.fixture
def cloned(bench: Bench) -> Bench:
    """As a fresh clone holds it: what is tracked, without data, DVC's cache or model."""
    bench.prepare()
    for split in ("test", "calibration"):
        shutil.rmtree(bench.shard.parents[1] / split)
    shutil.rmtree(bench.root / ".dvc" / "cache")
    _use_an_empty_registry(bench)
    return bench


def test_a_fresh_clone_gets_the_data_that_are_tracked_and_the_model(cloned: Bench) -> None:
    before = cloned.record.read_bytes()
    cloned.restore()

    assert verify(cloned.shard.parent).files == 1
    assert cloned.record.read_bytes() == before
    assert (cloned.root / ".dvc" / "cache").is_dir(), "`dvc push` would find nothing"
    assert cloned.registry.resolve("models:/tiny-net/1").version == "1"
    assert cloned.told == [
        "registering tiny-net",
        "writing data/tiny/test: 4 examples",
        "writing data/tiny/calibration: 4 examples",
    ]


def test_data_that_were_changed_are_never_made_again_over(cloned: Bench) -> None:
    cloned.shard.parent.mkdir()
    cloned.shard.write_bytes(b"something else")
    cloned.restore()

    assert cloned.shard.read_bytes() == b"something else"


def test_other_data_that_are_tracked_are_pulled_and_not_made(cloned: Bench) -> None:
    cloned.record.write_text(cloned.record.read_text().replace("md5: ", "md5: 0", 1))

    with pytest.raises(BadInputError, match=r"other bytes than the example makes; run `dvc pull .*test`"):
        cloned.restore()
    assert not cloned.shard.parent.exists()


def test_what_cannot_be_tracked_is_made_anew_the_next_time(cloned: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.lock import make_lock

    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0)  # seconds that DVC itself waits
    with (
        make_lock(str(cloned.root / ".dvc" / "tmp" / "lock")),
        pytest.raises(BadInputError, match="locked by another DVC command"),
    ):
        cloned.restore()
    cloned.restore()

    assert verify(cloned.shard.parent).files == 1
    assert (cloned.root / ".dvc" / "cache").is_dir()


def test_untracked_data_are_made_and_tracked(bench: Bench) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=bench.root, check=True)
    bench.restore()

    assert verify(bench.shard.parent).files == 1
