from __future__ import annotations

from typing import Any

import pytest

from slipway.decisions.staleness import require_fresh, stale
from slipway.errors import BadInputError
from slipway.records import CandidateSpec, Evidence, Hardware
from tests.fakes.evidence import HARDWARE, evidence

HERE = HARDWARE.model_copy(
    update={
        "isa": ("avx2", "avx512f"),
        "runtimes": {"torch": "2.13.0", "inductor": "2.13.0", "openvino": "2026.4.1", "tensorrt": "10.14"},
        "caches": {"L1d": 49152, "L2": 1048576},
        "gpu": "NVIDIA H200",
        "compute_capability": "9.0",
        "driver": "580.10",
    }
)


def built_on(hardware: Hardware, engine: str = "openvino", **changes: Any) -> Evidence:
    spec = CandidateSpec(target="x86", variant="fp32", engine=engine)
    return evidence("e" * 64, hardware=hardware, spec=spec, **changes)


def elsewhere(**changes: Any) -> Hardware:
    """A host that differs in this; its fingerprint differs too, and says nothing about which engine it matters to."""
    return HERE.model_copy(update={"fingerprint": "0" * 64, **changes})


def runtimes(**versions: str | None) -> Hardware:
    """A host with other versions; None is not installed."""
    found = HERE.runtimes | versions
    return elsewhere(runtimes={name: version for name, version in found.items() if version is not None})


@pytest.mark.parametrize("engine", ["torch", "inductor", "openvino", "tensorrt"])
def test_an_engine_is_fresh_where_it_was_measured(engine: str) -> None:
    assert stale(built_on(HERE, engine), HERE) == ()
    assert stale(built_on(HERE, engine), elsewhere(memory_bytes=2)) == ()


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        (elsewhere(cpu="another"), "built on cpu (x86_64), this host is another (x86_64)"),
        (elsewhere(machine="aarch64"), "built on cpu (x86_64), this host is cpu (aarch64)"),
        (elsewhere(isa=("avx2",)), "built with avx512f, which this host lacks"),
        (elsewhere(isa=(*HERE.isa, "amx_int8")), "built without amx_int8, which this host has"),
        (
            elsewhere(caches={"L1d": 49152, "L2": 2097152}),
            "caches L1d 48 KiB, L2 1024 KiB, here L1d 48 KiB, L2 2048 KiB",
        ),
        (elsewhere(cores=1), "measured on 2 cores, this host gives 1"),
        (runtimes(openvino="2026.5"), "openvino 2026.4.1, here 2026.5"),
        (runtimes(openvino=None), "openvino 2026.4.1, here not installed"),
    ],
)
def test_what_an_engine_runs_by_makes_it_stale(here: Hardware, reason: str) -> None:
    assert stale(built_on(HERE), here) == (reason,)


@pytest.mark.parametrize("here", [runtimes(torch="2.14"), runtimes(tvm="0.27"), runtimes(inductor=None)])
def test_another_engines_runtime_makes_nothing_stale(here: Hardware) -> None:
    assert stale(built_on(HERE, "openvino"), here) == ()


def test_pytorchs_engines_depend_on_pytorch() -> None:
    assert stale(built_on(HERE, "inductor"), runtimes(torch="2.14", inductor="2.14")) == (
        "inductor 2.13.0, here 2.14",
        "torch 2.13.0, here 2.14",
    )
    assert stale(built_on(HERE, "torch"), runtimes(torch="2.14")) == ("torch 2.13.0, here 2.14",)


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        (elsewhere(gpu="NVIDIA L4", compute_capability="8.9"), "GPU NVIDIA H200, here NVIDIA L4"),
        (elsewhere(gpu=None, compute_capability=None, driver=None), "GPU NVIDIA H200, here none"),
        (elsewhere(driver="590.20"), "driver 580.10, here 590.20"),
        (elsewhere(compute_capability="9.1"), "compute capability 9.0, here 9.1"),
    ],
)
def test_the_gpu_counts_for_engines_that_use_one(here: Hardware, reason: str) -> None:
    assert stale(built_on(HERE, "tensorrt"), here) == (reason,)
    assert stale(built_on(HERE, "torch", options={"device": "cuda:0"}), here) == (reason,)
    assert stale(built_on(HERE, "torch", options={"device": "cpu"}), here) == ()
    assert stale(built_on(HERE, "openvino"), here) == ()


def test_what_an_old_record_does_not_tell_is_not_held_against_it() -> None:
    old = elsewhere(caches={}, compute_capability=None, driver=None)
    assert stale(built_on(old, "tensorrt"), HERE) == ()


def test_every_reason_is_told() -> None:
    assert len(stale(built_on(HERE), elsewhere(cpu="another", isa=(), cores=1, caches={}, runtimes={}))) == 4


def test_a_stale_engine_is_refused_with_the_command_that_builds_it_anew() -> None:
    require_fresh(built_on(HERE), HERE)
    found = built_on(HERE)
    with pytest.raises(BadInputError) as refused:
        require_fresh(found, elsewhere(cores=4, cpu="another"))
    assert str(refused.value) == (
        f"engine fp32/openvino of {found.model_uri} is stale: built on cpu (x86_64), this host is another (x86_64); "
        f"measured on 2 cores, this host gives 4; run `slipway release {found.model_uri} --target x86` here to build "
        "it anew"
    )
