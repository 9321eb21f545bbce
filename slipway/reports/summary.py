"""A release as one JSON object (the contract of ``slipway release --json``) and as a Markdown report for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from slipway.records import Evidence, Release, ReleaseResult, TargetOutcome


def release_json(release: Release, registered: Mapping[str, str], seconds: float) -> dict[str, object]:
    """The object that ``slipway release --json`` prints; ``registered`` maps a target to its engine's registry URI."""
    return {
        "model": release.model.uri,
        "model_sha256": release.model.digest,
        "data_md5": release.data_md5,
        "code_revision": release.code_revision,
        "seconds": round(seconds, 2),
        "targets": {t.target: _target_json(t, release.metric, registered.get(t.target)) for t in release.targets},
    }


def _target_json(outcome: TargetOutcome, metric: str, registered: str | None) -> dict[str, object]:
    latency = outcome.reference_latency
    return {
        "verdict": outcome.decision.verdict,
        "reasons": list(outcome.decision.reasons),
        "chosen": outcome.chosen,
        "hardware": outcome.hardware.model_dump(mode="json"),
        "reference": {
            "metric": metric,
            "value": outcome.reference_value,
            "latency_p50_ms": latency.p50_ms if latency else None,
            "latency_p99_ms": latency.p99_ms if latency else None,
        },
        "candidates": [
            candidate_json(evidence, registered if is_chosen(outcome, evidence) else None)
            for evidence in outcome.candidates
        ],
    }


def is_chosen(outcome: TargetOutcome, evidence: Evidence) -> bool:
    """Whether ``evidence`` is the chosen candidate's."""
    return evidence.digest is not None and evidence.digest == outcome.chosen


def candidate_json(evidence: Evidence, registered: str | None) -> dict[str, object]:
    """One candidate as JSON; what was not measured is null."""
    accuracy, parity, timing = evidence.accuracy, evidence.parity, evidence.timing
    return {
        "digest": evidence.digest,
        "variant": evidence.spec.variant,
        "engine": evidence.spec.engine,
        "options": evidence.options,
        "verdict": evidence.decision.verdict,
        "reasons": list(evidence.decision.reasons),
        "size_bytes": evidence.size_bytes,
        "accuracy": accuracy and accuracy.model_dump(include={"value", "drop", "drop_upper", "n"}),
        "parity": parity and parity.model_dump(include={"max_abs_diff", "top1_agreement"}),
        "latency": timing and timing.latency.model_dump(include={"p50_ms", "p90_ms", "p99_ms", "samples"}),
        "throughput_per_s": timing.throughput_per_s if timing else {},
        "speedup": timing.speedup.value if timing else None,
        "executed_precision": evidence.executed_precision,
        "registered": registered,
    }


HEADINGS = ("", "variant", "engine", "accuracy", "drop ≤", "p50 ms", "p99 ms", "speed-up", "size MB", "verdict")


def candidate_row(evidence: Evidence, chosen: bool) -> tuple[str, ...]:
    """One line of the table that people read, cells as ``HEADINGS`` names them."""
    accuracy, timing = evidence.accuracy, evidence.timing
    p99 = timing.latency.p99_ms if timing else None
    return (
        "►" if chosen else "",
        evidence.spec.variant,
        evidence.spec.engine,
        f"{accuracy.value:.4f}" if accuracy else "-",
        f"{accuracy.drop_upper:+.4f}" if accuracy else "-",
        f"{timing.latency.p50_ms:.3f}" if timing else "-",
        f"{p99:.3f}" if p99 is not None else "-",
        f"{timing.speedup.value:.2f}x [{timing.speedup.lower:.2f}, {timing.speedup.upper:.2f}]" if timing else "-",
        f"{evidence.size_bytes / 1e6:.2f}" if evidence.size_bytes is not None else "-",
        str(evidence.decision.verdict),
    )


TABLE_HEADINGS = ("chosen", *HEADINGS[1:])  # a table by column names has none without


def candidate_table(release: Release) -> list[dict[str, str]]:
    """All candidates of all targets as rows of one table, by column: what `candidate_row` tells, and the reasons."""
    return [
        dict(zip(TABLE_HEADINGS, candidate_row(evidence, is_chosen(outcome, evidence)), strict=True))
        | {"target": outcome.target, "reasons": "; ".join(evidence.decision.reasons)}
        for outcome in release.targets
        for evidence in outcome.candidates
    ]


def verdicts(result: ReleaseResult) -> list[str]:
    """How a release ended, in one line per target: the verdict on what was chosen, and what became of it."""
    lines = []
    for outcome in result.release.targets:
        promotion = result.promotions.get(outcome.target)
        last = promotion or outcome.decision
        reasons = (*outcome.decision.reasons, *(promotion.reasons if promotion else ()))
        lines.append(f"{outcome.target} {last.verdict}: {'; '.join(reasons)}")
    return lines


def markdown(release: Release) -> str:
    """The release report: one section and table per target, then the reasons of all that did not pass."""
    lines = [
        f"# Release of {release.model.uri}",
        "",
        f"- model sha256 `{release.model.digest}`",
        f"- test data md5 `{release.data_md5}`, metric {release.metric}",
        f"- code revision `{release.code_revision}`",
    ]
    for outcome in release.targets:
        lines += ["", f"## Target {outcome.target}: {outcome.decision.verdict}", ""]
        lines += [f"- {reason}" for reason in outcome.decision.reasons]
        lines += [f"- measured on {outcome.hardware.cpu}, {outcome.hardware.cores} cores", ""]
        lines += [_line(HEADINGS), _line("---" for _ in HEADINGS), _line(reference_row(outcome))]
        lines += [_line(candidate_row(e, is_chosen(outcome, e))) for e in outcome.candidates]
        lines += [""]
        lines += [
            f"- {evidence.spec}: {reason}"
            for evidence in outcome.candidates
            if evidence.decision.verdict != "PASS"
            for reason in evidence.decision.reasons
        ]
    return "\n".join(lines) + "\n"


def reference_row(outcome: TargetOutcome) -> tuple[str, ...]:
    """The reference as a line of the same table."""
    latency = outcome.reference_latency
    p50 = f"{latency.p50_ms:.3f}" if latency else "-"
    p99 = f"{latency.p99_ms:.3f}" if latency and latency.p99_ms is not None else "-"
    value = "-" if outcome.reference_value is None else f"{outcome.reference_value:.4f}"
    return ("", "reference", "eager fp32", value, "", p50, p99, "1", "", "")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
