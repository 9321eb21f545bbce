"""``slipway canary``: the challenger beside the champion, with growing shares of live traffic, until it is decided."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from slipway.canary import run_canary
from slipway.cli import ending
from slipway.cli.console import out, print_json, tell
from slipway.cli.release import DEFAULT_PARAMS, JsonOption, ParamsOption
from slipway.config import CanaryParams, Params, load_params
from slipway.records import Phase, Rollout, Verdict
from slipway.wiring import workshop

VERDICTS = {
    Phase.PROMOTED: Verdict.PASS,
    Phase.ROLLED_BACK: Verdict.FAIL,
    Phase.INCONCLUSIVE: Verdict.INCONCLUSIVE,
    Phase.ERROR: Verdict.ERROR,
}


def add_commands(app: typer.Typer) -> None:
    """Add ``canary``."""
    app.command()(canary)


def canary(
    name: Annotated[str, typer.Argument(help="The source model, such as digits-resnet.")],
    target: Annotated[str, typer.Option(help="The target whose challenger is rolled out.")],
    version: Annotated[str | None, typer.Option(help="Make this version the challenger first.")] = None,
    params: ParamsOption = DEFAULT_PARAMS,
    as_json: JsonOption = False,
) -> None:
    """Start a rollout, or go on with one: compare challenger and champion on live traffic, and promote or roll back.

    `slipway gateway` has to run. A line is printed at each look that tells more. Ends with 0 promoted, 3 rolled back, 4
    inconclusive, 5 broken. It may be killed at any time: run again, it goes on at the same step.
    """
    described = load_params(params)
    ending.prepare()
    try:
        ended = run_rollout(described, f"{name}.{target}", version)
    except KeyboardInterrupt:
        tell(f"the traffic stays as it is for {described.canary.dead_man_seconds:g} s; then all goes to the champion")
        raise typer.Exit(ending.INTERRUPTED_EXIT_CODE) from None
    verdict = VERDICTS[ended.phase]
    if as_json:
        print_json(rollout_json(ended))
    else:
        out.print(f"{verdict}: {ended.phase}: {'; '.join(ended.reasons)}", highlight=False)
    raise typer.Exit(verdict.exit_code)


def run_rollout(described: Params, registered: str, version: str | None) -> Rollout:
    """Run the controller in this process, and tell of each look."""
    shop = workshop()
    return run_canary(shop, described, registered, version, lambda rollout: tell(line(rollout)), tell)


def line(rollout: Rollout) -> str:
    """Where a rollout stands, in a line: its phase, its share, and what decided or is still open."""
    steps = CanaryParams.model_validate_json(rollout.policy_json).steps
    step = f" step {rollout.step + 1} of {len(steps)}" if rollout.phase is Phase.PROGRESSING else ""
    place = f"{rollout.name} {rollout.phase}{step}, {rollout.share_percent:g}% to version {rollout.challenger.version}"
    if rollout.phase.ended:
        return f"{place}: {'; '.join(rollout.reasons)}"
    gates = ", ".join(f"{reading.gate} {reading.decision.verdict}" for reading in rollout.readings)
    return ": ".join(filter(None, (place, "; ".join(filter(None, (*rollout.reasons[:1], gates))))))


def rollout_json(rollout: Rollout) -> dict[str, Any]:
    """A rollout as its commands print it: the record, its policy as an object, and the verdict once that is final."""
    told = rollout.model_dump(mode="json", exclude={"policy_json"})
    told["policy"] = CanaryParams.model_validate_json(rollout.policy_json).model_dump(mode="json")
    bakes = rollout.phase is Phase.PROMOTED and rollout.share_percent > 0
    told["verdict"] = None if bakes else VERDICTS.get(rollout.phase)
    return told
