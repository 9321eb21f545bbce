"""TVM's tuning: the quickest tile is kept, and what was timed once is not timed again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from slipway.engines import check_settings, tvm_tuning
from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.tvm import TvmEngine
from slipway.engines.tvm_schedule import TILES
from slipway.engines.tvm_tuning import Tuned, TuningLog, log_path
from slipway.errors import BadInputError
from slipway.records import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 3, 8, 8)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 16, 8, 8)),),
)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU()).eval()
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(batch,)), path)
    return path


def test_a_log_is_read_back_but_for_lines_that_a_killed_build_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    log = TuningLog.read(path)
    log.add("aa", TILES[0], 12.5)
    log.add("aa", TILES[3], math.inf)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"kernel": "bb", "floats": 24\n[]\n{}\n')
    assert TuningLog.read(path).times_us == {("aa", TILES[0]): 12.5, ("aa", TILES[3]): math.inf}


def test_each_version_and_cpu_has_a_log_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = {log_path(version, cpu) for version in ("0.27", "0.28") for cpu in ("znver5", "../odd cpu")}
    assert len(paths) == 4
    assert all(path.parent == tmp_path / "slipway" / "tvm" for path in paths)


def test_what_was_chosen_has_a_digest_whatever_its_order() -> None:
    one, other = Tuned({"a": TILES[1], "b": TILES[2]}, 3), Tuned({"b": TILES[2], "a": TILES[1]}, 4)
    assert one.sha256 == other.sha256 != Tuned({"a": TILES[2]}, 3).sha256


def test_trials_are_bounded_and_belong_to_this_host() -> None:
    check_settings("tvm", {"trials": len(TILES)})
    with pytest.raises(BadInputError, match="setting 'trials'"):
        check_settings("tvm", {"trials": len(TILES) + 1})
    with pytest.raises(BadInputError, match="trials are timed on this host, and target is another"):
        check_settings("tvm", {"trials": 2, "target": "aarch64-linux-gnu", "linker": "ld"})


@pytest.mark.integration
def test_the_quickest_tile_is_kept_and_nothing_is_timed_twice(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    really, timed = tvm_tuning._time_us, []

    def quickest_is_the_second(kernel: object, tile: object, target: object) -> float:
        timed.append(tile)
        assert 0 < really(kernel, tile, target) < 1e6
        return 5.0 if tile == TILES[1] else 10.0

    monkeypatch.setattr(tvm_tuning, "_time_us", quickest_is_the_second)
    options = BuildOptions(variant="fp32", signature=SIGNATURE, batch=(1,), settings={"trials": 3})
    told = TvmEngine().build(program, tmp_path / "tuned", options)
    assert timed == list(TILES[:3])
    assert (told["trials"], told["kernels"], told["tuned_kernels"]) == (3, 1, 1)
    assert TvmEngine().build(program, tmp_path / "again", options)["tuning_sha256"] == told["tuning_sha256"]
    assert timed == list(TILES[:3])

    plain = BuildOptions(variant="fp32", signature=SIGNATURE, batch=(1,))
    assert "tuning_sha256" not in TvmEngine().build(program, tmp_path / "plain", plain)
    images = {"x": np.random.default_rng(0).random((1, 3, 8, 8), np.float32)}
    answers = []
    for name in ("tuned", "plain"):
        with TvmEngine().load(tmp_path / name, RunOptions()) as session:
            answers.append(session.infer(images)["y"])
    np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-6)
