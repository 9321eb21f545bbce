"""What a release left in the registry: candidates and their evidence, and a person's word on them."""

from __future__ import annotations

import getpass
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from slipway.canary import today_of
from slipway.cli import ending
from slipway.cli.console import Spare, out, print_json, print_table, tell
from slipway.cli.release import DEFAULT_PARAMS, NARROWER, JsonOption
from slipway.config import load_params
from slipway.errors import BadInputError, InfrastructureError
from slipway.records import CandidateSpec, Decision, Evidence, Phase, Rollout
from slipway.reports.explanation import explanation
from slipway.reports.plots import left_out, points, write_plot
from slipway.reports.summary import HEADINGS, candidate_json, candidate_row
from slipway.steps.promote import Today
from slipway.stores.mlflow_connection import Connection
from slipway.stores.registry import CHALLENGER, CHAMPION, RegisteredEngine, parse_model_uri
from slipway.wiring import Workshop, load_flow, workshop

File: TypeAlias = tuple[str, str]  # target and digest

NameArgument = Annotated[str, typer.Argument(help="The registered engine, NAME.TARGET, such as digits-resnet.x86.")]
VersionArgument = Annotated[str, typer.Argument(help="Its version.")]
OwnParamsOption = Annotated[
    Path | None,
    typer.Option(
        "--params", help="Whose test data must be unchanged, and who approves (default: params.yaml, if there)."
    ),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept with the version.")]


def add_commands(app: typer.Typer) -> None:
    """Add ``candidates``, ``explain``, ``approve``, ``reject`` and ``rollback``."""
    for command in (candidates, explain, approve, reject, rollback):
        app.command()(command)


def candidates(
    name: Annotated[str, typer.Argument(help="The source model, such as digits-resnet.")],
    target: Annotated[str | None, typer.Option(help="Only this target.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the Pareto plot to this .html or .png file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Table of what was measured on a model's candidates; of each its newest evidence."""
    every = workshop().registry.candidates(name, target)
    if not every:
        asked = f"{name} on target {target}" if target else name
        raise BadInputError(f"no candidate of {asked} was ever measured here; run `slipway release` on a version of it")
    champions = _champions(name, {evidence.spec.target for evidence in every})
    found = _current(every, champions)
    if plot is not None:
        write_plot(f"candidates of {name}", points(found, champions), plot, left_out(found))
        tell(f"wrote {plot}")
    if as_json:
        listed = [candidate_json(e, champions.get(_file(e))) | {"target": e.spec.target} for e in found]
        print_json({"model": name, "candidates": listed})
        return
    rows = [(*candidate_row(e, _file(e) in champions), (e.digest or "-")[:12], e.spec.target) for e in found]
    one_target = len({evidence.spec.target for evidence in found}) == 1
    spare = [Spare("digest", _short), *NARROWER[:2], *([Spare("target")] if one_target else []), *NARROWER[2:]]
    print_table((*HEADINGS, "digest", "target"), rows, f"candidates of {name}; ► serves as champion", spare)


def _short(digest: str) -> str:
    return digest[:8]


def _file(evidence: Evidence) -> File:
    return evidence.spec.target, evidence.digest or ""


def _current(every: list[Evidence], champions: Mapping[File, str]) -> list[Evidence]:
    """Of each candidate, and of each champion's file, the newest evidence; ``every`` begins with the newest release."""
    specs: set[CandidateSpec] = set()
    files: set[File] = set()
    current = []
    for evidence in every:
        serves_unseen = _file(evidence) in champions and _file(evidence) not in files
        if evidence.spec not in specs or serves_unseen:
            current.append(evidence)
        specs.add(evidence.spec)
        files.add(_file(evidence))
    return current


def _champions(name: str, targets: Iterable[str]) -> dict[File, str]:
    """Registry URI of each target's champion, by target and digest: targets may share a file."""
    registry, champions = workshop().registry, {}
    for target in sorted(targets):
        version = registry.champion(f"{name}.{target}")
        if version is not None:
            engine = registry.version(f"{name}.{target}", version)
            champions[target, engine.digest] = f"models:/{name}.{target}/{version}"
    return champions


def explain(
    digest: Annotated[str, typer.Argument(help="The candidate's sha256, or its first characters.")],
    target: Annotated[
        str | None, typer.Option(help="On this target (default: where the file serves, else the newest evidence).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """All evidence on one candidate: what was measured, every gate with its reasons."""
    evidence = workshop().registry.find(digest, target)
    if target is None:
        evidence = _where_it_serves(evidence)
    if as_json:
        print_json(evidence.model_dump(mode="json"))
        return
    out.print(f"{evidence.spec} for {evidence.spec.target}: {evidence.decision.verdict}", style="bold", highlight=False)
    for heading, lines in explanation(evidence).items():
        out.print(f"\n{heading}", style="bold")
        for line in lines:
            out.print(f"  {line}", highlight=False, markup=False)


def _where_it_serves(newest: Evidence) -> Evidence:
    """Of the evidence on one file that several targets share, that of a target whose champion it is; else ``newest``.

    The other targets are told.
    """
    registry, name = workshop().registry, parse_model_uri(newest.model_uri)[0]
    every = [evidence for evidence in registry.candidates(name, None) if evidence.digest == newest.digest]
    targets = list(dict.fromkeys(evidence.spec.target for evidence in every))
    if len(targets) < 2:
        return newest
    champions = _champions(name, targets)
    chosen = next((evidence for evidence in every if _file(evidence) in champions), newest)
    others = ", ".join(target for target in targets if target != chosen.spec.target)
    tell(f"this is the evidence on target {chosen.spec.target}; the same file has some on {others}: give --target")
    return chosen


def approve(
    name: NameArgument,
    version: VersionArgument,
    reason: ReasonOption,
    params: OwnParamsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Promote a version to champion, after reading its evidence again and re-checking every gate.

    Where more than one person has to approve, the last of them promotes; before that it ends with 4.
    """
    _decide(name, version, "approve", reason, params, as_json)


def reject(name: NameArgument, version: VersionArgument, reason: ReasonOption, as_json: JsonOption = False) -> None:
    """Refuse a version; no release promotes it any more."""
    _decide(name, version, "reject", reason, None, as_json)


def _decide(name: str, version: str, word: str, reason: str, params: Path | None, as_json: bool) -> None:
    if not reason.strip():
        raise BadInputError(f"cannot {word} {name} version {version} without a reason; give --reason TEXT")
    if not version.isdecimal() or not re.fullmatch(r"[^/:@]+", name):
        raise BadInputError(
            f"cannot {word} {name!r} version {version!r}: give the registered engine's name, NAME.TARGET, and the "
            "version's number, as in digits-resnet.x86 4"
        )
    shop, person = workshop(), _person()
    engine = shop.registry.version(name, version)
    held_against = _today(params, engine.evidence) if word == "approve" else Today()
    ending.prepare()
    decision: Decision = load_flow("promote")(name, version, word, reason, person, held_against)
    if as_json:
        print_json({"name": name, "version": version, **decision.model_dump(mode="json")})
    else:
        out.print(f"{decision.verdict}: {'; '.join(decision.reasons)}", highlight=False)
    raise typer.Exit(decision.verdict.exit_code)


def _person() -> str:
    """Whoever decides, as the MLflow server has authenticated them; else MLflow's user, else the operating system's.

    Raises:
        BadInputError: nobody there has a name, or the server does not accept the one given.
        InfrastructureError: the server does not answer.
    """
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if server and (known := Connection(server, None).user()):
        return known
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError) as error:  # a container's user need not have a name
        raise BadInputError("cannot tell who decides: this user has no name; set MLFLOW_TRACKING_USERNAME") from error


def _person_in_haste() -> str:
    """As `_person`, where to be without a name must not keep anybody from rolling back."""
    try:
        return _person()
    except BadInputError:
        return "unknown"


def _today(params: Path | None, evidence: Evidence) -> Today:
    """What the word is held against, as far as the parameters here tell of the model."""
    if params is None and not DEFAULT_PARAMS.exists():
        return Today()
    return today_of(load_params(params or DEFAULT_PARAMS), evidence)


def rollback(
    name: Annotated[str, typer.Argument(help="The source model, such as digits-resnet.")],
    target: Annotated[str, typer.Option(help="The target to roll back.")],
    as_json: JsonOption = False,
) -> None:
    """Take the newest engine out of service: end a rollout that is under way, else make the previous champion serve.

    Where a gateway runs, all of its traffic goes to the champion at once.
    """
    # Imported before the traffic moves: in the time that takes, a controller would set its share again.
    import slipway.rollout.controller
    import slipway.rollout.store.rollouts  # noqa: F401

    shop, registered = workshop(), f"{name}.{target}"
    returned = _return_traffic(shop, registered)
    rollout = _stopped(shop, registered)
    if rollout is not None and returned:
        _return_traffic(shop, registered)  # its controller may have set its share just before
    if rollout is not None and not _serves_yet(shop, rollout):
        rollout = None
    if rollout is not None:
        _withdraw(shop, rollout)
        engine = shop.registry.version(registered, rollout.champion.version)
        told = f"{registered} version {engine.version} serves all; version {rollout.challenger.version} is withdrawn"
    else:
        engine = _restore(shop, registered)
        told = f"{engine.name} version {engine.version} is the champion again ({engine.evidence.spec})"
    if as_json:
        withdrawn = None if rollout is None else rollout.challenger.version
        state = {"champion": engine.version, "digest": engine.digest, "withdrawn": withdrawn, "traffic_moved": returned}
        print_json({"name": engine.name, **state})
    else:
        out.print(told, highlight=False)


def _restore(shop: Workshop, registered: str) -> RegisteredEngine:
    """Make the previous champion serve again; who wanted that is kept with the version that it replaces."""
    left = shop.registry.champion(registered)
    engine = shop.registry.rollback(registered)
    if left is not None and left != engine.version:
        shop.registry.withdraw(registered, left, _person_in_haste(), "slipway rollback")
    return engine


def _return_traffic(shop: Workshop, registered: str) -> bool:
    """Send all traffic to the champion; whether a gateway took it."""
    # Imported here, as below: the rollout's libraries are more than the other commands want to wait for.
    from slipway.rollout.contenders import RunningGateway
    from slipway.rollout.gateway.running import RECORD, gateway_folder

    folder = gateway_folder(shop.state, registered)
    if not (folder / RECORD).exists():
        return False
    try:
        RunningGateway(folder).rollback()
    except InfrastructureError as error:  # the alias moves all the same
        tell(f"the traffic could not be moved: {error}")
        return False
    return True


def _stopped(shop: Workshop, registered: str) -> Rollout | None:
    """The rollout that is not finished, which is told to end; None where there is none.

    A controller that is at work sets its share no more, while the registry has yet to be asked.
    """
    from slipway.rollout.controller import WITHDRAWN, unfinished

    rollout = unfinished(shop.rollouts, registered)
    if rollout is None or (rollout.phase.ended and rollout.phase is not Phase.PROMOTED):
        return None
    shop.rollouts.record(rollout.rollout_id, WITHDRAWN, "slipway rollback")
    return rollout


def _serves_yet(shop: Workshop, rollout: Rollout) -> bool:
    """Whether the champion that a rollout began with still is it, so that to withdraw the challenger is all there is.

    The challenger's own alias tells nothing: the controller may have ended the rollout a moment ago.
    """
    aliases = shop.registry.aliases(rollout.name)
    return aliases.get(CHAMPION) == rollout.champion.version or aliases.get(CHALLENGER) == rollout.challenger.version


def _withdraw(shop: Workshop, rollout: Rollout) -> None:
    """Take the challenger back; a controller that is at work sees that and ends, else the end is saved here."""
    from slipway.rollout.store.lease import LeaseHeldError

    person = _person_in_haste()
    shop.registry.withdraw(rollout.name, rollout.challenger.version, person, "slipway rollback")
    _return_traffic(shop, rollout.name)  # again: a controller may have set its share meanwhile
    ended = {"phase": Phase.ROLLED_BACK, "share_percent": 0.0, "phase_since_s": time.time()}
    told = {"reasons": (f"rolled back by {person}: slipway rollback",)}
    with suppress(LeaseHeldError):
        shop.rollouts.save(rollout.model_copy(update=ended | told))
