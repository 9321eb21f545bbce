"""The dead man's handle: a controller that falls silent leaves all traffic with the champion."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from pydantic import ValidationError

from slipway.config import CanaryParams
from slipway.errors import InfrastructureError
from slipway.records.rollout import Phase, Rollout
from slipway.rollout.splitters.base import Splitter
from slipway.rollout.store.rollouts import Heard, RolloutStore

DEAD_MAN_EVENT = "dead man"


@dataclass
class _Watch:
    """What is known of a name while its store is out of reach; of an act that the store did not hear of, its silence.

    ``heard.rollout`` is None where no rollout was under way at the last word: one may have begun since then.
    """

    heard: Heard
    unrecorded: Heard | None = None


_watches: WeakKeyDictionary[RolloutStore, dict[str, _Watch]] = WeakKeyDictionary()


def return_if_silent(store: RolloutStore, splitter: Splitter, name: str, now_s: float) -> bool:
    """Send all traffic of ``name`` to the champion if the controller of its rollout is silent; whether it is.

    To be called about every second, by another process than the controller, with this host's time. Silent means: no
    lease renewed and no state saved for ``canary.dead_man_seconds``. A store that is out of reach tells of no sign of
    life either: what was last heard counts, and of a rollout that was never heard of the splitter's share. As long as
    the silence lasts each call looks that the challenger has no share; the store keeps one event of it. A controller
    that resumes sets its share again. After an end without a share there is nobody to wait for: whatever is left of one
    (the controller was killed before it applied the end, or no gateway ran) is taken at once.

    Raises:
        InfrastructureError: the splitter cannot be reached.
    """
    watches = _watches.setdefault(store, {})
    watch = watches.setdefault(name, _Watch(Heard(None, now_s)))
    try:
        heard = store.heard(name)
        _record_late(store, watch)
    except InfrastructureError:
        return _return_unheard(watch, splitter, now_s)
    if heard is not None and heard.rollout is not None and _over(heard.rollout):
        _return(splitter)
    under_way = heard is not None and heard.rollout is not None and _at_stake(heard.rollout)
    watch.heard = heard if under_way and heard is not None else Heard(None, now_s)
    if not under_way or not _silent(watch.heard, now_s):
        return False
    _return(splitter)
    watch.unrecorded = watch.heard
    with suppress(InfrastructureError):  # the next look tries again
        _record_late(store, watch)
    return True


def _return_unheard(watch: _Watch, splitter: Splitter, now_s: float) -> bool:
    heard = watch.heard
    if not _silent(heard, now_s):
        return False
    # Nothing is known of a rollout: a share of all may be that of one that was promoted.
    if heard.rollout is None and not 0 < splitter.share() < 100:
        return False
    _return(splitter)
    watch.unrecorded = heard
    return True


def _return(splitter: Splitter) -> None:
    with suppress(InfrastructureError):  # one that does not tell its share may still be told
        if splitter.share() == 0:
            return
    splitter.rollback()


def _at_stake(rollout: Rollout) -> bool:
    """Whether the challenger may have traffic that needs somebody who watches it; one that bakes has all of it."""
    bakes = rollout.phase is Phase.PROMOTED and rollout.share_percent > 0
    return bakes or rollout.phase in {Phase.PROGRESSING, Phase.WAITING}


def _over(rollout: Rollout) -> bool:
    return rollout.phase.ended and rollout.share_percent == 0


def _silent(heard: Heard, now_s: float) -> bool:
    return now_s - heard.alive_s > _patience_seconds(heard.rollout)


def _patience_seconds(rollout: Rollout | None) -> float:
    try:
        policy = CanaryParams() if rollout is None else CanaryParams.model_validate_json(rollout.policy_json)
    except ValidationError:  # another version's; the dead man acts all the same
        policy = CanaryParams()
    return policy.dead_man_seconds


def _record_late(store: RolloutStore, watch: _Watch) -> None:
    """Record the act that is not recorded yet; one silence is one event, whoever else returned the traffic."""
    silence = watch.unrecorded
    if silence is not None and silence.rollout is not None:
        seconds = _patience_seconds(silence.rollout)
        text = f"nothing was heard of the controller for more than {seconds:g} s: all traffic went to the champion"
        store.record(silence.rollout.rollout_id, DEAD_MAN_EVENT, text, key=f"{silence.sign_s:.3f}")
    watch.unrecorded = None
