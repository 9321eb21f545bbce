"""The canary's controller: observe, decide, save, apply; killed anywhere, it goes on from what was saved."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from slipway.config import CanaryParams
from slipway.decisions.canary import Seen, advance, counted_anew, readings
from slipway.errors import InfrastructureError, SlipwayError, first_line
from slipway.records import Contender, Phase, Rollout, Verdict
from slipway.rollout.registry_word import refused_already, registry_word
from slipway.rollout.site import Site, Store
from slipway.rollout.store.lease import LeaseLostError
from slipway.stores.registry import CHALLENGER, CHAMPION

LOOK_SECONDS = 1.0
MINUTE_SECONDS = 60.0
SHARE_TOLERANCE = 0.01  # percentage points: a splitter may count in parts of ten thousand
KEPT_GROWTH, KEPT_AT_LEAST = 1.05, 10  # readings are saved anew once the challenger has answered so much more
CANARY = "the canary"  # who decided, where no person did
FOLLOW_SECONDS = 120.0  # a server that follows the alias looks for it every few seconds
APPROVED, WITHDRAWN, SETTLED = "approved", "withdrawn", "settled"  # kinds of events


@dataclass(frozen=True)
class Demands:
    """What a target and its owner ask of every rollout, beside the policy that the rollout itself was begun with."""

    slo_p99_ms: float | None
    approval_required: bool


def begun(name: str, champion: Contender, challenger: Contender, policy: CanaryParams, now_s: float) -> Rollout:
    """A rollout before its first step."""
    return Rollout(
        rollout_id=uuid.uuid4().hex,
        name=name,
        champion=champion,
        challenger=challenger,
        policy_json=policy.model_dump_json(),
        started_s=now_s,
        phase_since_s=now_s,
    )


def unfinished(store: Store, name: str) -> Rollout | None:
    """The rollout of ``name`` that a controller before this one left: under way, or its end not all applied."""
    latest = store.latest(name)
    if latest is None or latest.phase is Phase.ERROR:
        return None
    settled = latest.phase.ended and any(event.kind == SETTLED for event in store.events(latest.rollout_id))
    return None if settled else latest


class Controller:
    """Brings one rollout to its end: each look brings everything to what was saved, and each step can be repeated."""

    def __init__(self, site: Site, rollout: Rollout, demands: Demands) -> None:
        self._site, self._rollout, self._demands = site, rollout, demands
        self._policy = CanaryParams.model_validate_json(rollout.policy_json)
        self._unsaved = self._unrecorded = True  # what a controller before this one may have left undone
        self._shadow: bool | None = None
        self._told = 0
        self._looked = self._taken = False
        self._promoted_s: float | None = None
        self._failing_since_s: float | None = None

    def run(self, renew: Callable[[], None]) -> Rollout:
        """Look until the rollout has ended; ``renew`` keeps the lease, and is the sign of life for the dead man.

        Raises:
            SlipwayError: the lease was lost, or a part of the rollout's end cannot be done: the same again finishes it.
        """
        while True:
            try:
                renew()
                if self._look():
                    return self._rollout
                self._failing_since_s = None
            except LeaseLostError:
                raise  # the traffic is another controller's
            except InfrastructureError as error:
                self._guard()
                if not self._patient(error):
                    return self._give_up(error)
            except SlipwayError as error:
                if not self._goes_on():
                    raise
                return self._give_up(error)
            self._site.sleep(LOOK_SECONDS)

    def _look(self) -> bool:
        """One round; whether nothing is left to do."""
        unheard = self._heed()
        done = self._apply()
        if self._goes_on():
            self._decide()
            done = self._apply()
        if unheard is not None:
            raise unheard
        self._record()
        if not done:
            return False
        self._site.close(self._rollout)
        self._site.store.record(self._rollout.rollout_id, SETTLED, self._rollout.phase)
        return True

    def _guard(self) -> None:
        """Whatever cannot be reached, the store among it: nothing grows, and a gate that fails returns the traffic."""
        with suppress(SlipwayError):
            if self._goes_on():
                after = self._concluded()[0]
                if not after.phase.ended or after.phase is Phase.PROMOTED:
                    return
                self._move(after)
            if self._rollout.phase is not Phase.PROMOTED:
                self._site.splitter.rollback()

    def _goes_on(self) -> bool:
        """Whether there is more to see: it is under way, or promoted and still baking."""
        return self._bakes() if self._rollout.phase is Phase.PROMOTED else not self._rollout.phase.ended

    def _bakes(self) -> bool:
        if self._taken:  # the champion's server follows the alias: the challenger's is asked no more
            return False
        if not self._looked:  # what was seen before a controller died has its say before the alias moves
            return True
        baked_s = self._rollout.phase_since_s + self._policy.bake_minutes * MINUTE_SECONDS
        return self._site.clock() < baked_s

    def _heed(self) -> InfrastructureError | None:
        """Follow a person's word; a store that is down must not keep a gate from having its say."""
        if self._rollout.phase.ended and self._rollout.phase is not Phase.PROMOTED:
            return None
        try:
            self._taken = self._site.registry.champion(self._rollout.name) == self._rollout.challenger.version
            word = registry_word(self._site.registry, self._rollout) or self._said()
        except LeaseLostError:
            raise
        except InfrastructureError as error:
            return error
        if word is not None:
            self._put(*word)
        return None

    def _said(self) -> tuple[Phase, str] | None:
        """What a person told the rollout itself; an alias that has moved is moved back by whoever wants that."""
        told = self._events()
        if WITHDRAWN in told and not self._taken:
            return Phase.ROLLED_BACK, f"rolled back: {told[WITHDRAWN]}"
        if APPROVED in told and self._rollout.phase is Phase.WAITING:
            return Phase.PROMOTED, f"approved by {told[APPROVED]}"
        return None

    def _events(self) -> dict[str, str]:
        return {one.kind: one.text for one in self._site.store.events(self._rollout.rollout_id)}

    def _concluded(self) -> tuple[Rollout, Seen]:
        """Observe; what follows for the rollout."""
        site, policy, demands = self._site, self._policy, self._demands
        minutes = (site.clock() - self._rollout.started_s) / MINUTE_SECONDS
        seen = replace(site.observe(self._rollout), minutes=minutes)
        rollout = counted_anew(self._rollout, seen)
        found = readings(policy, demands.slo_p99_ms, seen, rollout.steps_begun)
        return advance(policy, rollout, found, seen, approval_required=demands.approval_required), seen

    def _decide(self) -> None:
        """Take what follows from all that was seen."""
        rollout, site = self._rollout, self._site
        after, seen = self._concluded()
        self._looked = True
        if (after.phase, after.step) != (rollout.phase, rollout.step):
            self._move(after)
            return
        self._rollout = after
        if seen.challenger_requests >= max(self._told * KEPT_GROWTH, self._told + KEPT_AT_LEAST):
            self._told = seen.challenger_requests
            site.store.save(after)
            site.report(after)

    def _put(self, phase: Phase, *reasons: str) -> None:
        self._move(self._rollout.model_copy(update={"phase": phase, "reasons": reasons}))

    def _move(self, after: Rollout) -> None:
        """Take ``after`` for what holds from now on; an end leaves the challenger all of the traffic or none."""
        changes: dict[str, object] = {"phase_since_s": self._site.clock()}
        if after.phase.ended:
            changes["share_percent"] = 100.0 if after.phase is Phase.PROMOTED else 0.0
        self._rollout = after.model_copy(update=changes)
        self._unsaved = self._unrecorded = True

    def _apply(self) -> bool:
        """Save what holds, and only then bring traffic and aliases to it, each part repeatable; whether all is done."""
        if self._unsaved:
            self._save()
        phase = self._rollout.phase
        done = phase.ended
        if phase is Phase.PROMOTED:
            done = not self._bakes() and self._promote()
        elif phase.ended:
            self._site.splitter.rollback()
            if phase is Phase.ROLLED_BACK:
                self._withdraw()
        self._share_traffic()
        return done

    def _save(self) -> None:
        """Save the rollout; what takes traffic from the challenger does not wait for a store that is down."""
        try:
            self._site.store.save(self._rollout)
        except LeaseLostError:
            raise
        except InfrastructureError:
            if self._rollout.share_percent > 0:
                raise
        else:
            self._unsaved = False
            self._site.report(self._rollout)

    def _share_traffic(self) -> None:
        share, splitter = self._rollout.share_percent, self._site.splitter
        grows = share - splitter.share()
        # Nothing grows before a first look, nor against a person's word that came a moment ago.
        if grows < -SHARE_TOLERANCE or (grows > SHARE_TOLERANCE and self._looked and WITHDRAWN not in self._events()):
            splitter.set_share(share)
        shadow = self._policy.shadow and not self._rollout.phase.ended
        if shadow is not self._shadow:
            self._site.shadow(shadow)
            self._shadow = shadow

    def _promote(self) -> bool:
        """Move the alias once the evidence was read and checked again; whether the champion's server has followed.

        A refusal is for a person to look at.
        """
        rollout, own = self._rollout, self._rollout.challenger.version
        aliases = self._site.registry.aliases(rollout.name)
        if aliases.get(CHAMPION) != own or aliases.get(CHALLENGER) == own:
            decision = self._site.promote(own)
            if decision.verdict is not Verdict.PASS:
                self._put(Phase.INCONCLUSIVE, *(f"not promoted: {reason}" for reason in decision.reasons))
                return self._apply()
        now_s, serving = self._site.clock(), self._site.serving()
        self._promoted_s = self._promoted_s or now_s
        if serving != own and now_s < self._promoted_s + FOLLOW_SECONDS:
            return False
        if serving != own:
            self._site.warn(
                f"the champion's server has not opened version {own} yet; restart `slipway serve` if it does not"
            )
        if rollout.share_percent:
            self._rollout = rollout.model_copy(update={"share_percent": 0.0})
            self._site.store.save(self._rollout)
        return True

    def _withdraw(self) -> None:
        registry, rollout = self._site.registry, self._rollout
        cut_short = registry.aliases(rollout.name).get(CHALLENGER) == rollout.challenger.version
        if cut_short or not refused_already(registry, rollout):
            registry.withdraw(rollout.name, rollout.challenger.version, CANARY, "; ".join(rollout.reasons))
        if registry.champion(rollout.name) == rollout.challenger.version:
            registry.rollback(rollout.name)

    def _record(self) -> None:
        """Keep what was decided with the version, and with the store what it could not take before."""
        if self._unsaved:
            self._site.store.save(self._rollout)
            self._unsaved = False
        if self._unrecorded:
            self._site.record(self._rollout)
            self._unrecorded = False

    def _patient(self, error: InfrastructureError) -> bool:
        """Whether to try again.

        Raises:
            InfrastructureError: it has lasted too long, and the rollout has ended: there is nothing else to do.
        """
        now_s = self._site.clock()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
            self._site.warn(first_line(error))
        if now_s - self._failing_since_s <= self._policy.dead_man_seconds:
            return True
        if not self._goes_on():
            raise error
        return False

    def _give_up(self, error: SlipwayError) -> Rollout:
        """End in Error, with all traffic at the champion as far as that can be done."""
        self._put(Phase.ERROR, first_line(error))
        site = self._site
        for last in (site.splitter.rollback, self._apply, self._record, lambda: site.close(self._rollout)):
            with suppress(SlipwayError):
                last()
        return self._rollout
