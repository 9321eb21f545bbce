"""`dvc repro` runs what a change touches and nothing else, and builds what a release builds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.integration.dvc.conftest import ENGINES, VARIANTS, Checkout

pytestmark = pytest.mark.integration

CALIBRATION = Path("data/digits/calibration/shard-00000.npz")
TEST = Path("data/digits/test/shard-00000.npz")


def set_parameter(checkout: Checkout, section: str, name: str, value: Any) -> None:
    path = checkout.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params[section][name] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def darken(path: Path) -> None:
    """Other images: half as bright."""
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, image=arrays["image"] / 2, target=arrays["target"])


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


def test_again_only_the_hardware_is_looked_at(checkout: Checkout) -> None:
    assert checkout.repro() == {"hardware"}
    assert checkout.told("git", "status", "--porcelain") == ""


def test_another_allowed_drop_is_only_judged_again(checkout: Checkout) -> None:
    set_parameter(checkout, "accuracy", "max_drop", 0.02)

    assert checkout.repro() == {"hardware", "choose", "report"}


def test_another_confidence_is_validated_again_but_built_no_more(checkout: Checkout) -> None:
    set_parameter(checkout, "accuracy", "confidence", 0.9)

    stale = set(json.loads(checkout.told("dvc", "status", "--json")))

    validations = {f"validate@x86-{engine}-{variant}" for engine in ENGINES for variant in VARIANTS}
    assert stale == {"hardware", *validations, "choose"}


def test_other_calibration_data_touch_only_what_was_calibrated(checkout: Checkout) -> None:
    before = checkout.digests()
    darken(checkout.root / CALIBRATION)
    checkout.told("dvc", "add", "--quiet", "data/digits/calibration")
    checkout.commit()

    ran = checkout.repro()

    assert ran == {
        "hardware",
        "verify",
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

    assert {name.partition("@")[0] for name in stale - {"hardware"}} == {
        *("reference", "build", "validate", "benchmark", "choose")
    }


def test_tampered_data_are_refused_by_name(checkout: Checkout) -> None:
    checkout.told(
        "dvc", "status", "--quiet", "data/digits/test.dvc"
    )  # DVC knows the file, and trusts its size and time
    flip_a_byte(checkout.root / TEST)
    set_parameter(checkout, "accuracy", "confidence", 0.9)

    done = checkout.dvc("repro")

    assert "Running stage 'verify'" not in done.stdout, "DVC should have seen no change"
    assert done.returncode != 0
    assert "changed shard-00000.npz" in done.stderr
    assert checkout.slipway("step", "verify").returncode == 2


def test_changed_data_are_refused_until_git_holds_their_record(checkout: Checkout) -> None:
    """DVC rewrites data/digits/test.dvc by itself to fit whatever it finds, and goes on."""
    darken(checkout.root / TEST)

    done = checkout.dvc("repro")

    assert done.returncode != 0
    assert "data/digits/test.dvc" in checkout.told("git", "diff", "--name-only")
    assert "changed shard-00000.npz" in done.stderr


def test_a_release_builds_the_same_engines_with_the_same_accuracies(checkout: Checkout) -> None:
    told = json.loads(checkout.run("slipway", "release", "models:/digits-resnet/1", "--json").stdout)
    candidates = told["targets"]["x86"]["candidates"]

    assert {(c["variant"], c["engine"]): c["digest"] for c in candidates} == checkout.digests()
    for candidate in candidates:
        name = f"{candidate['variant']}-{candidate['engine']}.json"
        figures = json.loads((checkout.root / "stages/report/candidates/x86" / name).read_text())
        assert figures["accuracy"] == candidate["accuracy"]["value"]


def test_metrics_are_shown_and_compared_per_candidate(checkout: Checkout) -> None:
    set_parameter(checkout, "accuracy", "max_drop", 0.0)
    checkout.repro()

    shown = json.loads(checkout.told("dvc", "metrics", "show", "--json"))[""]["data"]
    changed = json.loads(checkout.told("dvc", "metrics", "diff", "--json"))

    assert {Path(name).stem for name in shown} == {
        "metrics",
        *(f"{variant}-{engine}" for variant in VARIANTS for engine in ENGINES),
    }
    assert changed["stages/report/metrics.json"]["x86.verdict"]["old"] == "PASS"


def test_plots_are_drawn(checkout: Checkout) -> None:
    shown = json.loads(checkout.told("dvc", "plots", "show", "--json"))

    assert len(shown["data"]) == 3
    assert "errors" not in shown
