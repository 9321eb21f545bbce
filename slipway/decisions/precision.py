"""Executed precision: how much of what a variant lowers did run in the precision that was asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from slipway.config import PrecisionParams
from slipway.records import Decision, Layer, Profile, Record, Verdict

# Ends the kind of a product without weights, such as attention's scores, which the int8 variants leave as it is.
OF_ACTIVATIONS = " of activations"
NAMES_TOLD = 5
_RECURRENT = re.compile(r"lstm|gru|rnn", re.IGNORECASE)


class Executed(Record):
    """How the layers that ``variant`` lowers ran: ``counts`` per precision, and those not in the one ``asked`` for.

    ``share`` is of their number, ``time_share`` of their time; both are None where there is no such layer, the latter
    also where the runtime told no time.
    """

    variant: str
    asked: str
    counts: dict[str, int]
    others: tuple[Layer, ...]
    share: float | None
    time_share: float | None

    def __str__(self) -> str:
        """``41 of 44 convolutions and matrix products ran in int8, 3 in fp32: names``."""
        total, ran = sum(self.counts.values()), self.counts.get(self.asked, 0)
        told = f"{ran} of {total} {layers_lowered(self.variant)} ran in {self.asked}"
        told += "".join(f", {count} in {name}" for name, count in self.counts.items() if name != self.asked)
        names = ", ".join(layer.name for layer in self.others[:NAMES_TOLD])
        more = f" and {len(self.others) - NAMES_TOLD} more" if len(self.others) > NAMES_TOLD else ""
        return f"{told}: {names}{more}" if names else told


def executed(variant: str, profile: Profile) -> Executed:
    """What became of the layers that ``variant`` lowers."""
    asked = asked_precision(variant)
    lowered = [layer for layer in profile.layers if is_lowered(variant, layer)]
    others = tuple(layer for layer in lowered if layer.precision != asked)
    all_us, others_us = (sum(layer.time_us or 0.0 for layer in layers) for layers in (lowered, others))
    return Executed(
        variant=variant,
        asked=asked,
        counts=dict(Counter(layer.precision for layer in lowered).most_common()),
        others=others,
        share=1 - len(others) / len(lowered) if lowered else None,
        time_share=1 - others_us / all_us if all_us else None,
    )


def count_precisions(layers: Iterable[Layer]) -> dict[str, int]:
    """How many of the layers that multiply and accumulate ran in each precision."""
    return dict(Counter(layer.precision for layer in layers if layer.multiplies))


def asked_precision(variant: str) -> str:
    """The precision that a variant is meant to run in: int8 for int8-static."""
    return variant.partition("-")[0]


def is_lowered(variant: str, layer: Layer) -> bool:
    """Whether ``variant`` asks for a lower precision of this layer.

    bf16 and fp16 ask for all that multiply; the int8 variants not for products of two activations, since it is weights
    that they quantize. With ranges from calibration, recurrent cells have no int8 form either; with ranges found on the
    way, convolutions have one that is slower than fp32.
    """
    if not layer.multiplies or (variant.startswith("int8") and layer.kind.endswith(OF_ACTIVATIONS)):
        return False
    if variant in ("int8-static", "int8-mixed", "int8-qat"):
        return not _RECURRENT.search(layer.kind)
    return variant != "int8-dynamic" or "conv" not in layer.kind.lower()


def layers_lowered(variant: str) -> str:
    """Those layers in words."""
    return {
        "int8-static": "convolutions and matrix products",
        "int8-mixed": "convolutions and matrix products",
        "int8-qat": "convolutions and matrix products",
        "int8-dynamic": "matrix products with weights",
    }.get(variant, "layers that multiply")


def precision_gate(policy: PrecisionParams, variant: str, profile: Profile | None) -> Decision | None:
    """FAIL when less than ``min_executed_share`` of the layers that ``variant`` lowers ran in its precision.

    int8-mixed leaves in fp32 what its answers need: there, one layer in int8 is enough.

    None for fp32, and where the policy demands nothing. INCONCLUSIVE without a profile: then nothing shows that the
    engine is what its name says. SKIPPED where no layer that the variant lowers was executed: the engine does nothing
    wrong, but it is fp32 under another name, and fp32 has a candidate of its own.
    """
    if policy.min_executed_share is None or variant == "fp32":
        return None
    if profile is None:
        reason = (
            f"{variant} was asked for, and the runtime did not tell what it executed; "
            "measure again, or set precision.min_executed_share to null to do without"
        )
        return Decision(verdict=Verdict.INCONCLUSIVE, reasons=(reason,))
    found = executed(variant, profile)
    if found.share is None:
        reason = f"{variant} lowers {layers_lowered(variant)}, and none was executed: nothing tells it from fp32"
        return Decision(verdict=Verdict.SKIPPED, reasons=(reason,))
    if variant == "int8-mixed":
        enough, demanded = found.share > 0, "any demanded"
    else:
        least = policy.min_executed_share
        enough, demanded = found.share >= least, f"{least:.0%} demanded"
    verdict = Verdict.PASS if enough else Verdict.FAIL
    reason = f"{found} ({found.share:.1%}, {demanded})"
    return Decision(verdict=verdict, reasons=(reason,))
