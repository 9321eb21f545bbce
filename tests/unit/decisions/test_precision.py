from __future__ import annotations

import pytest

from slipway.config import PrecisionParams
from slipway.decisions.precision import OF_ACTIVATIONS, executed, precision_gate
from slipway.records import Layer, Profile, Verdict

POLICY = PrecisionParams(min_executed_share=0.8)


def layer(name: str, kind: str, precision: str = "int8", time_us: float | None = 1.0) -> Layer:
    return Layer(name=name, kind=kind, precision=precision, multiplies=kind != "Relu", time_us=time_us)


def profile(*layers: Layer) -> Profile:
    return Profile(tool="a profiler", layers=layers, calls=1, batch=1, threads=1)


def convolutions(int8: int, fp32: int) -> Profile:
    layers = [layer(f"fast{i}", "QLinearConv") for i in range(int8)]
    return profile(*layers, *(layer(f"slow{i}", "Conv", "fp32", 4.0) for i in range(fp32)))


def reason(variant: str, found: Profile, share: float = 0.8) -> tuple[Verdict, str]:
    decision = precision_gate(PrecisionParams(min_executed_share=share), variant, found)
    assert decision is not None
    (told,) = decision.reasons
    return decision.verdict, told


def test_enough_in_the_precision_asked_for_passes_and_names_the_rest() -> None:
    assert reason("int8-static", convolutions(41, 3)) == (
        Verdict.PASS,
        "41 of 44 convolutions and matrix products ran in int8, 3 in fp32: slow0, slow1, slow2 (93.2%, 80% demanded)",
    )


def test_too_little_fails_with_the_same_words() -> None:
    assert reason("int8-static", convolutions(41, 3), share=0.95) == (
        Verdict.FAIL,
        "41 of 44 convolutions and matrix products ran in int8, 3 in fp32: slow0, slow1, slow2 (93.2%, 95% demanded)",
    )


def test_the_share_demanded_is_enough() -> None:
    assert reason("int8-static", convolutions(4, 1))[0] is Verdict.PASS
    assert reason("int8-static", convolutions(4, 2))[0] is Verdict.FAIL


def test_only_the_first_names_are_told() -> None:
    assert "7 in fp32: slow0, slow1, slow2, slow3, slow4 and 2 more" in reason("int8-static", convolutions(0, 7))[1]


def test_all_in_the_precision_asked_for_names_none() -> None:
    told = "2 of 2 convolutions and matrix products ran in int8 (100.0%, 80% demanded)"
    assert reason("int8-static", convolutions(2, 0)) == (Verdict.PASS, told)


def test_what_does_not_multiply_does_not_count() -> None:
    """Otherwise a runtime could make up for its convolutions with int8 activations."""
    cheap = [layer(f"relu{i}", "Relu") for i in range(100)]
    assert reason("int8-static", profile(layer("conv", "Conv", "fp32"), *cheap)) == (
        Verdict.FAIL,
        "0 of 1 convolutions and matrix products ran in int8, 1 in fp32: conv (0.0%, 80% demanded)",
    )


@pytest.mark.parametrize(
    ("variant", "kind", "counts"),
    [
        ("int8-static", "Conv", True),
        ("int8-static", "Gemm", True),
        ("int8-static", "MatMul" + OF_ACTIVATIONS, False),
        ("int8-static", "LSTM", False),
        ("int8-mixed", "Conv", True),
        ("int8-mixed", "MatMul" + OF_ACTIVATIONS, False),
        ("int8-mixed", "LSTM", False),
        ("int8-dynamic", "Gemm", True),
        ("int8-dynamic", "DynamicQuantizeLSTM", True),
        ("int8-dynamic", "Convolution", False),
        ("int8-dynamic", "mkldnn_convolution", False),
        ("int8-dynamic", "bmm" + OF_ACTIVATIONS, False),
        ("bf16", "Conv", True),
        ("fp16", "Conv", True),
        ("bf16", "LSTM", True),
        ("bf16", "MatMul" + OF_ACTIVATIONS, True),
    ],
)
def test_a_layer_counts_if_the_variant_lowers_it(variant: str, kind: str, counts: bool) -> None:
    assert executed(variant, profile(layer("it", kind))).share == (
        None if not counts else float(variant.startswith("int8"))
    )


def test_dynamic_quantization_is_not_blamed_for_convolutions() -> None:
    found = profile(layer("conv", "Conv", "fp32"), layer("linear", "DynamicQuantizeMatMul"))
    assert reason("int8-dynamic", found) == (
        Verdict.PASS,
        "1 of 1 matrix products with weights ran in int8 (100.0%, 80% demanded)",
    )


def test_bf16_that_ran_in_fp32_fails() -> None:
    told = "1 of 2 layers that multiply ran in bf16, 1 in fp32: b (50.0%, 80% demanded)"
    assert reason("bf16", profile(layer("a", "Conv", "bf16"), layer("b", "Conv", "fp32"))) == (Verdict.FAIL, told)


def test_int8_mixed_chooses_itself_how_much_but_not_nothing() -> None:
    assert reason("int8-mixed", convolutions(1, 3)) == (
        Verdict.PASS,
        "1 of 4 convolutions and matrix products ran in int8, 3 in fp32: slow0, slow1, slow2 (25.0%, any demanded)",
    )
    assert reason("int8-mixed", convolutions(0, 3))[0] is Verdict.FAIL


def test_fp16_that_a_cpu_ran_in_fp32_fails() -> None:
    assert reason("fp16", profile(layer("a", "Conv", "fp32")))[0] is Verdict.FAIL


def test_nothing_to_lower_is_skipped_not_promoted() -> None:
    assert reason("int8-dynamic", profile(layer("conv", "Conv", "fp32"))) == (
        Verdict.SKIPPED,
        "int8-dynamic lowers matrix products with weights, and none was executed: nothing tells it from fp32",
    )


def test_a_runtime_that_does_not_tell_leaves_it_open() -> None:
    decision = precision_gate(POLICY, "int8-static", None)
    assert decision is not None
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "set precision.min_executed_share to null" in decision.reasons[0]


def test_fp32_and_a_policy_without_demand_have_no_gate() -> None:
    assert precision_gate(POLICY, "fp32", None) is None
    assert precision_gate(PrecisionParams(min_executed_share=None), "int8-static", None) is None


def test_a_demand_of_nothing_still_wants_to_see_a_profile() -> None:
    assert reason("int8-static", convolutions(0, 3), share=0.0)[0] is Verdict.PASS
    decision = precision_gate(PrecisionParams(min_executed_share=0.0), "int8-static", None)
    assert decision is not None
    assert decision.verdict is Verdict.INCONCLUSIVE


def test_shares_are_of_number_and_of_time() -> None:
    found = executed("int8-static", convolutions(6, 2))
    assert (found.asked, found.counts) == ("int8", {"int8": 6, "fp32": 2})
    assert (found.share, found.time_share) == (0.75, pytest.approx(6 / 14))
    assert [one.name for one in found.others] == ["slow0", "slow1"]


def test_without_times_there_is_no_share_of_time() -> None:
    found = executed("int8-static", profile(layer("conv", "QLinearConv", time_us=None)))
    assert (found.share, found.time_share) == (1.0, None)
