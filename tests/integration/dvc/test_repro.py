"""`dvc repro` runs what a change touches and nothing else, and builds what a release builds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.integration.dvc.conftest import ALWAYS, ENGINES, VARIANTS, Checkout

pytestmark = pytest.mark.integration

CALIBRATION = Path("data/digits/calibration/shard-00000.npz")
TEST = Path("data/digits/test/shard-00000.npz")
REFUSED_BY_DVC = 255  # whatever the status of the stage that failed


def set_parameter(checkout: Checkout, section: str, name: str, value: Any) -> None:
    path = checkout.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params[section][name] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def darken(path: Path) -> None:
    """Other images: a little less bright, so that what is calibrated on them still answers as the model does."""
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, image=arrays["image"] * np.float32(0.95), target=arrays["target"])


def flip_a_byte(path: Path) -> None:
    """Change a pixel and put size and time back: `dvc status` does not see it."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_fresh_clone_runs_every_stage(reproduced: tuple[Checkout, set[str]]) -> None:
    checkout, ran = reproduced

    assert ran == set(checkout.told("dvc", "stage", "list", "--name-only").split())
    assert json.loads((checkout.root / "stages/report/metrics.json").read_text())["x86"]["accuracy"] > 0.9


def test_again_only_host_and_data_are_looked_at(checkout: Checkout) -> None:
    assert checkout.repro() == ALWAYS
    assert checkout.told("git", "status", "--porcelain") == ""


def test_another_allowed_drop_is_only_judged_again(checkout: Checkout) -> None:
    set_parameter(checkout, "accuracy", "max_drop", 0.02)

    assert checkout.repro() == ALWAYS | {"choose", "report"}


def test_another_confidence_is_validated_again_but_built_no_more(checkout: Checkout) -> None:
    set_parameter(checkout, "accuracy", "confidence", 0.9)

    stale = set(json.loads(checkout.told("dvc", "status", "--json")))

    validations = {f"validate@x86-{engine}-{variant}" for engine in ENGINES for variant in VARIANTS}
    assert stale == {*ALWAYS, *validations, "choose"}


def test_other_calibration_data_touch_only_what_was_calibrated(checkout: Checkout) -> None:
    before = checkout.digests()
    darken(checkout.root / CALIBRATION)
    checkout.told("dvc", "add", "--quiet", "data/digits/calibration")
    checkout.commit()

    ran = checkout.repro()

    assert ran == {
        *ALWAYS,
        "summarize",
        *(f"quantize@int8-static-{form}" for form in ("program", "torchscript", "onnx")),
        *(f"{step}@x86-{engine}-int8-static" for step in ("build", "validate") for engine in ENGINES),
        "benchmark@x86",
        "choose",
        "report",
    }
    after = checkout.digests()
    assert {spec for spec in before if before[spec] != after[spec]} == {("int8-static", engine) for engine in ENGINES}


def test_another_host_builds_and_measures_anew(checkout: Checkout) -> None:
    (checkout.root / "stages/hardware/fingerprint").write_text("another")

    stale = set(json.loads(checkout.told("dvc", "status", "--json")))

    assert {name.partition("@")[0] for name in stale - ALWAYS} == {
        *("quantize", "reference", "build", "validate", "benchmark", "choose")
    }


def test_a_change_that_dvc_does_not_see_is_refused_by_name(checkout: Checkout) -> None:
    status = ("dvc", "status", "data/digits/test.dvc")
    before = checkout.told(*status)  # DVC knows the file from now on, and trusts its size and time
    flip_a_byte(checkout.root / TEST)

    done = checkout.dvc("repro")

    assert checkout.told(*status) == before, "DVC should have seen no change"
    assert done.returncode == REFUSED_BY_DVC
    assert "changed shard-00000.npz" in done.stderr
    assert "Running stage 'export" not in done.stdout


def test_changed_data_are_refused_until_git_holds_their_record(checkout: Checkout) -> None:
    darken(checkout.root / TEST)
    assert checkout.dvc("repro").returncode == REFUSED_BY_DVC
    assert checkout.told("git", "status", "--porcelain") == "", "`dvc repro` should leave the record alone"

    checkout.told("dvc", "add", "--quiet", "data/digits/test")
    assert checkout.dvc("repro", "verify").returncode == REFUSED_BY_DVC
    checkout.told("git", "add", "data/digits/test.dvc")
    checkout.told("dvc", "repro", "verify")


def test_data_of_the_example_that_got_lost_are_made_again(checkout: Checkout) -> None:
    shutil.rmtree(checkout.root / TEST.parent)

    assert checkout.repro() == ALWAYS
    assert (checkout.root / TEST).is_file()


def lose_a_shard(checkout: Checkout) -> None:
    (checkout.root / CALIBRATION).unlink()


def darken_the_test_images(checkout: Checkout) -> None:
    darken(checkout.root / TEST)


def lose_the_data(checkout: Checkout) -> None:
    """Of no example, and without a remote that could bring them back."""
    moved = checkout.root / "data" / "mine"
    moved.mkdir()
    (checkout.root / "data/digits/test.dvc").rename(moved / "test.dvc")
    set_parameter(checkout, "data", "test", "data/mine/test")


def leave_alone(_: Checkout) -> None:
    """The command itself asks for what is not there."""


@pytest.mark.parametrize(
    ("spoil", "command", "told"),
    [
        (lose_a_shard, ("verify",), "missing shard-00000.npz; to restore it"),
        (darken_the_test_images, ("reference", "--target", "x86"), "changed shard-00000.npz; to restore it"),
        (lose_the_data, ("verify",), "data data/mine/test does not exist; no DVC remote"),
        (leave_alone, ("verify", "--revision", "v99"), "git knows no revision 'v99'"),
        (leave_alone, ("quantize", "--variant", "bf16", "--form", "onnx"), "holds no step result"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    checkout: Checkout, spoil: Callable[[Checkout], None], command: tuple[str, ...], told: str
) -> None:
    spoil(checkout)

    done = checkout.slipway("step", *command)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert told in done.stderr


def test_a_locked_repository_is_one_line_and_status_2(checkout: Checkout) -> None:
    from dvc.lock import make_lock

    shutil.rmtree(checkout.root / TEST.parent)
    shutil.rmtree(checkout.root / ".dvc" / "cache")  # which has to take in the data that are made again
    with make_lock(str(checkout.root / ".dvc" / "tmp" / "lock")):
        done = checkout.slipway("step", "verify")

    assert done.returncode == 2
    assert "found the repository locked by another DVC command; wait for it" in done.stderr.splitlines()[-1]
    assert not (checkout.root / TEST.parent).exists()


def test_a_release_builds_the_same_engines_with_the_same_accuracies(checkout: Checkout) -> None:
    told = json.loads(checkout.run("slipway", "release", "models:/digits-resnet/1", "--json").stdout)
    candidates = told["targets"]["x86"]["candidates"]

    assert {(c["variant"], c["engine"]): c["digest"] for c in candidates} == checkout.digests()
    for candidate in candidates:
        name = f"{candidate['variant']}-{candidate['engine']}.json"
        figures = json.loads((checkout.root / "stages/report/candidates/x86" / name).read_text())
        assert figures["accuracy"] == candidate["accuracy"]["value"]


def test_metrics_compare_the_choices_and_when_asked_every_candidate(checkout: Checkout) -> None:
    set_parameter(checkout, "accuracy", "max_drop", 0.0)
    checkout.repro()
    candidates = "stages/report/candidates"

    shown = json.loads(checkout.told("dvc", "metrics", "show", "--json", candidates))[""]["data"]
    changed = json.loads(checkout.told("dvc", "metrics", "diff", "--json"))
    (checkout.root / candidates / "x86" / "fp32-openvino.json").write_text('{"accuracy": 0.5}')
    other = json.loads(checkout.told("dvc", "metrics", "diff", "--json", "--targets", candidates))

    assert {Path(name).stem for name in shown} == {f"{variant}-{engine}" for variant in VARIANTS for engine in ENGINES}
    assert set(changed) == {"stages/report/metrics.json"}
    assert changed["stages/report/metrics.json"]["x86.verdict"]["old"] == "PASS"
    assert other[f"{candidates}/x86/fp32-openvino.json"]["accuracy"]["new"] == 0.5


def test_experiments_are_one_short_line_each(checkout: Checkout) -> None:
    """The columns of `dvc exp show --only-changed` in their order: a terminal shows the first ones."""
    checkout.told("dvc", "exp", "run", "--set-param", "accuracy.max_drop=0.0")

    table = checkout.told("dvc", "exp", "show", "--only-changed", "--csv").splitlines()
    columns = table[0].split(",")

    assert columns[columns.index("x86.chosen") :] == [
        *("x86.chosen", "x86.verdict", "x86.accuracy", "x86.p50_ms", "x86.p99_ms", "x86.drop", "accuracy.max_drop"),
        "stages/choose",
    ]


def test_plots_are_drawn(checkout: Checkout) -> None:
    shown = json.loads(checkout.told("dvc", "plots", "show", "--json"))

    assert len(shown["data"]) == 3
    assert "errors" not in shown
