from __future__ import annotations

import os

import pytest
import torch

from slipway.engines.onednn_verbose import Primitive, parse, primitives
from slipway.errors import UnsupportedError

LOG = """onednn_verbose,v1,info,oneDNN v3.12.0 (commit 80afa71049cd69a3df32adcccb623b12cd7baa22)
onednn_verbose,v1,primitive,info,template:timestamp,operation,engine,primitive,implementation,exec_time
printed by somebody else
onednn_verbose,v1,1795165824114.5,primitive,exec,cpu,convolution,jit:avx512_core,forward_training,\
src:f32:a:blocked:abcd::f0 wei:f32:a:blocked:Acdb16a::f0 dst:f32::f0,attr-scratchpad:user,alg:convolution_direct,\
mb1_ic1oc32,0.0625
onednn_verbose,v1,1795165824115,primitive,exec,cpu,eltwise,jit:avx512_core_bf16,forward_training,\
data:bf16::blocked:aBcd16b::f0,attr-scratchpad:user,alg:eltwise_relu alpha:0 beta:0,1x32x32x32,1.5e-3
"""


def test_a_log_tells_kinds_types_and_times() -> None:
    assert list(parse(LOG)) == [
        Primitive("convolution", "jit:avx512_core", "f32", "mb1_ic1oc32", 1795165824114500.0, 62.5),
        Primitive("eltwise", "jit:avx512_core_bf16", "bf16", "1x32x32x32", 1795165824115000.0, 1.5),
    ]


def test_a_log_without_start_times_cannot_be_placed() -> None:
    with pytest.raises(UnsupportedError, match=r"no start times.*unset ONEDNN_VERBOSE"):
        list(parse("onednn_verbose,v1,primitive,exec,cpu,convolution,jit,use,src:f32::f0,,alg,mb1,0.1"))


def test_what_runs_inside_is_told_and_stdout_is_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    product = torch.nn.Conv2d(16, 16, 3).eval().bfloat16()
    with torch.inference_mode(), primitives() as ran:
        product(torch.ones(1, 16, 32, 32, dtype=torch.bfloat16))
    os.write(1, b"printed afterwards")
    assert {(one.kind, one.dtype) for one in ran} >= {("convolution", "bf16")}
    assert all(one.duration_us > 0 for one in ran)
    assert capfd.readouterr().out == "printed afterwards"


def test_nothing_is_logged_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    with primitives() as ran:
        pass
    torch.nn.Conv2d(16, 16, 3).bfloat16()(torch.ones(1, 16, 32, 32, dtype=torch.bfloat16))
    assert (ran, capfd.readouterr().out) == ([], "")
