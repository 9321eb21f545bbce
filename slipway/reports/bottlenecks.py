"""Why a candidate is not faster, in sentences: rules over its profile, the reference's, and its timing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from slipway.decisions.precision import executed, layers_lowered
from slipway.records import Evidence, Latency, Layer, Profile, Throughput, Timing
from slipway.reports.profiles import time_us

LEAST_SHARE = 0.02  # what takes less explains nothing
DISTURBED = 1.5  # a profiler itself slows calls down, but not by this much
_CONVERTS = re.compile(
    r"quantize|convert|cast|reorder|reformat|transpose|permute|contiguous|copy|^to$|to_mkldnn|to_dense", re.IGNORECASE
)
_FALLBACK_KERNEL = re.compile(r"(^|_)slow(_|$)|(^|_)ref(_|$)")


def converts(layer: Layer) -> bool:
    """Whether a layer only brings its data into another type or layout."""
    return not layer.multiplies and _CONVERTS.search(layer.kind) is not None


def why_not_faster(evidence: Evidence) -> list[str]:
    """What holds a candidate back, one sentence each; what takes less than 2% of its time is left out."""
    profile, timing = evidence.profile, evidence.timing
    if profile is None:
        return ["no profile was taken, so that only the latencies tell"]
    total_us = time_us(profile.layers)
    if not total_us:
        return [f"{profile.tool} told no times", *_threads(timing)]
    reference, latency = evidence.reference_profile, timing.latency if timing else None
    disturbed = (
        _disturbed("", profile, latency),
        _disturbed("reference's ", reference, timing.reference_latency if timing else None),
    )
    sentences = (
        *disturbed,
        _where_time_goes(profile),
        None if any(disturbed) else _against(profile, reference),
        _fallbacks(evidence.spec.variant, profile),
        _out_of_reach(evidence.spec.variant, profile),
        _conversions(profile),
        _memory_bound(profile),
        _slow_kernels(profile, "it"),
        _slow_kernels(reference, "the reference") if reference else None,
        _outside(profile, timing),
        *_threads(timing),
    )
    return [sentence for sentence in sentences if sentence]


def _disturbed(whose: str, profile: Profile | None, latency: Latency | None) -> str | None:
    """That the operators take longer than a call does, which no engine explains: what else ran on the host does."""
    if profile is None or latency is None or not _same_calls(profile, latency):
        return None
    total_us, call_us = time_us(profile.layers), latency.p50_ms * 1e3
    if total_us <= DISTURBED * call_us:
        return None
    return f"the {whose}profile was disturbed: operators take {_ms(total_us)}, a call {_ms(call_us)}; shares are rough"


def _same_calls(profile: Profile, latency: Latency) -> bool:
    return (profile.batch, profile.threads) == (latency.batch, latency.threads)


def _where_time_goes(profile: Profile) -> str:
    total_us = time_us(profile.layers)
    multiply, convert, move = (time_us(layers) / total_us for layers in _by_work(profile.layers))
    return (
        f"of {_ms(total_us)} in operators, {multiply:.0%} goes into multiplying, {convert:.0%} into converting types "
        f"and layouts, {move:.0%} into the rest"
    )


def _against(profile: Profile, reference: Profile | None) -> str | None:
    if reference is None or not time_us(reference.layers):
        return None
    (now, *rest), (before, *rest_before) = _by_work(profile.layers), _by_work(reference.layers)
    parts = (
        ("multiplying", time_us(before), time_us(now)),
        ("all else", sum(map(time_us, rest_before)), sum(map(time_us, rest))),
    )
    return "; ".join(
        f"{what} takes {_ms(after_us)}, in the reference {_ms(before_us)}"
        + (f" ({before_us / after_us:.1f}x as fast)" if after_us and before_us else "")
        for what, before_us, after_us in parts
    )


def _fallbacks(variant: str, profile: Profile) -> str | None:
    found = executed(variant, profile)
    if not found.others:
        return None
    share = time_us(found.others) / time_us(profile.layers)
    total = sum(found.counts.values())
    precisions = " and ".join(sorted({layer.precision for layer in found.others}))
    ran = "stayed in" if variant == "int8-mixed" else "fell back to"
    return f"{len(found.others)} of {total} {layers_lowered(variant)} {ran} {precisions}: {share:.0%} of the time"


def _out_of_reach(variant: str, profile: Profile) -> str | None:
    """What the variant leaves as it is, by design: Amdahl's law bounds what the rest can bring."""
    found = executed(variant, profile)
    other = [layer for layer in profile.layers if layer.multiplies and layer.precision != found.asked]
    left = [layer for layer in other if layer not in found.others]
    share = time_us(left) / time_us(profile.layers)
    if share < LEAST_SHARE:
        return None
    return (
        f"{variant} lowers only {layers_lowered(variant)}: it leaves {_kinds(left)} in {left[0].precision}, "
        f"{share:.0%} of the time"
    )


def _conversions(profile: Profile) -> str | None:
    layers = [layer for layer in profile.layers if converts(layer)]
    share = time_us(layers) / time_us(profile.layers)
    if share < LEAST_SHARE:
        return None
    only = _count(len(layers), "operator only converts", "operators only convert")
    return f"{only} types or layouts ({_kinds(layers)}): {share:.0%} of the time"


def _memory_bound(profile: Profile) -> str | None:
    *_, layers = _by_work(profile.layers)
    share = time_us(layers) / time_us(profile.layers)
    if share < LEAST_SHARE:
        return None
    nothing = _count(len(layers), "operator multiplies nothing", "operators multiply nothing")
    return (
        f"{nothing} ({_kinds(layers)}): {share:.0%} of the time, which memory bounds and not arithmetic, so that a "
        "lower precision saves little of it"
    )


def _slow_kernels(profile: Profile, whose: str) -> str | None:
    layers = [layer for layer in profile.layers if _FALLBACK_KERNEL.search(layer.kind)]
    total_us = time_us(profile.layers)
    share = time_us(layers) / total_us if total_us else 0.0
    if share < LEAST_SHARE:
        return None
    operators = _count(len(layers), "operator", "operators")
    return f"{whose} runs {operators} in kernels of last resort ({_kinds(layers)}): {share:.0%} of its time"


def _outside(profile: Profile, timing: Timing | None) -> str | None:
    """The part of a call that no operator accounts for; latency and profile are of different calls, so it is rough."""
    if timing is None or not _same_calls(profile, timing.latency):
        return None
    call_us = timing.latency.p50_ms * 1e3
    outside = 1 - time_us(profile.layers) / call_us
    if outside < LEAST_SHARE:
        return None
    return (
        f"{outside:.0%} of a call ({_ms(outside * call_us)} of {_ms(call_us)}) passes outside operators: "
        "dispatch, and copies in and out"
    )


def _threads(timing: Timing | None) -> list[str]:
    if timing is None:
        return []
    chosen, batch = timing.latency.threads, timing.latency.batch
    rates = {one.threads: one.examples_per_s for one in _single_stream(timing.throughput, batch)}
    told = f"it runs with {_threads_in_words(chosen)}, the reference with {timing.reference_latency.threads}"
    others = [threads for threads in sorted(rates) if threads != chosen and chosen in rates]
    compared = [
        f"with {_threads_in_words(threads)} it answers {rates[threads] / rates[chosen]:.2f}x as many examples a second"
        for threads in others
    ]
    return ["; ".join((told, *compared))]


def _single_stream(settings: Iterable[Throughput], batch: int) -> list[Throughput]:
    return [one for one in settings if one.batch == batch and one.streams == 1]


def _by_work(layers: Sequence[Layer]) -> tuple[list[Layer], list[Layer], list[Layer]]:
    """Those that multiply, those that convert, and the rest."""
    rest = [layer for layer in layers if not layer.multiplies]
    return (
        [layer for layer in layers if layer.multiplies],
        [layer for layer in rest if converts(layer)],
        [layer for layer in rest if not converts(layer)],
    )


def _kinds(layers: Sequence[Layer]) -> str:
    """``3 QuantizeLinear, 2 Transpose``, the most frequent first."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(layer.kind for layer in layers).most_common())


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _threads_in_words(threads: int) -> str:
    return _count(threads, "thread", "threads")


def _ms(us: float) -> str:
    return f"{us / 1e3:.3f} ms"
