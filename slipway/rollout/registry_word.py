"""What the registry tells of a rollout that it did not decide itself: a person's word, or another release's."""

from __future__ import annotations

from slipway.decisions.promotion import REFUSING_TAGS
from slipway.records import Phase, Rollout
from slipway.stores.registry import APPROVER_TAG, CHALLENGER, CHAMPION, DECISION_TAG, REASON_TAG, Registry


def registry_word(registry: Registry, rollout: Rollout) -> tuple[Phase, str] | None:
    """The phase that somebody's word puts the rollout into, and why; None while nobody has spoken.

    Raises:
        InfrastructureError: the store cannot be reached.
    """
    aliases = registry.aliases(rollout.name)
    champion, challenger = aliases.get(CHAMPION), aliases.get(CHALLENGER)
    own = rollout.challenger.version
    if champion == own:
        if rollout.phase is Phase.PROMOTED:
            return None
        return Phase.PROMOTED, f"it was made champion{_by_whom(registry, rollout)}"
    if champion == rollout.champion.version and challenger == own:
        return None
    tag = registry.version(rollout.name, own).tags.get(DECISION_TAG)
    if tag in REFUSING_TAGS:
        return Phase.ROLLED_BACK, f"{tag}{_by_whom(registry, rollout)}"
    if champion != rollout.champion.version:
        return Phase.INCONCLUSIVE, f"the champion is now {_told(champion)}, which nothing was compared with"
    return Phase.INCONCLUSIVE, f"the challenger is now {_told(challenger)}, of which nothing was seen"


def refused_already(registry: Registry, rollout: Rollout) -> bool:
    """Whether the challenger's version bears a tag that refuses it."""
    return registry.version(rollout.name, rollout.challenger.version).tags.get(DECISION_TAG) in REFUSING_TAGS


def _told(version: str | None) -> str:
    return "nobody" if version is None else f"version {version}"


def _by_whom(registry: Registry, rollout: Rollout) -> str:
    tags = registry.version(rollout.name, rollout.challenger.version).tags
    who, why = tags.get(APPROVER_TAG), tags.get(REASON_TAG)
    return f"{f' by {who}' if who else ''}{f': {why}' if why else ''}"
