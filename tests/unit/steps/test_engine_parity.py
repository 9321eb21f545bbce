from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from slipway.engines import ENGINES, engine
from slipway.engines.base import Arrays, BuildOptions, RunOptions
from slipway.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSession
from slipway.errors import RejectedError
from slipway.records import Built, CandidateSpec, Form, Parity
from slipway.steps.engine_parity import check_engine
from tests.unit.steps.material import Material


def checked(material: Material, variant: str, name: str, form: Form, batch: int = 1) -> Parity:
    """Parity of an engine file that nothing has looked at yet."""
    objects, signature, file = material.objects, material.source.signature, material.variant(variant, form)
    spec = CandidateSpec(target="x86", variant=variant, engine=name)
    options = BuildOptions(variant=variant, signature=signature, batch=(batch,))
    with objects.new_dir() as folder:
        out = folder / f"engine{engine(name).suffix}"
        engine(name).build(objects.path(file.artifact), out, options)
        built = Built(spec=spec, artifact=objects.put(out), options={}, engine_version="")
    return check_engine(objects, built, file, material.reference, material.data, options)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("torch", Form.PROGRAM),
        ("torchscript", Form.TORCHSCRIPT),
        ("onnxruntime", Form.ONNX),
        ("openvino", Form.ONNX),
    ],
)
def test_each_fp32_engine_answers_as_eager_pytorch(name: str, form: Form, material: Material) -> None:
    parity = checked(material, "fp32", name, form)
    assert parity.n == 4
    assert parity.max_abs_diff < 1e-5


@pytest.mark.parametrize("variant", ["int8-dynamic", "int8-static"])
def test_lower_precision_may_differ(variant: str, material: Material) -> None:
    parity = checked(material, variant, "onnxruntime", Form.ONNX)
    assert parity.max_abs_diff > 1e-4
    assert parity.cosine > 0.9


class WrongSession(OnnxRuntimeSession):
    """Answers as ``WrongEngine.answer`` makes of the runtime's own answer."""

    def _run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        return {name: WrongEngine.answer(array) for name, array in super()._run(arrays).items()}


class WrongEngine(OnnxRuntimeEngine):
    """ONNX Runtime, with wrong answers."""

    answer: ClassVar = staticmethod(np.array)

    def load(self, path: Path, options: RunOptions) -> WrongSession:
        session = super().load(path, options)
        return WrongSession(path, session._session)


def wrong(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    monkeypatch.setattr(WrongEngine, "answer", staticmethod(answer))
    monkeypatch.setitem(ENGINES, "wrong", f"{__name__}:WrongEngine")


def test_fp32_answers_that_differ_by_more_than_rounding_are_rejected(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch, lambda array: array * 1.01)
    with pytest.raises(
        RejectedError, match=r"^fp32/wrong differs from eager PyTorch at batch 1: max .*; first operator that differs: "
    ):
        checked(material, "fp32", "wrong", Form.ONNX)


def test_answers_that_depend_on_the_batch_are_rejected(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer alone is still near enough to the reference's for a lower precision."""
    wrong(monkeypatch, lambda array: array + 0.15 * np.abs(array).max() * (-1 if len(array) > 1 else 1))
    with pytest.raises(RejectedError, match=r"^int8-static/wrong differs between single examples and batch 3: cosine"):
        checked(material, "int8-static", "wrong", Form.ONNX)


def test_code_for_the_first_batch_size_that_answers_wrongly_is_rejected(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch, lambda array: array * (1.01 if len(array) == 5 else 1))
    assert checked(material, "fp32", "wrong", Form.ONNX).n == 4
    with pytest.raises(RejectedError, match=r"^fp32/wrong differs from eager PyTorch at batch 5: max "):
        checked(material, "fp32", "wrong", Form.ONNX, batch=5)


def test_an_engine_of_lower_precision_that_computes_something_else_is_rejected(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch, lambda array: array[:, ::-1])
    with pytest.raises(
        RejectedError, match=r"^int8-static/wrong differs from eager PyTorch at batch 1: cosine .*0\.9$"
    ):
        checked(material, "int8-static", "wrong", Form.ONNX)


def test_an_engine_that_fails_where_the_model_answers_is_rejected(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(array: np.ndarray) -> np.ndarray:
        if len(array) > 1:
            raise RuntimeError("Reshape of 10 values to 30")
        return array

    wrong(monkeypatch, failing)
    message = r"^fp32/wrong does not run at batch 3, as the model does: RuntimeError: Reshape of 10 values to 30$"
    with pytest.raises(RejectedError, match=message):
        checked(material, "fp32", "wrong", Form.ONNX)


def test_nan_is_rejected(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong(monkeypatch, lambda array: array * np.float32(np.nan))
    with pytest.raises(RejectedError, match=r"^int8-dynamic/wrong differs .*: output 'logits' holds NaN"):
        checked(material, "int8-dynamic", "wrong", Form.ONNX)
