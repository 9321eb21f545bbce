"""A project whose champion and challengers were really built on this host, and a canary that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from slipway.engines.base import BuildOptions
from slipway.exports.program import export_program
from slipway.records import CandidateSpec, Decision, Form, Hardware, ModelSource, Verdict
from slipway.steps.build import build, reference_of
from slipway.steps.export import export
from slipway.steps.quantize import quantize
from slipway.stores.registry import Registry
from slipway.wiring import host_hardware, workshop
from tests.fakes.evidence import evidence, release
from tests.unit.steps.material import SIGNATURE, answers, images, tiny_module, write_data

NAME, TARGET = "tiny", "x86"
ENGINE = f"{NAME}.{TARGET}"
GATES = {"accuracy": Decision(verdict=Verdict.PASS, reasons=("drop 0.001 <= 0.010",))}
CANARY: dict[str, Any] = {
    "steps": [25, 50],
    "latency_margin": 1.0,
    "accuracy_margin": 0.05,
    "error_margin": 0.1,
    "step_requests": 100,
    "max_minutes": 30,
    "bake_minutes": 0.03,
}
EXAMPLES = 400


def write_params(root: Path, slo_p99_ms: float | None = None, approval: bool = False, **canary: Any) -> None:
    """Write params.yaml with a canary that takes seconds, but for these changes."""
    params = {
        "model": f"models:/{NAME}/1",
        "data": {"test": "data/test"},
        "targets": {TARGET: {"engines": ["onnxruntime"], "slo": {"latency_p99_ms": slo_p99_ms}}},
        "canary": CANARY | canary,
        "approval": {"required": approval},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def make_canary_project(root: Path) -> None:
    """Version 1 is champion, 2 answers as it does, 3 answers about 6% of the examples otherwise."""
    root.mkdir()
    shop, here = workshop(root), host_hardware()
    changed = (same, almost_same, several_others)
    for number, change in enumerate(changed, start=1):
        module = tiny_module()
        with torch.no_grad():
            change(module)
        _register(shop.registry, root / f"build-{number}", module, here)
    shop.registry.promote(ENGINE, "1", None, None)
    write_params(root)


def same(_: torch.nn.Module) -> None:
    """Change nothing."""


def almost_same(module: torch.nn.Module) -> None:
    """Change the bytes of the weights, and no answer."""
    for weights in module.parameters():
        weights.mul_(1 + 1e-6)


def several_others(module: torch.nn.Module) -> None:
    """Change the weights until about 6% of the answers are others."""
    own, examples, torch_random = (
        answers(tiny_module(), images(EXAMPLES)).argmax(1),
        images(EXAMPLES),
        torch.Generator(),
    )
    noise = [
        torch.randn(weights.shape, generator=torch_random.manual_seed(number))
        for number, weights in enumerate(module.parameters())
    ]
    before = [weights.clone() for weights in module.parameters()]
    for strength in np.geomspace(1e-3, 1, 60):
        for weights, one, start in zip(module.parameters(), noise, before, strict=True):
            weights.copy_(start + strength * one * start.std().nan_to_num(0))
        if np.mean(answers(module, examples).argmax(1) != own) >= 0.06:
            return


def _register(registry: Registry, folder: Path, module: torch.nn.Module, here: Hardware) -> None:
    from slipway.stores.objects import ObjectStore

    folder.mkdir()
    objects, program = ObjectStore(folder / "objects"), folder / "program.pt2"
    export_program(module, {"image": images(2)}, SIGNATURE, program)
    artifact = objects.put(program)
    source = ModelSource(
        uri=f"models:/{NAME}/1",
        name=NAME,
        version="1",
        format="pt2",
        digest=artifact.digest,
        program=artifact,
        signature=SIGNATURE,
    )
    labels = answers(module, images(20)).argmax(1)
    data = write_data(folder / "data", images(20), labels)
    exported = export(objects, source, Form.ONNX, data)
    spec = CandidateSpec(target=TARGET, variant="fp32", engine="onnxruntime")
    options = BuildOptions(variant="fp32", signature=SIGNATURE)
    made = quantize(objects, source, exported, "fp32", data, data)
    built = build(objects, spec, made, options, reference_of(source, TARGET), data)
    found = evidence(
        built.artifact.digest,
        spec=spec,
        options=built.options | {"threads": 1},
        signature=SIGNATURE,
        hardware=here,
        model_uri=source.uri,
        gates=GATES,
    )
    path = objects.path(built.artifact)
    recorded = registry.record_release(release(found, model=NAME), {built.artifact.digest: path}, [])
    registry.register(ENGINE, recorded, found)
