"""What is particular to compiled code: its package, its missing guards, its compiler; the rest is the contract."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree

from slipway.engines import check_settings, engine
from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.checks import compiler_command
from slipway.engines.inductor_package import Kernel, Label, kernels_of, read_label, unpacked
from slipway.engines.inductor_profile import _layers
from slipway.engines.inductor_session import InductorSession
from slipway.engines.torch_profile import Span
from slipway.errors import BadInputError, UnsupportedError
from slipway.records import Signature, TensorSpec

MEMBER = "data/aotinductor/model/model.wrapper.so"


def signature(*inputs: str) -> Signature:
    specs = tuple(TensorSpec(name=name, dtype="float32", shape=(-1, 3)) for name in (*inputs, "y"))
    return Signature(inputs=specs[:-1], outputs=specs[-1:])


def label(**changes: object) -> Label:
    given = {
        "members": {},
        "models": {"model": 0},
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "shapes": [["n", 3], ["n", 3]],
        "ranges": {"n": [0, 8]},
        "kernels": {},
    }
    return Label.model_validate(given | changes)


def package(path: Path, one: Label, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/extra/inductor.json", one.model_dump_json())
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path


def test_without_a_compiler_it_is_unavailable_and_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnsupportedError, match=r"compiles with no-such-compiler, .*not on the PATH: apt-get install"):
        engine("inductor")


def test_a_blank_compiler_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", " ")
    assert compiler_command("g++") == "g++"


def test_a_model_registered_as_torchscript_is_refused_with_the_reason(tmp_path: Path) -> None:
    source = tmp_path / "model.ts"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/code/model.py", b"")
    with pytest.raises(UnsupportedError, match="was registered as TorchScript; use torchscript"):
        engine("inductor").build(source, tmp_path / "out", BuildOptions(variant="fp32", signature=signature("x")))


def test_a_wrong_setting_is_refused() -> None:
    check_settings("inductor", {"first_batch_alone": False})
    with pytest.raises(BadInputError, match="did you mean 'first_batch_alone'"):
        check_settings("inductor", {"first_batch": False})


def test_files_are_unpacked_for_as_long_as_they_are_loaded(tmp_path: Path) -> None:
    whole = label(members={MEMBER: hashlib.sha256(b"code").hexdigest()})
    path = package(tmp_path / "p.pt2", whole, {MEMBER: b"code"})
    with unpacked("inductor", path, read_label("inductor", path)) as folder:
        assert (folder / MEMBER).read_bytes() == b"code"
    assert not folder.exists()


@pytest.mark.parametrize(
    ("member", "content"),
    [
        (MEMBER, {MEMBER: b"other"}),
        (MEMBER, {}),
        ("data/aotinductor/../../out.so", {}),
        ("out.so", {"out.so": b"code"}),
    ],
    ids=["tampered", "missing", "outside", "no model"],
)
def test_what_was_not_built_here_is_never_unpacked(member: str, content: dict[str, bytes], tmp_path: Path) -> None:
    digest = hashlib.sha256(b"code").hexdigest()
    path = package(tmp_path / "p.pt2", label(members={member: digest}), content or {member + "x": b"code"})
    with (
        pytest.raises(BadInputError, match="found something else, or a damaged file"),
        unpacked("inductor", path, read_label("inductor", path)),
    ):
        pytest.fail("unpacked")


def test_a_file_for_another_kind_of_cpu_is_refused(tmp_path: Path) -> None:
    path = package(tmp_path / "p.pt2", label(cpu="AVX1024"), {"extra/signature.json": signature("x").model_dump_json()})
    with pytest.raises(
        UnsupportedError, match=r"^engine inductor cannot run here: .* a CPU with AVX1024, this one has"
    ):
        engine("inductor").load(path, RunOptions())


class Loader:
    """Stands in for PyTorch's: answers with ``times`` the first input."""

    def __init__(self, times: int) -> None:
        self.times = times

    def get_call_spec(self) -> list[str]:
        leaf = _pytree.treespec_dumps(_pytree.tree_structure(0))
        return [leaf, leaf]

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [self.times * inputs[0]]


def session() -> InductorSession:
    return InductorSession({0: Loader(1), 2: Loader(10)}, label(), signature("a", "b"), threads=1)


def arrays(a: int, b: int) -> dict[str, np.ndarray]:
    return {"a": np.ones((a, 3), "float32"), "b": np.ones((b, 3), "float32")}


def test_a_batch_with_code_of_its_own_runs_it() -> None:
    with session() as one:
        assert [one.infer(arrays(n, n))["y"][0, 0] for n in (1, 2, 3)] == [1, 10, 1]


@pytest.mark.parametrize(("a", "b"), [(1, 2), (9, 9)], ids=["two batches", "beyond the exported range"])
def test_sizes_that_the_code_is_not_for_are_refused(a: int, b: int) -> None:
    """Compiled code has no guards: it would read beyond the end of an array."""
    with (
        session() as one,
        pytest.raises(BadInputError, match=r"exported for a \[n, 3\], b \[n, 3\] with n from 0 to 8"),
    ):
        one.infer(arrays(a, b))


def test_a_size_that_the_exporter_froze_is_refused() -> None:
    frozen = label(shapes=[[2, 3]], ranges={})
    with (
        InductorSession({0: Loader(1)}, frozen, signature("a"), threads=1) as one,
        pytest.raises(BadInputError, match=r"exported for a \[2, 3\], and a has size 3 in dimension 0"),
    ):
        one.infer({"a": np.ones((3, 3), "float32")})


SOURCE = """
extern "C"  void  cpp_fused_mean_0(const int64_t* in_ptr0,
                       const at::BFloat16* in_ptr1, float* out_ptr0, const int64_t ks0)
{ }
extern "C"  void  cpp_fused_addmm_1(const float* X, float* Y)
{ cpp_fused_addmm_1_micro_gemm(); }
"""


def test_kernels_are_read_from_what_inductor_wrote() -> None:
    assert kernels_of(SOURCE) == {
        "cpp_fused_mean_0": Kernel(precision="bf16", multiplies=False),
        "cpp_fused_addmm_1": Kernel(precision="fp32", multiplies=True),
    }


def span(name: str, category: str = "cpu_op", inside: Sequence[Span] = (), *types: str) -> Span:
    event = {"name": name, "cat": category, "ts": 0.0, "dur": 2.0, "args": {"Input type": list(types)}}
    return Span(event, list(inside))


def test_layers_are_kernels_written_and_kernels_called() -> None:
    """Weights that are reordered at run time are part of the layer that they belong to, and no layer of their own."""
    inner = [span("reorder", "onednn", (), "f32"), span("convolution", "onednn", (), "bf16")]
    scores = "aoti_torch_cpu__scaled_dot_product_flash_attention_for_cpu"
    call = span(
        "slipway call",
        "user_annotation",
        [
            span("aten::lift_fresh"),
            span("graph_0_cpp_fused_mean_0"),
            span("aoti_torch_cpu_mkldnn__convolution_pointwise", "cpu_op", inner),
            span("aoti_torch_cpu_mkldnn__convolution_pointwise", "cpu_op", inner),
            span(scores, "cpu_op", [span("aten::transpose", "cpu_op", (), "float")]),
        ],
    )
    layers = _layers(call, kernels_of(SOURCE))
    assert [(one.name, one.kind, one.precision, one.multiplies) for one in layers] == [
        ("cpp_fused_mean_0", "cpp", "bf16", False),
        ("convolution_pointwise", "onednn::convolution", "bf16", True),
        ("convolution_pointwise_1", "onednn::convolution", "bf16", True),
        (
            "scaled_dot_product_flash_attention_for_cpu",
            "scaled_dot_product_flash_attention_for_cpu of activations",
            "fp32",
            True,
        ),
    ]


ALONE = """
import sys, numpy, torch
model = torch._inductor.aoti_load_package(sys.argv[1])
print(model(torch.ones(5, 3)).tolist())
assert not any(name.startswith("slipway") for name in sys.modules)
"""


@pytest.mark.integration
def test_a_package_is_pytorchs_own_and_its_build_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 3).eval()
    example = torch.ones(2, 3)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "program.pt2")
    home, temporary, out = tmp_path / "home", tmp_path / "temporary", tmp_path / "engine.pt2"
    for folder, variable in ((home, "HOME"), (temporary, "TMPDIR")):
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    one = BuildOptions(variant="fp32", signature=signature("x"), settings={"first_batch_alone": False})
    assert engine("inductor").build(tmp_path / "program.pt2", out, one) == {"freezing": True}
    assert list(home.iterdir()) == list(temporary.iterdir()) == []
    assert read_label("inductor", out).models == {"model": 0}
    content = out.read_bytes()
    for path in (str(tmp_path), str(Path(torch.__file__).parent), os.getcwd()):  # noqa: PTH109 - as a string
        assert path.encode() not in content
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE, out], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    with torch.no_grad():
        expected = module(torch.ones(5, 3)).numpy()
    np.testing.assert_allclose(json.loads(run.stdout), expected, rtol=1e-5)
