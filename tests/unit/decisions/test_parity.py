from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.decisions.parity import parity_gate
from slipway.records import Parity, Verdict

LOWER = ("bf16", "fp16", "int8-dynamic", "int8-static", "int8-mixed", "int8-qat")


def parity(cosine: float, relative: float = 1e-4, agreement: float | None = 1.0) -> Parity:
    return Parity(max_abs_diff=1e-6, max_rel_diff=relative, cosine=cosine, top1_agreement=agreement, n=1000)


@pytest.mark.parametrize(
    ("variant", "measured", "verdict"),
    [
        ("fp32", parity(1 - 1e-13, 1.4e-4), Verdict.PASS),
        ("fp32", parity(0.9999, 0.02), Verdict.PASS),
        ("fp32", parity(0.99989), Verdict.FAIL),
        ("fp32", parity(1.0, 0.0201), Verdict.FAIL),
        ("bf16", parity(0.99997, 4.8), Verdict.PASS),
        ("int8-static", parity(0.9795, 21.4, 0.98), Verdict.PASS),
        ("int8-static", parity(0.9), Verdict.PASS),
        ("int8-static", parity(-0.386, 486, 0.2422), Verdict.FAIL),
        ("int8-dynamic", parity(0.8999), Verdict.FAIL),
    ],
)
def test_what_sound_engines_give_passes_and_what_broken_ones_give_fails(
    variant: str, measured: Parity, verdict: Verdict
) -> None:
    assert parity_gate(variant, measured).verdict is verdict


def test_agreement_is_told_and_decides_nothing() -> None:
    decision = parity_gate("int8-static", parity(0.99, agreement=0.81))
    assert decision.verdict is Verdict.PASS
    assert decision.reasons == ("cosine 0.990000, relative difference 0.0001, top-1 agreement 81.00% (n=1000)",)
    assert "agreement" not in parity_gate("fp32", parity(1.0, agreement=None)).reasons[0]


def test_a_reason_to_fail_tells_the_limit() -> None:
    assert parity_gate("bf16", parity(0.5)).reasons[0].endswith("(n=1000): bf16 needs a cosine of 0.9")
    told = parity_gate("fp32", parity(1.0, 0.5)).reasons[0]
    assert told.endswith("fp32 needs a relative difference of at most 0.02")


@pytest.mark.parametrize("variant", ["fp32", *LOWER])
def test_nan_fails(variant: str) -> None:
    assert parity_gate(variant, parity(math.nan)).verdict is Verdict.FAIL


@given(st.floats(-1, 1), st.floats(0, 10), st.sampled_from(LOWER))
def test_what_passes_as_fp32_passes_at_any_precision(cosine: float, relative: float, variant: str) -> None:
    measured = parity(cosine, relative)
    if parity_gate("fp32", measured).verdict is Verdict.PASS:
        assert parity_gate(variant, measured).verdict is Verdict.PASS
