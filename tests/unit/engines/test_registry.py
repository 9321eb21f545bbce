from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from slipway.engines import ENGINES, availabilities, described_engine, engine
from slipway.errors import BadInputError, UnsupportedError


def test_unknown_engine_names_the_nearest_and_the_known() -> None:
    with pytest.raises(BadInputError, match=r"unknown engine 'onnxruntim', did you mean 'onnxruntime'.*known: torch, "):
        engine("onnxruntim")


def test_engine_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(distribution: str) -> str:
        raise importlib.metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UnsupportedError, match=r"openvino is not installed; pip install 'slipway\[openvino\]'"):
        engine("openvino")
    assert [found.available for found in availabilities()] == [False] * len(ENGINES)


def test_engines_are_called_as_they_are_registered() -> None:
    assert [described_engine(name).name for name in ENGINES] == list(ENGINES)
    assert [found.engine for found in availabilities()] == list(ENGINES)


def test_telling_availability_imports_no_runtime() -> None:
    """The command line lists engines; importing PyTorch alone takes seconds."""
    check = (
        "import sys; from slipway.engines import availabilities; "
        "assert all(found.version for found in availabilities() if found.available); "
        "runtimes = {'torch', 'onnx', 'onnxruntime', 'openvino', 'tvm', 'executorch', 'tensorrt_rtx'}; "
        "sys.exit(bool(runtimes & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False, timeout=60).returncode == 0
