"""``slipway release``: one model version to a promoted engine, or to the reasons why not."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from slipway.cli import ending
from slipway.cli.console import Spare, out, print_json, print_table, tell
from slipway.cli.progress import progress
from slipway.config import Params, load_params
from slipway.records import Decision, Release, ReleaseResult, TargetOutcome, Verdict
from slipway.reports.summary import HEADINGS, candidate_row, is_chosen, reference_row, release_json
from slipway.wiring import check_targets, load_flow, workshop

DEFAULT_PARAMS = Path("params.yaml")
ParamsOption = Annotated[Path, typer.Option("--params", help="The release's description.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Run every step again, whatever the cache holds.")]


def duration_seconds(text: str) -> float:
    """Seconds in a duration such as ``90s``, ``5m`` or ``1h30m``."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if total == 0:
        raise typer.BadParameter(f"{text!r} is no duration; write for example 90s, 5m or 1h30m")
    return float(total)


# What a table of candidates does without in a narrow terminal; the last two only where all else is not enough.
NARROWER = (
    Spare("speed-up", lambda cell: cell.partition(" ")[0]),
    Spare("size MB"),
    Spare("drop ≤"),
    Spare("p50 ms"),
    Spare("accuracy"),
)
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget",
        parser=duration_seconds,
        metavar="DURATION",
        help="Spend about this long, such as 5m, on the promising candidates; what was not measured is told.",
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Add ``release``."""
    app.command()(release)


def release(
    model_uri: Annotated[str, typer.Argument(help="models:/NAME/VERSION or models:/NAME@ALIAS")],
    params: ParamsOption = DEFAULT_PARAMS,
    target: Annotated[list[str] | None, typer.Option(help="Only this target; may be repeated.")] = None,
    as_json: JsonOption = False,
    fresh: FreshOption = False,
    budget: BudgetOption = None,
) -> None:
    """Quantize, export, build, validate, benchmark, choose, register and promote."""
    described = load_params(params)
    described = described.model_copy(update={"model": model_uri})
    raise typer.Exit(run_release(described, target or [], as_json, fresh, budget))


def run_release(
    params: Params, targets: list[str], as_json: bool, fresh: bool, budget_seconds: float | None = None
) -> int:
    """Run the flow, show how it ended, and tell the exit code."""
    result, seconds = released(params, targets, fresh, budget_seconds)
    if as_json:
        print_json(release_object(result, seconds))
    else:
        show_release(result, seconds)
    return result.verdict.exit_code


def released(
    params: Params, targets: list[str], fresh: bool, budget_seconds: float | None = None
) -> tuple[ReleaseResult, float]:
    """Run the flow; how it ended, and after how many seconds."""
    start = time.monotonic()
    if fresh:
        os.environ["PREFECT_TASKS_REFRESH_CACHE"] = "true"
    # What the flow would refuse first is told before Prefect starts, which takes seconds.
    params = check_targets(params, tuple(targets))
    workshop().registry.resolve(params.model)
    ending.prepare()
    flow = load_flow("release")
    with progress():
        result: ReleaseResult = flow(params, budget_seconds=budget_seconds)
    return result, time.monotonic() - start


def release_object(result: ReleaseResult, seconds: float) -> dict[str, object]:
    """What ``--json`` prints."""
    return release_json(_as_it_ended(result), _uris(result), seconds)


def _as_it_ended(result: ReleaseResult) -> Release:
    """The release with what became of each chosen engine as the last word on its target."""
    targets = tuple(_promoted(outcome, result.promotions.get(outcome.target)) for outcome in result.release.targets)
    return result.release.model_copy(update={"targets": targets})


def _promoted(outcome: TargetOutcome, promotion: Decision | None) -> TargetOutcome:
    if promotion is None:  # nothing was chosen
        return outcome
    reasons = (*outcome.decision.reasons, *promotion.reasons)
    return outcome.model_copy(update={"decision": Decision(verdict=promotion.verdict, reasons=reasons)})


def _uris(result: ReleaseResult) -> dict[str, str]:
    name = result.release.model.name
    return {t: f"models:/{name}.{t}/{version}" for t, version in result.recorded.versions.items()}


def show_release(result: ReleaseResult, seconds: float) -> None:
    """What people read: a table of each target, how it was decided, and where to look."""
    for outcome in result.release.targets:
        show_target(outcome, title=f"{result.release.model.uri} on {outcome.target}")
        for decision in (_conclusion(outcome), result.promotions.get(outcome.target)):
            if decision:
                out.print(f"{decision.verdict}: {'; '.join(decision.reasons)}", highlight=False)
    tell(f"{seconds:.1f} s; run {result.recorded.run_id}; look at it with: {workshop().look}")


def _conclusion(outcome: TargetOutcome) -> Decision:
    """The target's decision without the reasons of candidates that did not pass, which are listed above it."""
    lost = [e for e in outcome.candidates if e.decision.verdict is not Verdict.PASS]
    listed = tuple(f"{evidence.spec} {evidence.decision.verdict}" for evidence in lost)
    own = tuple(reason for reason in outcome.decision.reasons if reason.partition(": ")[0] not in listed)
    if own == outcome.decision.reasons:
        return outcome.decision
    counts = Counter(str(evidence.decision.verdict) for evidence in lost)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return Decision(verdict=outcome.decision.verdict, reasons=own or (f"no candidate passed: {told}",))


def show_target(outcome: TargetOutcome, title: str) -> None:
    """The table of one target, and the reasons of every candidate that did not pass."""
    rows = [candidate_row(evidence, is_chosen(outcome, evidence)) for evidence in outcome.candidates]
    print_table(HEADINGS, [reference_row(outcome), *rows], title, NARROWER)
    for evidence in outcome.candidates:
        if evidence.decision.verdict is not Verdict.PASS:
            out.print(
                f"  {evidence.spec} {evidence.decision.verdict}: {'; '.join(evidence.decision.reasons)}",
                highlight=False,
                markup=False,
            )
