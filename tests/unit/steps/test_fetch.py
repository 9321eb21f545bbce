from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slipway.engines.base import RunOptions
from slipway.engines.torch_eager import TorchEngine
from slipway.errors import BadInputError
from slipway.records import ModelSource, Signature, TensorSpec
from slipway.steps.fetch import fetch, placeholder_inputs
from slipway.stores.objects import ObjectStore, digest_of
from slipway.stores.registry import ModelVersionRef
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.material import SIGNATURE, answers, images, tiny_module
from tests.unit.steps.mlflow_directories import write_model


class WritesAFile:
    """What an attacker's pickle may be: loading it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.path, "the pickle's code ran")


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


def runs_like_the_module(objects: ObjectStore, source: ModelSource) -> bool:
    inputs = images(5)
    with TorchEngine().load(objects.path(source.program), RunOptions()) as session:
        return np.allclose(session.infer({"image": inputs})["logits"], answers(tiny_module(), inputs), atol=1e-5)


@pytest.fixture(scope="module")
def logged() -> tuple[FakeRegistry, ModelVersionRef]:
    """A version in MLflow's default format."""
    registry = FakeRegistry()
    return registry, registry.log_model(tiny_module(), SIGNATURE, {"image": images(2)}, "tiny")


def test_a_version_in_mlflows_default_format(
    logged: tuple[FakeRegistry, ModelVersionRef], objects: ObjectStore, tmp_path: Path
) -> None:
    registry, ref = logged

    source = fetch(registry, objects, ref, trust_pickle=False)

    assert (source.uri, source.name, source.version, source.format) == ("models:/tiny/1", "tiny", "1", "pt2")
    assert source.signature == SIGNATURE
    assert source.digest == digest_of(registry.download(ref, tmp_path / "copy") / "data" / "model.pt2")
    assert source.program.name == "program.pt2"
    assert runs_like_the_module(objects, source)
    again = fetch(registry, objects, ref, trust_pickle=False)
    assert again == source, "the same version gives the same bytes"


def test_torchscript_needs_no_trust(registry: FakeRegistry, objects: ObjectStore, tmp_path: Path) -> None:
    ref = registry.add_model("tiny", write_model(tmp_path / "model", SIGNATURE, tiny_module(), scripted=True))

    source = fetch(registry, objects, ref, trust_pickle=False)

    assert (source.format, source.program.name) == ("torchscript", "program.ts")
    assert runs_like_the_module(objects, source)


def test_a_pickle_is_refused_without_being_loaded(registry: FakeRegistry, objects: ObjectStore, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    ref = registry.add_model("tiny", write_model(tmp_path / "model", SIGNATURE, WritesAFile(trap)))

    with pytest.raises(
        BadInputError, match=r"^models:/tiny/1: it is a pickled model, .* runs whatever code.*`trust_pickle: true`"
    ):
        fetch(registry, objects, ref, trust_pickle=False)
    assert not trap.exists()


def test_a_trusted_pickle_becomes_a_program(registry: FakeRegistry, objects: ObjectStore, tmp_path: Path) -> None:
    """In training mode as it may have been saved: it is served in evaluation mode."""
    ref = registry.add_model("tiny", write_model(tmp_path / "model", SIGNATURE, tiny_module().train()))

    source = fetch(registry, objects, ref, trust_pickle=True)

    assert (source.format, source.program.name) == ("pickle", "program.pt2")
    assert runs_like_the_module(objects, source)


def test_a_trusted_pickle_of_something_else_is_refused(
    registry: FakeRegistry, objects: ObjectStore, tmp_path: Path
) -> None:
    ref = registry.add_model("tiny", write_model(tmp_path / "model", SIGNATURE, {"weights": 1}))

    with pytest.raises(
        BadInputError,
        match=r"^models:/tiny/1: model\.pth holds a dict, not a torch\.nn\.Module; log the module itself$",
    ):
        fetch(registry, objects, ref, trust_pickle=True)


def test_a_trusted_pickle_whose_code_fails_is_told(
    registry: FakeRegistry, objects: ObjectStore, tmp_path: Path
) -> None:
    trap = WritesAFile(tmp_path / "no such directory" / "trap")
    ref = registry.add_model("tiny", write_model(tmp_path / "model", SIGNATURE, trap))

    with pytest.raises(
        BadInputError,
        match=r"^models:/tiny/1: model\.pth cannot be unpickled here: .*No such file.*; install the package",
    ):
        fetch(registry, objects, ref, trust_pickle=True)


@pytest.mark.parametrize("keep_bytes", [100, -100], ids=["cut short", "without its end"])
def test_a_damaged_file_is_bad_input(
    logged: tuple[FakeRegistry, ModelVersionRef], objects: ObjectStore, keep_bytes: int, tmp_path: Path
) -> None:
    directory = logged[0].download(logged[1], tmp_path)
    file = directory / "data" / "model.pt2"
    file.write_bytes(file.read_bytes()[:keep_bytes])
    registry = FakeRegistry()

    with pytest.raises(BadInputError, match=r"^models:/tiny/1: engine torch wants .*model\.pt2"):
        fetch(registry, objects, registry.add_model("tiny", directory), trust_pickle=False)


def test_placeholders_have_the_shapes_of_the_signature() -> None:
    signature = Signature(
        inputs=(
            TensorSpec(name="ids", dtype="int64", shape=(-1, -1)),
            TensorSpec(name="mask", dtype="float32", shape=(-1, 7)),
        ),
        outputs=(),
    )

    inputs = placeholder_inputs(signature)

    assert {name: (array.shape, array.dtype.name) for name, array in inputs.items()} == {
        "ids": ((2, 2), "int64"),
        "mask": ((2, 7), "float32"),
    }
