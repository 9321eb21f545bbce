"""A canary from its start to its end: what a rollout is made of, and whether there is anything to compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from slipway.config import ApprovalParams, Params
from slipway.decisions.approval import Word
from slipway.errors import BadInputError, RejectedError
from slipway.records import Contender, Decision, Evidence, Hardware, Phase, Rollout, Verdict
from slipway.steps.promote import NOBODY_ASKED, Today
from slipway.stores.registry import CHALLENGER, CHAMPION, parse_model_uri
from slipway.wiring import Workshop, today


class NothingToCompareError(BadInputError):
    """A rollout that cannot begin: a contender is missing, or both are the same file."""


def run_canary(
    shop: Workshop,
    params: Params,
    registered: str,
    version: str | None,
    report: Callable[[Rollout], None],
    warn: Callable[[str], None],
) -> Rollout:
    """Start or resume the rollout of ``registered`` (``NAME.TARGET``) behind its gateway, and bring it to its end.

    ``version`` is made the challenger first, if one is given.

    Raises:
        NothingToCompareError: there is no champion, no challenger, or they are the same file.
        BadInputError: the target is unknown.
        RejectedError: nothing that is seen could promote the challenger, another version's rollout is under way, or
            another controller is at work.
        InfrastructureError: no gateway runs, or a store or server is out of reach for too long.
    """
    from slipway.rollout.controller import Demands, begun
    from slipway.rollout.gateway.running import gateway_folder
    from slipway.rollout.session import run_rollout
    from slipway.steps.promote import promote

    model, _, target = registered.rpartition(".")
    if target not in params.targets:
        raise BadInputError(f"target {target!r} is not in the parameters; known: {', '.join(params.targets)}")

    now = partial(today, params, model, target)

    def start() -> Rollout:
        champion, challenger = contenders(shop, registered, version, now, params.approval)
        return begun(registered, champion, challenger, params.canary, time.time())

    def bring_to_its_end() -> Rollout:
        return run_rollout(
            shop.rollouts,
            shop.registry,
            gateway_folder(shop.state, registered),
            start,
            lambda wanted: promote(shop.registry, registered, wanted, *now(), params.approval),
            Demands(params.targets[target].slo.latency_p99_ms, params.approval.required),
            (report, warn),
        )

    if _another_is_left(shop, registered, version):
        bring_to_its_end()
    return bring_to_its_end()


def decided(
    shop: Workshop, registered: str, version: str, word: str, said: Word, decide: Callable[[str], Decision]
) -> Decision:
    """What comes of a person's word, ``approve`` or ``reject``, which ``decide`` carries out.

    In the middle of its rollout a version is not approved but consented to, and the rollout is told.
    """
    from slipway.rollout.controller import APPROVED

    rollout = _under_way(shop, registered)
    if word != "approve" or rollout is None or rollout.challenger.version != version:
        return decide(word)
    decision = decide("consent")
    if decision.verdict is Verdict.PASS:
        shop.rollouts.record(rollout.rollout_id, APPROVED, f"{said.person}: {said.reason}")
    return decision


def today_of(params: Params, evidence: Evidence) -> Today:
    """What a word on a version with this evidence is held against, as far as ``params`` tell of its model."""
    model, target = parse_model_uri(evidence.model_uri)[0], evidence.spec.target
    if parse_model_uri(params.model)[0] != model:
        return Today()
    data_md5, host = today(params, model, target)
    return Today(data_md5=data_md5, host=host, approval=params.approval)


def _under_way(shop: Workshop, registered: str) -> Rollout | None:
    """The rollout of ``registered`` whose challenger still is one; None where there is none."""
    rollout = shop.rollouts.latest(registered)
    if rollout is None or rollout.phase in {Phase.ROLLED_BACK, Phase.INCONCLUSIVE, Phase.ERROR}:
        return None
    return rollout if shop.registry.aliases(registered).get(CHALLENGER) == rollout.challenger.version else None


def _another_is_left(shop: Workshop, registered: str, version: str | None) -> bool:
    """Whether the rollout of another version than the one asked for has ended, and not all of that is done.

    Raises:
        RejectedError: it is under way: to go on with it would promote what was not asked for.
    """
    from slipway.rollout.controller import unfinished

    left = unfinished(shop.rollouts, registered)
    if left is None or version in {None, left.challenger.version}:
        return False
    if left.phase.ended:
        return True
    model, _, target = registered.rpartition(".")
    raise RejectedError(
        f"the rollout of {registered} version {left.challenger.version} is under way; go on with it without --version, "
        f"or end it first: `slipway rollback {model} --target {target}`"
    )


def contenders(
    shop: Workshop,
    registered: str,
    version: str | None,
    now: Callable[[], tuple[str | None, Hardware | None]],
    approval: ApprovalParams = NOBODY_ASKED,
) -> tuple[Contender, Contender]:
    """Champion and challenger, after checking that the challenger may be promoted as far as its evidence goes.

    Raises:
        NothingToCompareError: one of them is missing, or both are the same file.
        RejectedError: its evidence does not allow it any more.
    """
    from slipway.steps.promote import challenge

    aliases = shop.registry.aliases(registered)
    wanted = version or aliases.get(CHALLENGER)
    if CHAMPION not in aliases:
        raise NothingToCompareError(
            f"{registered} has no champion to compare with; `slipway approve` makes a version champion"
        )
    if wanted is None:
        raise NothingToCompareError(
            f"{registered} has no challenger; a release leaves one where approval.required is true, or give --version"
        )
    champion, challenger = (shop.registry.version(registered, one) for one in (aliases[CHAMPION], wanted))
    if champion.digest == challenger.digest:
        raise NothingToCompareError(
            f"{registered} version {wanted} is the champion's own file, version {champion.version}: nothing to compare"
        )
    decision = challenge(shop.registry, registered, wanted, *now(), approval)
    if decision.verdict is not Verdict.PASS:
        raise RejectedError(f"{registered} version {wanted} cannot be promoted: {'; '.join(decision.reasons)}")
    first, second = (Contender(version=one.version, digest=one.digest) for one in (champion, challenger))
    return first, second
