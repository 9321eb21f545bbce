from __future__ import annotations

import importlib.metadata
import itertools
from pathlib import Path
from typing import ClassVar

import pytest

from slipway.config import TargetParams
from slipway.engines import ENGINES
from slipway.engines.base import BuildOptions
from slipway.engines.onnxruntime import OnnxRuntimeEngine
from slipway.errors import BadInputError, RejectedError, TamperedError, UnsupportedError
from slipway.records import Built, CandidateSpec, Form, Option, Verdict
from slipway.steps.build import build, build_options, reference_of, refusal
from tests.unit.steps.material import Material


def spec(variant: str, engine: str) -> CandidateSpec:
    return CandidateSpec(target="x86", variant=variant, engine=engine)


@pytest.mark.parametrize(
    ("variant", "engine", "form", "name"),
    [
        ("fp32", "torch", Form.PROGRAM, "engine.pt2"),
        ("bf16", "torchscript", Form.TORCHSCRIPT, "engine.ts"),
        ("int8-static", "onnxruntime", Form.ONNX, "engine.onnx"),
        ("fp32", "openvino", Form.ONNX, "engine"),
    ],
)
def test_an_engine_file_carries_what_it_was_made_of(
    variant: str, engine: str, form: Form, name: str, material: Material
) -> None:
    built = material.built(variant, engine, form)

    assert built.spec == spec(variant, engine)
    assert built.artifact.name == name
    assert material.objects.has(built.artifact)
    package = "openvino" if engine == "openvino" else "onnxruntime" if engine == "onnxruntime" else "torch"
    assert importlib.metadata.version(package).partition("+")[0] in built.engine_version
    assert built.notes == material.variant(variant, form).notes


def test_the_options_in_the_bytes_are_kept(material: Material) -> None:
    assert material.built("fp32", "openvino", Form.ONNX).options["inference_precision"] == "f32"


def test_the_same_candidate_built_again_is_the_same_file(material: Material) -> None:
    file = material.variant("fp32", Form.ONNX)
    again = material.build(spec("fp32", "onnxruntime"), file)

    assert again == material.built("fp32", "onnxruntime", Form.ONNX)


def test_an_engine_refuses_what_it_cannot_execute(material: Material) -> None:
    file = material.variant("fp32", Form.PROGRAM)
    with pytest.raises(UnsupportedError, match=r"^engine torch cannot execute int8-static: "):
        material.build(spec("int8-static", "torch"), file)


def test_a_file_changed_in_the_store_is_never_built_from(material: Material) -> None:
    with material.objects.new_dir() as folder:
        (folder / "model.onnx").write_bytes(b"some other bytes")
        changed = material.objects.put(folder / "model.onnx")
    (material.objects.root / changed.digest[:2] / changed.digest / "model.onnx").write_bytes(b"some 0ther bytes")
    file = material.variant("fp32", Form.ONNX).model_copy(update={"artifact": changed})

    with pytest.raises(TamperedError, match=r"^object model\.onnx should hash to "):
        material.build(spec("fp32", "onnxruntime"), file)


def test_a_refusal_is_known_before_anything_is_made() -> None:
    refused = refusal(spec("int8-dynamic", "torch"))

    assert refused is not None
    assert (refused.step, refused.decision.verdict) == ("build", Verdict.SKIPPED)
    assert refused.decision.reasons[0].startswith("engine torch cannot execute int8-dynamic: packed int8 weights")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torchscript"])
def test_nothing_is_refused_that_an_engine_can_try(engine: str) -> None:
    assert refusal(spec("fp32", engine)) is None


def test_an_unknown_engine_is_bad_input() -> None:
    with pytest.raises(BadInputError, match="unknown engine 'onnxrutime', did you mean 'onnxruntime'"):
        refusal(spec("fp32", "onnxrutime"))


def test_the_reference_is_the_fetched_program_itself(material: Material) -> None:
    reference = reference_of(material.source, "arm")

    assert reference.artifact == material.source.program
    assert reference.spec == CandidateSpec(target="arm", variant="fp32", engine="torch")


class VaryingEngine(OnnxRuntimeEngine):
    """ONNX Runtime, whose builds are as many different files as there are ``words``; they say so, and run alike."""

    words: ClassVar = itertools.cycle([""])

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        import onnx

        super().build(source, out, options)
        model = onnx.load(out)
        model.doc_string = next(self.words)
        onnx.save(model, out)
        return {"level": "all"}


class UnsoundEngine(VaryingEngine):
    """One whose builds after the first compute something else."""

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        import onnx

        chosen = super().build(source, out, options)
        model = onnx.load(out)
        if model.doc_string:
            (last,) = (node for node in model.graph.node if "logits" in node.output)
            doubled = onnx.helper.make_node("Add", ["half", "half"], ["logits"])
            last.output[0] = "half"
            model.graph.node.append(doubled)
            onnx.save(model, out)
        return chosen


def built_often(
    material: Material, monkeypatch: pytest.MonkeyPatch, builds: int, words: list[str], kind: str = "VaryingEngine"
) -> Built:
    monkeypatch.setattr(VaryingEngine, "words", itertools.cycle(words))
    monkeypatch.setitem(ENGINES, "varying", f"{__name__}:{kind}")
    file = material.variant("fp32", Form.ONNX)
    options = BuildOptions(variant="fp32", signature=material.source.signature, builds=builds)
    return build(material.objects, spec("fp32", "varying"), file, options, material.reference, material.data)


def test_builds_of_the_same_bytes_are_told_as_such(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    built = built_often(material, monkeypatch, builds=3, words=[""])

    assert built.rebuilds == ()
    assert built.notes[-1] == "3 builds gave the same bytes"
    assert built.parity is not None


def test_of_builds_that_differ_the_first_is_kept_and_each_other_file_comes_beside_it(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = built_often(material, monkeypatch, builds=4, words=["", "second", "second"])

    (other,) = built.rebuilds
    assert material.objects.has(other)
    assert other.digest != built.artifact.digest
    assert b"second" in material.objects.path(other).read_bytes()
    assert b"second" not in material.objects.path(built.artifact).read_bytes()
    smallest, largest = built.artifact.size_bytes, other.size_bytes
    assert built.notes[-1] == f"4 builds, 2 different files of {smallest:,} to {largest:,} bytes; the first is kept"
    assert built.parity is not None


def test_a_build_that_computes_something_else_than_the_first_fails_the_candidate(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert built_often(material, monkeypatch, 1, ["", "doubled"], "UnsoundEngine").rebuilds == ()
    with pytest.raises(
        RejectedError, match=r"^another build \([0-9a-f]{12}\) is not like the first: fp32/varying differs"
    ):
        built_often(material, monkeypatch, 2, ["", "doubled"], "UnsoundEngine")


def test_a_single_build_tells_nothing_of_builds(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    built = built_often(material, monkeypatch, builds=1, words=["one"])

    assert (built.rebuilds, built.notes) == ((), material.variant("fp32", Form.ONNX).notes)


def test_the_target_says_how_often_to_build(material: Material) -> None:
    target = TargetParams(engines=("onnxruntime",), builds=3, batch=(8,), settings={"onnxruntime": {"key": 1}})

    options = build_options(spec("fp32", "onnxruntime"), target, material.source.signature)

    assert (options.builds, options.batch, options.settings) == (3, (8,), {"key": 1})
