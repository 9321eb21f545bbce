from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.records import CandidateSpec
from slipway.reports.profiles import gpu_commands, most_expensive, profile_table
from tests.fakes.evidence import HARDWARE, TIMING, evidence
from tests.unit.engines.onnx_models import save_convolution
from tests.unit.reports.profiles import layer, profile

ON_A_GPU = HARDWARE.model_copy(update={"gpu": "NVIDIA H200"})


def test_the_table_has_a_line_per_operation_in_order() -> None:
    found = profile(layer("conv, first", "QLinearConv", "int8", 30.0), layer("relu", "Relu", "fp32", 10.0))
    assert profile_table(found) == (
        "name,kind,precision,multiplies,time_us,share\n"
        '"conv, first",QLinearConv,int8,true,30.000,0.7500\n'
        "relu,Relu,fp32,false,10.000,0.2500\n"
    )


def test_a_time_that_is_not_told_is_left_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(profile_table(profile(layer("conv", "Gemm", "fp32", None))))))
    assert [(row["time_us"], row["share"]) for row in rows] == [("", "")]


def test_the_ten_most_expensive_operators_come_first() -> None:
    found = profile(*(layer(f"op{number}", "Relu", time_us=float(number)) for number in range(1, 13)))
    lines = most_expensive(found)
    assert len(lines) == 11
    assert lines[0].split() == ["time", "us", "share", "runs", "in", "kind", "operator"]
    assert lines[1].split() == ["12.0", "15.4%", "fp32", "Relu", "op12"]
    assert lines[-1].split()[-1] == "op3"
    assert len({line.index("op") for line in lines}) == 1, "columns stand below each other"


def test_operators_without_times_are_no_table() -> None:
    assert most_expensive(profile(layer("conv", "Gemm", time_us=None))) == ["a profiler told no times"]


def test_a_gpu_gets_command_lines_of_nsight() -> None:
    digest = "abcdef" + "0" * 58
    spec = CandidateSpec(target="gpu", variant="fp32", engine="torch")
    systems, compute = gpu_commands(evidence(digest, spec=spec, hardware=ON_A_GPU, timing=TIMING))
    run = f"python -m slipway.engines torch .slipway/objects/ab/{digest}/engine* --threads 1"
    name = "fp32-torch-abcdef000000"
    assert systems == f"nsys profile --trace=cuda,nvtx,cudnn,cublas,osrt --output={name} {run} --calls 200"
    assert compute == f"ncu --set=full --export={name} {run} --calls 3"


def test_without_a_gpu_or_a_file_there_is_no_command_line() -> None:
    assert gpu_commands(evidence("1" * 64)) == []
    assert gpu_commands(evidence(None, hardware=ON_A_GPU)) == []


@pytest.mark.parametrize(("file", "status"), [("model.onnx", 0), ("missing.onnx", 2)])
def test_what_the_command_lines_run_runs(file: str, status: int, tmp_path: Path) -> None:
    """With the arguments, and from a pattern, as the shell hands them on."""
    save_convolution(tmp_path / "model.onnx")
    command = [sys.executable, "-m", "slipway.engines", "onnxruntime", str(tmp_path / file), "--threads", "1"]
    done = subprocess.run([*command, "--calls", "3"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("engine onnxruntime wants " if status else "")
