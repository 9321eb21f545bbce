"""What a run of the audit found, as Markdown for people."""

from __future__ import annotations

from slipway.records import Audit, AuditResult, Verdict

HEADINGS = ("champion", "version", "verdict", "accuracy then", "now", "drop ≤", "speed-up then", "now", "why")


def audit_markdown(result: AuditResult) -> str:
    """One table, then what follows from each verdict, and what a person can do about a FAIL."""
    lines = [f"# Audit of the champions: {result.verdict}", ""]
    lines += [_line(HEADINGS), _line(tuple("---" for _ in HEADINGS)), *(_line(_row(audit)) for audit in result.audits)]
    follow_ups = [f"- {audit.name}: {audit.follow_up}" for audit in result.audits if audit.follow_up]
    troubled = [audit.name for audit in result.audits if audit.decision.verdict is Verdict.FAIL]
    if troubled:
        back = " or ".join(f"`{_rollback(name)}`" for name in troubled)
        follow_ups.append(f"- The champions keep serving. To take one back to the version before it: {back}")
    return "\n".join([*lines, "", *follow_ups]) + "\n"


def _row(audit: Audit) -> tuple[str, ...]:
    then, now = audit.recorded, audit.fresh
    return (
        audit.name,
        audit.version or "-",
        str(audit.decision.verdict),
        f"{then.accuracy.value:.4f}" if then and then.accuracy else "-",
        f"{now.accuracy.value:.4f}" if now and now.accuracy else "-",
        f"{now.accuracy.drop_upper:+.4f}" if now and now.accuracy else "-",
        f"{then.timing.speedup.value:.2f}x" if then and then.timing else "-",
        f"{now.timing.speedup.value:.2f}x" if now and now.timing else "-",
        "; ".join(audit.decision.reasons),
    )


def _rollback(name: str) -> str:
    model, _, target = name.rpartition(".")
    return f"slipway rollback {model} --target {target}"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
