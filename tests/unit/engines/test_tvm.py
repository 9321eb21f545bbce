"""What TVM's engine refuses without compiling, and a library for another kind of CPU."""

from __future__ import annotations

import platform
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
import torch

from slipway.engines import check_settings, tvm_library
from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.checks import compiler_command
from slipway.engines.tvm import TvmEngine, TvmSettings, _target
from slipway.errors import BadInputError, UnsupportedError
from slipway.records import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 4)),),
)
LIBRARY = b"\x7fELF not really"


def label(**changed: object) -> tvm_library.Label:
    here = tvm_library.Label(
        version="0.27.0",
        library=tvm_library.sha256(LIBRARY),
        machine=platform.machine(),
        instructions=tvm_library.instructions(),
        signature=SIGNATURE,
        kernels={"main": ()},
        batches={},
    )
    return here.model_copy(update=changed)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    batch = {0: torch.export.Dim.DYNAMIC}
    module = torch.nn.Linear(4, 4).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(2, 4),), dynamic_shapes=(batch,)), path)
    return path


def test_a_library_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.tvm"
    tvm_library.write(path, LIBRARY, label())
    assert tvm_library.read("tvm", path) == (label(), LIBRARY)
    first = path.read_bytes()
    tvm_library.write(path, LIBRARY, label())
    assert path.read_bytes() == first


def test_a_library_that_was_exchanged_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.tvm"
    tvm_library.write(path, LIBRARY, label())
    with zipfile.ZipFile(path) as archive:
        told = archive.read("tvm.json")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tvm.json", told)
        archive.writestr("model.so", LIBRARY + b"!")
    with pytest.raises(BadInputError, match=r"^engine tvm wants an archive of TVM's with its label"):
        TvmEngine().load(path, RunOptions())


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"machine": "s390x"}, "s390x, this one is"), ({"instructions": ("avx9000",)}, "one with avx9000, which")],
)
def test_a_library_for_another_kind_of_cpu_is_refused(changed: dict[str, object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.tvm"
    tvm_library.write(path, LIBRARY, label(**changed))
    with pytest.raises(UnsupportedError, match=f"^engine tvm cannot run here: .*{said}"):
        TvmEngine().load(path, RunOptions())


@pytest.mark.parametrize("variant", ["bf16", "fp16", "int8-dynamic", "int8-static", "int8-mixed", "int8-qat"])
def test_a_variant_that_would_be_emulated_is_refused(variant: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"^engine tvm cannot execute {variant}: .*fp32"):
        TvmEngine().build(tmp_path, tmp_path / "out", BuildOptions(variant=variant, signature=SIGNATURE))


def test_its_settings_are_checked() -> None:
    check_settings("tvm", {"target": "aarch64-linux-gnu", "cpu": "cortex-a76", "linker": "aarch64-linux-gnu-gcc"})
    with pytest.raises(BadInputError, match=r"no setting 'targets', did you mean 'target'|no setting 'targets'"):
        check_settings("tvm", {"targets": "aarch64-linux-gnu"})
    for blank in ("", " "):
        with pytest.raises(BadInputError, match=r"^engine tvm, setting 'linker': .* \(found '"):
            check_settings("tvm", {"linker": blank})


def test_a_blank_compiler_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", " ")
    assert compiler_command("g++", "clang").strip()
    assert TvmEngine().availability().engine == "tvm"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"target": "nonsense"},
            "^engine tvm, setting 'target': 'nonsense' is no triple that LLVM [0-9]+ compiles for",
        ),
        ({"cpu": "no-such-cpu"}, "^engine tvm, setting 'cpu': LLVM [0-9]+ knows no CPU 'no-such-cpu' of "),
        (
            {"target": "aarch64-linux-gnu", "cpu": "no-such-cpu", "linker": "ld"},
            "knows no CPU 'no-such-cpu' of aarch64-linux-gnu; ",
        ),
        ({"target": "aarch64-linux-gnu", "linker": "/nope -a"}, "setting 'linker', and /nope is not on the PATH; "),
        ({"target": "aarch64-linux-gnu"}, "setting 'linker', and there is none; "),
    ],
)
def test_what_llvm_does_not_know_is_told_before_anything_is_compiled(settings: dict[str, str], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said) as caught:
        _target(TvmSettings(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.integration
def test_another_target_wants_a_linker_of_its_own(program: Path, tmp_path: Path) -> None:
    options = BuildOptions(variant="fp32", signature=SIGNATURE, settings={"target": "aarch64-linux-gnu"})
    with pytest.raises(UnsupportedError, match=r"links for aarch64-linux-gnu with the setting 'linker'"):
        TvmEngine().build(program, tmp_path / "out", options)


@pytest.mark.integration
def test_a_library_for_arm_holds_arm_code_and_is_refused_here(program: Path, tmp_path: Path) -> None:
    """No cross-linker is at hand in CI: the objects themselves, which are for ARM, stand in for the library."""
    linker = tmp_path / "link"
    linker.write_text(f'#!{shutil.which("bash")}\nwhile [ "$1" != -o ]; do shift; done\ncat "${{@:3}}" > "$2"\n')
    linker.chmod(linker.stat().st_mode | stat.S_IXUSR)
    settings = {"target": "aarch64-linux-gnu", "cpu": "cortex-a76", "linker": str(linker)}
    out = tmp_path / "out"
    told = TvmEngine().build(program, out, BuildOptions(variant="fp32", signature=SIGNATURE, settings=settings))
    assert (told["machine"], told["cpu"]) == ("aarch64", "cortex-a76")
    _, objects = tvm_library.read("tvm", out)
    assert objects[:4] == b"\x7fELF"
    assert int.from_bytes(objects[18:20], "little") == 183  # EM_AARCH64
    if platform.machine() != "aarch64":
        with pytest.raises(UnsupportedError, match=r"^engine tvm cannot run here: .*aarch64"):
            TvmEngine().load(out, RunOptions())


@pytest.mark.integration
def test_an_index_beyond_its_table_gives_nan_instead_of_what_lies_there(tmp_path: Path) -> None:
    path, out = tmp_path / "model.pt2", tmp_path / "out"
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        torch.nn.Embedding(5, 4), (torch.zeros(2, dtype=torch.int64),), dynamic_shapes=(batch,)
    )
    torch.export.save(program, path)
    signature = SIGNATURE.model_copy(update={"inputs": (TensorSpec(name="x", dtype="int64", shape=(-1,)),)})
    TvmEngine().build(path, out, BuildOptions(variant="fp32", signature=signature))
    with TvmEngine().load(out, RunOptions()) as session:
        answer = session.infer({"x": torch.tensor([1, 5, 10**9]).numpy()})["y"]
    expected = program.module()(torch.tensor([1])).detach().numpy()
    assert (answer[0] == expected[0]).all()
    assert (answer[1:] != answer[1:]).all()
