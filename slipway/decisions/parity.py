"""The gate on parity: whether an engine file computes the model at all, before and beside what accuracy says."""

from __future__ import annotations

from slipway.records import Decision, Parity, Verdict

FP32_LEAST_COSINE = 0.9999
FP32_MOST_RELATIVE = 0.02
LEAST_COSINE = 0.9


def parity_gate(variant: str, parity: Parity) -> Decision:
    """FAIL where outputs lie further from eager fp32's than any sound engine's; the differences are told either way.

    fp32 engines reorder sums and fuse operators, no more: TorchScript, ONNX Runtime and OpenVINO kept to a cosine of
    1 - 1e-13 and a relative difference of 1.4e-4 (`ParityAccumulator`: next to zero, 1e-7 of the largest output) on
    convolution networks, transformers of up to 24 blocks and an LSTM. 0.9999 and 0.02 leave room for deeper models and
    more examples.

    Lower precisions round by design, and the accuracy gate judges what that costs. Their cosine was 0.9999 and more
    for bf16 and dynamic int8, and 0.98 for static int8 calibrated on noise; an engine that computed something else
    came to -0.4. Top-1 agreement decides nothing, since it means nothing for outputs that are no classes, but is told:
    accuracy may rise while a fifth of the answers change.
    """
    exact = variant == "fp32"
    least = FP32_LEAST_COSINE if exact else LEAST_COSINE
    agreement = "" if parity.top1_agreement is None else f", top-1 agreement {parity.top1_agreement:.2%}"
    found = f"cosine {parity.cosine:.6f}, relative difference {parity.max_rel_diff:.3g}{agreement} (n={parity.n})"
    # Written so that NaN fails.
    if not parity.cosine >= least:
        return Decision(verdict=Verdict.FAIL, reasons=(f"{found}: {variant} needs a cosine of {least:g}",))
    if exact and not parity.max_rel_diff <= FP32_MOST_RELATIVE:
        limit = f"{variant} needs a relative difference of at most {FP32_MOST_RELATIVE:g}"
        return Decision(verdict=Verdict.FAIL, reasons=(f"{found}: {limit}",))
    return Decision(verdict=Verdict.PASS, reasons=(found,))
