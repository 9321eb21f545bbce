from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from slipway.measure import hardware
from slipway.measure.hardware import describe
from slipway.records import Hardware

X86 = (
    "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\nflags\t\t: fpu avx2 avx512_vnni\n\n"
    "processor\t: 1\nflags\t\t: amx_int8\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd4f\n"


def cpuinfo(folder: Path, text: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(text)
    return path


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def nvidia_smi(folder: Path, script: str) -> None:
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)


def test_this_host_is_described() -> None:
    found = describe({"torch": "2.13.0"})
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.memory_bytes > 2**28
    assert found.runtimes == {"torch": "2.13.0"}
    assert len(found.fingerprint) == 64


def test_x86_flags_are_those_of_the_first_processor(no_gpu: None, tmp_path: Path) -> None:
    found = describe({}, cpuinfo(tmp_path, X86))
    assert found.cpu == "Some CPU @ 2.0GHz"
    assert found.isa == ("avx2", "avx512_vnni")


def test_arm_tells_features_and_no_model_name(no_gpu: None, tmp_path: Path) -> None:
    found = describe({}, cpuinfo(tmp_path, ARM))
    assert found.isa == ("asimd", "asimddp", "i8mm")
    assert found.cpu


def test_a_host_without_cpuinfo_is_described_all_the_same(no_gpu: None, tmp_path: Path) -> None:
    found = describe({}, tmp_path / "none")
    assert found.isa == ()
    assert found.cpu


def test_fingerprint_is_stable_and_ignores_memory_and_order(
    no_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = describe({"a": "1", "b": "2"}, cpuinfo(tmp_path, X86))
    monkeypatch.setattr(hardware.os, "sysconf", lambda name: 2**15)
    after = describe({"b": "2", "a": "1"}, cpuinfo(tmp_path, X86))
    assert after.memory_bytes != before.memory_bytes
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize(
    ("runtimes", "text"), [({"a": "2"}, X86), ({"a": "1"}, X86.replace("avx2", "sse4")), ({}, X86)]
)
def test_fingerprint_changes_with_what_changes_an_engine(
    no_gpu: None, tmp_path: Path, runtimes: dict[str, str], text: str
) -> None:
    before = describe({"a": "1"}, cpuinfo(tmp_path, X86))
    assert describe(runtimes, cpuinfo(tmp_path, text)).fingerprint != before.fingerprint


def cache(folder: Path, index: int, level: int, kind: str, size: str) -> None:
    directory = folder / f"index{index}"
    directory.mkdir(parents=True)
    for name, text in (("level", str(level)), ("type", kind), ("size", size)):
        (directory / name).write_text(text + "\n")


def test_data_caches_are_told_in_bytes_and_change_the_fingerprint(no_gpu: None, tmp_path: Path) -> None:
    none, some = tmp_path / "none", tmp_path / "cache"
    cache(some, 0, 1, "Data", "48K")
    cache(some, 1, 1, "Instruction", "32K")
    cache(some, 2, 2, "Unified", "1024K")
    (some / "index3").mkdir()  # a host that tells of a cache and not how large it is

    found, without = describe({}, caches=some), describe({}, caches=none)

    assert found.caches == {"L1d": 48 * 1024, "L2": 1024 * 1024}
    assert without.caches == {}
    assert found.fingerprint != without.fingerprint


def test_gpus_are_named_and_change_the_fingerprint(no_gpu: None, tmp_path: Path) -> None:
    without = describe({})
    nvidia_smi(tmp_path, "echo 'NVIDIA H200, 9.0, 580.10'; echo 'NVIDIA H200, 9.0, 580.10'")
    found = describe({})
    nvidia_smi(tmp_path, "echo 'NVIDIA H200, 9.0, 590.20'; echo 'NVIDIA H200, 9.0, 590.20'")
    updated = describe({})
    assert (without.gpu, without.compute_capability, without.driver) == (None, None, None)
    assert (found.gpu, found.compute_capability, found.driver) == ("NVIDIA H200, NVIDIA H200", "9.0", "580.10")
    assert len({without.fingerprint, found.fingerprint, updated.fingerprint}) == 3


def test_an_old_driver_still_tells_the_names(no_gpu: None, tmp_path: Path) -> None:
    refused = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"
    nvidia_smi(tmp_path, f'case "$1" in *compute_cap*) {refused};; esac; echo "Tesla K80"')
    found = describe({})
    assert (found.gpu, found.compute_capability, found.driver) == ("Tesla K80", None, None)


def test_a_driver_that_does_not_answer_means_no_gpu(no_gpu: None, tmp_path: Path) -> None:
    nvidia_smi(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9")
    assert describe({}).gpu is None


def test_a_record_of_before_caches_and_drivers_still_loads() -> None:
    """As a registry may hold it."""
    old = describe({}).model_dump(exclude={"caches", "compute_capability", "driver"})
    assert Hardware.model_validate(old).caches == {}
