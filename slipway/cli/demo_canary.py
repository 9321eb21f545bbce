"""``slipway demo --canary``: a release's runner-up beside its champion, under clients of the example, until decided."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.cli.canary import rollout_json, run_rollout
from slipway.cli.console import tell
from slipway.cli.gateway import serve_command
from slipway.config import CanaryParams, Params
from slipway.errors import BadInputError, RejectedError, TamperedError, UnsupportedError
from slipway.records import Evidence, Phase, ReleaseResult, Verdict
from slipway.rollout.gateway.data_plane import DataPlane, Plan
from slipway.rollout.gateway.running import Gateway, gateway_folder
from slipway.stores.registry import CHALLENGER, RegisteredEngine
from slipway.wiring import Workshop, today

if TYPE_CHECKING:
    from slipway.examples import Example
    from slipway.examples.recipe import Split

PER_S = 100.0
EXAMPLES = 1000
FOLLOW_SECONDS = 1  # how often a server looks whether its alias has moved: a demo does not wait 5
# Decided by some 500 answers of the challenger, for which the margins have to be wide: that takes seconds, and tells
# less than the steps and margins that params.yaml asks of real traffic.
POLICY = CanaryParams(
    steps=(10, 50),
    latency_margin=1.0,
    accuracy_margin=0.03,
    error_margin=0.02,
    step_requests=50,
    max_minutes=1,
    bake_minutes=0.05,
)


@dataclass(frozen=True)
class Contest:
    """What is compared for a target: the champion, and the candidate that comes next to it."""

    target: str
    champion: RegisteredEngine
    runner_up: Evidence

    @property
    def engine(self) -> str:
        """The registered model, ``NAME.TARGET``."""
        return self.champion.name

    @property
    def compared(self) -> str:
        """The two candidates, for people."""
        return f"{self.runner_up.spec} beside {self.champion.evidence.spec}"

    @property
    def model(self) -> str:
        """The source model."""
        return self.engine.removesuffix(f".{self.target}")


def show_canary(shop: Workshop, params: Params, result: ReleaseResult, example: Example) -> dict[str, Any]:
    """Roll the runner-up out, and tell of each look; how it ended, or why it was left out, as an object.

    Whatever is decided, the engine that the release chose serves afterwards: the margins are a demo's.

    Raises:
        InfrastructureError: a store, a server or Envoy failed.
        TamperedError: the data or an engine were changed.
    """
    described = params.model_copy(update={"canary": POLICY})
    try:
        contest = find_contest(shop, described, result)
        return _rolled_out(shop, described, result, contest, example)
    except TamperedError:
        raise
    except (BadInputError, RejectedError, UnsupportedError) as error:
        return {"left_out": str(error)}


def in_a_line(told: dict[str, Any]) -> str:
    """What `show_canary` gave, for people."""
    if "left_out" in told:
        return f"no canary: {told['left_out']}"
    traffic = f"{told['requests']:,} requests, {told['failed']:,} failed"
    return f"canary {told['phase']}, {told['compared']}, {traffic}: {'; '.join(told['reasons'])}"


def find_contest(shop: Workshop, params: Params, result: ReleaseResult) -> Contest:
    """What to compare after a release: its first target that is served here, the champion and the runner-up.

    Raises:
        RejectedError: there is nothing to compare, or it was decided before.
    """
    promoted = (name for name, decision in result.promotions.items() if decision.verdict is Verdict.PASS)
    target = next((name for name in promoted if params.targets[name].work_pool is None), None)
    if target is None:
        raise RejectedError("the release promoted no engine that is served on this host")
    if params.approval.required:
        raise RejectedError("approval.required is true, and a person's word is not waited for")
    engine = f"{result.release.model.name}.{target}"
    champion = shop.registry.version(engine, str(shop.registry.champion(engine)))
    (outcome,) = (one for one in result.release.targets if one.target == target)
    found = runner_up(outcome.candidates, champion.digest)
    if found is None:
        raise RejectedError(f"{engine} has no other candidate that passed than its champion, {champion.evidence.spec}")
    _require_undecided(shop, engine, found)
    return Contest(target, champion, found)


def runner_up(candidates: Sequence[Evidence], champion: str) -> Evidence | None:
    """The quickest candidate that passed and is another file than the ``champion``'s (a digest); None where none is."""
    others = [one for one in candidates if one.decision.verdict is Verdict.PASS and one.digest not in {None, champion}]
    timed = [(one.timing.latency.p50_ms, one) for one in others if one.timing is not None]
    return min(timed, key=lambda pair: pair[0])[1] if timed else None


def _require_undecided(shop: Workshop, engine: str, found: Evidence) -> None:
    """A rollout of it that was interrupted goes on; one that has ended is not repeated.

    Raises:
        RejectedError: it was decided on before, or the rollout of another version is under way.
    """
    from slipway.rollout.controller import unfinished

    store, (name, _, target) = shop.rollouts, engine.rpartition(".")
    commands = f"`slipway gateway {name} --target {target}` and `slipway canary {name} --target {target}`"
    under_way, latest = unfinished(store, engine), store.latest(engine)
    if under_way is not None:
        if under_way.challenger.digest != found.digest:
            other = under_way.challenger.version
            raise RejectedError(f"{engine} has a rollout of version {other} under way; {commands} finish it")
        return
    if decision := shop.registry.earlier_decision(engine, str(found.digest)):
        raise RejectedError(f"{engine}'s runner-up, {found.spec}, was decided on before: {decision}")
    if latest is not None and latest.challenger.digest == found.digest and latest.phase is Phase.INCONCLUSIVE:
        raise RejectedError(
            f"{engine}'s runner-up, {found.spec}, was left {latest.phase} by an earlier rollout; {commands} try again"
        )


def _rolled_out(
    shop: Workshop, params: Params, result: ReleaseResult, contest: Contest, example: Example
) -> dict[str, Any]:
    from slipway.examples.traffic import Service, Traffic

    split, store = _questions(shop.root / params.data.test, example), shop.rollouts
    tell(f"a canary of {contest.engine}: {contest.compared}, with {PER_S:g} requests a second")
    with _gateway(shop, contest) as gateway:
        version = _challenger(shop, params, result, contest)  # only now: where no gateway runs, nothing is changed
        service = Service(gateway.address, contest.engine, example.input.name)
        with Traffic(service, split, PER_S, lambda told: store.add_labels(contest.engine, told)) as traffic:
            ended = run_rollout(params, contest.engine, version)
    for failure in traffic.failures[:1]:
        tell(f"the first that failed: {failure}")
    if ended.phase is Phase.PROMOTED:
        _give_back(shop, params, contest)
    failed = len(traffic.failures)
    clients = {"requests": len(traffic.answered) + failed, "failed": failed}
    return rollout_json(ended) | {"compared": contest.compared} | clients


def _questions(directory: Path, example: Example) -> Split:
    """The first examples of the test data."""
    from slipway.examples.recipe import Split
    from slipway.stores.datasets import batches

    first = next(batches(directory, (example.input.name,), EXAMPLES))
    assert first.target is not None  # asked for
    return Split(first.inputs[example.input.name].astype("float32"), first.target.astype("int64"))


def _challenger(shop: Workshop, params: Params, result: ReleaseResult, contest: Contest) -> str:
    """Register the runner-up, as the release registers its choice, and make it the challenger; its version.

    Raises:
        RejectedError: its evidence does not allow it any more.
    """
    from slipway.steps.promote import challenge

    recorded = shop.registry.record_release(result.release, {}, [])  # recorded already: nothing is written
    version = shop.registry.register(contest.engine, recorded, contest.runner_up)
    decision = challenge(shop.registry, contest.engine, version, *today(params, contest.model, contest.target))
    if decision.verdict is not Verdict.PASS:
        raise RejectedError(f"{contest.engine} version {version} cannot be promoted: {'; '.join(decision.reasons)}")
    return version


@contextmanager
def _gateway(shop: Workshop, contest: Contest) -> Iterator[Gateway]:
    """What `slipway gateway` runs, in this process: however that ends, all that it started ends with it."""
    serve = serve_command(contest.model, contest.target, "--poll-s", str(FOLLOW_SECONDS))
    plan = Plan(contest.engine, gateway_folder(shop.state, contest.engine), port=0)
    with DataPlane(plan, serve, lambda: CHALLENGER in shop.registry.aliases(contest.engine), tell) as plane:
        assert plane.gateway is not None  # nobody told it to stop
        keeping = threading.Thread(target=plane.run, args=(lambda: None,), name="gateway")
        keeping.start()
        try:
            yield plane.gateway
        finally:
            plane.stop()
            keeping.join()


def _give_back(shop: Workshop, params: Params, contest: Contest) -> None:
    """Let the engine that the release chose serve again: another release would, or would find itself in doubt."""
    from slipway.steps.promote import promote

    decision = promote(
        shop.registry, contest.engine, contest.champion.version, *today(params, contest.model, contest.target)
    )
    tell(f"{'; '.join(decision.reasons)}: it is what the release chose")
