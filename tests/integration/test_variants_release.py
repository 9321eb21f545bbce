"""A whole release of the variants that need calibration or training data, or that most CPUs cannot execute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dvc.repo import Repo

from slipway.stores.datasets import write_shards
from slipway.stores.tracking import track
from slipway.wiring import workshop
from tests.e2e.project import MODEL_URI, NAME, SIGNATURE, target, write_params
from tests.integration.conftest import Project

pytestmark = pytest.mark.integration

VARIANTS = ["fp32", "fp16", "int8-static", "int8-mixed", "int8-qat"]
ENGINES = ["onnxruntime", "openvino"]
SPLITS = {"test": 400, "calibration": 300, "train": 300}
LOUDNESS = 2000.0
SECONDS = 600.0


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two linear layers; the second reads one loud value, which int8 has to cover, among the quiet ones it needs."""
    root = tmp_path / "project"
    root.mkdir()
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 5)).eval()
    with torch.no_grad():
        module[0].weight[0] *= LOUDNESS
        module[2].weight[:, 0] = 0
    Repo.init(str(root), no_scm=True).close()
    for seed, (name, size) in enumerate(SPLITS.items()):
        x = np.random.default_rng(seed).normal(size=(size, 64)).astype(np.float32)
        with torch.no_grad():
            labels = module(torch.from_numpy(x)).argmax(dim=1).numpy()
        write_shards(root / "data" / name, {"x": x}, labels, shard_size=200)
        track(root / "data" / name)
    workshop(root).registry.log_model(module, SIGNATURE, {"x": x[:2]}, NAME)
    write_params(
        root,
        data={"test": "data/test", "calibration": "data/calibration", "training": "data/train"},
        variants=VARIANTS,
        qat={"epochs": 1},
        latency={"samples": 130},
        targets=target(engines=ENGINES),
    )
    return Project(root)


def test_every_variant_comes_to_a_verdict_and_int8_mixed_tells_its_way(project: Project) -> None:
    with project.start("release", MODEL_URI, "--json") as command:
        code = command.ended(SECONDS)
        assert code in {0, 3, 4}, command.stderr
        found = {(one["variant"], one["engine"]): one for one in command.object["targets"]["x86"]["candidates"]}
    assert set(found) == {(variant, on) for variant in VARIANTS for on in ENGINES}
    assert "ERROR" not in {one["verdict"] for one in found.values()}, found
    fp16 = found["fp16", "onnxruntime"]
    assert (fp16["verdict"], fp16["digest"]) == ("SKIPPED", None)
    assert "has no float16 kernel" in fp16["reasons"][0]

    mixed, static = (found[variant, "onnxruntime"] for variant in ("int8-mixed", "int8-static"))
    assert static["verdict"] == "FAIL"
    assert mixed["verdict"] != "FAIL", mixed["reasons"]
    assert mixed["accuracy"]["drop"] < 0.05
    code, told = project.run("explain", mixed["digest"])
    assert code == 0
    assert "layers ranked by error per microsecond of onnxruntime" in told.stdout
    assert "Layers back in fp32" in told.stdout
    assert "training md5 none" not in told.stdout
    assert {path.name for path in (project.root / ".slipway").rglob("int8-mixed.*")} == {
        "int8-mixed.html",
        "int8-mixed.png",
    }
