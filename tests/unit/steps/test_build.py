from __future__ import annotations

import importlib.metadata

import pytest

from slipway.errors import BadInputError, TamperedError, UnsupportedError
from slipway.records import CandidateSpec, Form, Verdict
from slipway.steps.build import reference_of, refusal
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
    assert material.built("fp32", "openvino", Form.ONNX).options == {"inference_precision": "f32"}


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
