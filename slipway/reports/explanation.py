"""All that is known about one candidate, in words, for ``slipway explain``."""

from __future__ import annotations

from slipway.decisions.precision import executed, layers_lowered
from slipway.records import Evidence, Latency, Timing
from slipway.reports.bottlenecks import why_not_faster
from slipway.reports.profiles import gpu_commands, most_expensive
from slipway.reports.restored import lines as restored_lines


def explanation(evidence: Evidence) -> dict[str, list[str]]:
    """Everything known about one candidate, under headings, for a person to read."""
    sections = {
        "What it is": [
            f"engine file sha256 {evidence.digest or 'none: it was never built'}",
            f"{evidence.spec.engine} {evidence.engine_version or ''}, options {evidence.options or 'none'}",
            f"made from {evidence.model_uri}, model sha256 {evidence.model_digest}",
            f"test data md5 {evidence.data_md5}, calibration md5 {evidence.calibration_md5 or 'none'}, "
            f"training md5 {evidence.training_md5 or 'none'}",
            f"code revision {evidence.code_revision}",
            f"measured on {evidence.hardware.cpu}, {evidence.hardware.cores} cores",
            *evidence.notes,
        ],
        "Gates": [
            f"{name}: {gate.verdict}: {reason}" for name, gate in evidence.gates.items() for reason in gate.reasons
        ],
    }
    sections |= {
        "Accuracy": _accuracy_lines(evidence),
        "Speed": _speed_lines(evidence),
        "Executed precision": _precision_lines(evidence),
        "Why it is not faster": why_not_faster(evidence),
    }
    way = {"Layers back in fp32": restored_lines(evidence.restored)} if evidence.restored else {}
    return sections | way | _operators(evidence)


def _accuracy_lines(evidence: Evidence) -> list[str]:
    accuracy, parity = evidence.accuracy, evidence.parity
    if accuracy is None or parity is None:
        return ["not measured"]
    return [
        f"{accuracy.metric} {accuracy.value:.4f}, reference {accuracy.reference_value:.4f}, n={accuracy.n}",
        f"drop {accuracy.drop:+.4f}, between {accuracy.drop_lower:+.4f} and {accuracy.drop_upper:+.4f} "
        f"(each bound at {accuracy.confidence:.0%}, {accuracy.method})",
        f"changed answers: {accuracy.flips if accuracy.flips is not None else 'not applicable'}; "
        f"worst class: {accuracy.worst_class or 'none'}",
        f"outputs differ by at most {parity.max_abs_diff:.4g}, cosine {parity.cosine:.6f}",
    ]


def _speed_lines(evidence: Evidence) -> list[str]:
    timing = evidence.timing
    if timing is None:
        return ["not measured"]
    latency, reference, speedup, host = timing.latency, timing.reference_latency, timing.speedup, timing.host_load
    inference_s = timing.first_inference_seconds
    first = f", answers first after {inference_s:.3f} s more" if inference_s is not None else ""
    return [
        f"p50 {latency.p50_ms:.3f} ms, batch {latency.batch}, {latency.threads} threads, {latency.samples} samples; "
        f"reference {reference.p50_ms:.3f} ms with {reference.threads} threads",
        _tail(latency),
        f"{speedup.value:.2f}x the reference's speed, 95% interval {speedup.lower:.2f} to {speedup.upper:.2f}",
        *_throughput_lines(timing),
        f"loads in {timing.load_seconds:.2f} s{first}, peak memory {timing.peak_rss_bytes / 2**20:.0f} MiB",
        f"host load {host.load_1m_before:.1f} before, {host.load_1m_after:.1f} after, steal {host.steal_share:.1%}"
        + (f", CPU governor {host.governor}" if host.governor else ""),
    ]


def _tail(latency: Latency) -> str:
    told = [("p90", latency.p90_ms), ("p95", latency.p95_ms), ("p99", latency.p99_ms)]
    known = [f"{name} {value:.3f} ms" for name, value in told if value is not None]
    within = latency.p99_interval_ms
    interval = f" ({within.lower:.3f} to {within.upper:.3f} at 95%)" if within else ""
    return ", ".join(known) + interval if known else "too few samples for any percentile but the median"


def _throughput_lines(timing: Timing) -> list[str]:
    """Examples per second of every setting, the quickest first; and what LoadGen concluded, where it was asked."""
    best_first = sorted(timing.throughput, key=lambda setting: -setting.examples_per_s)
    lines = [
        f"{one.examples_per_s:,.0f} examples/s: batch {one.batch}, threads {one.threads}, streams {one.streams}"
        for one in best_first
    ] or [f"{rate:,.0f} examples/s: batch {batch}" for batch, rate in timing.throughput_per_s.items()]
    if (run := timing.scenario) is not None:
        tail = f"p{run.percentile} {run.latency_ms:.3f} ms, " if run.latency_ms is not None else ""
        asked = f" of {run.target_per_s:g} asked for" if run.target_per_s is not None else ""
        lines.append(
            f"{run.tool} {run.name}, {'valid' if run.valid else 'INVALID'}: {tail}"
            f"{run.examples_per_s:,.1f} examples/s{asked}, {run.queries:,} queries"
        )
    return lines


def _precision_lines(evidence: Evidence) -> list[str]:
    profile = evidence.profile
    if profile is None:
        counts = ", ".join(f"{count} in {name}" for name, count in evidence.executed_precision.items())
        return [f"layers that multiply: {counts}" if counts else "not told by the runtime"]
    by = f"told by {profile.tool}: {profile.calls} calls of batch {profile.batch}, {profile.threads} threads"
    found = executed(evidence.spec.variant, profile)
    if found.share is None:
        return [f"{layers_lowered(found.variant)}: none was executed", by]
    ran = [str(found)]
    if found.others and found.time_share is not None:
        ran.append(f"by time, {found.time_share:.0%} of them did")
    return [*ran, by]


def _operators(evidence: Evidence) -> dict[str, list[str]]:
    """The most expensive operators before and after, and how to look deeper."""
    told = {
        f"The ten most expensive operators {when}": most_expensive(profile)
        for when, profile in (("before (reference)", evidence.reference_profile), ("after", evidence.profile))
        if profile is not None
    }
    commands = gpu_commands(evidence)
    return told | ({"To look deeper on the GPU": commands} if commands else {})
