"""What follows from an announcement: a release, a rollout, or nothing, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from slipway.records import ReleaseRequest
from slipway.records.base import Record
from slipway.stores.registry import CHALLENGER
from slipway.triggers.announcement import AliasSet, Announcement, Other, VersionCreated


class Released(Record):
    """What a project says of a model that it releases: in which file, and for which targets.

    ``alias`` names the versions that are released; None where any new version is.
    """

    params: str
    alias: str | None
    targets: tuple[str, ...]


class RolloutRequest(Record):
    """A rollout of ``version`` of the engine NAME.TARGET, as the file ``params`` of the project describes it."""

    name: str
    target: str
    version: str
    params: str
    reason: str


class Refusal(Record):
    """Nothing follows, and why."""

    why: str


Asked: TypeAlias = ReleaseRequest | RolloutRequest


def decide(told: Announcement, released: Mapping[str, Released], delivery_id: str) -> Asked | Refusal:
    """What follows from what was ``told``, where the project's files describe these models as ``released``.

    Engines come first: a release registers them, and must never be started by its own result.
    """
    if isinstance(told, Other):
        return Refusal(why=f"nothing follows from {told}; a release follows from a new model version or an alias")
    engine = _engine(told.name, released)
    if engine is not None:
        return _of_engine(told, *engine, released[engine[0]].params, delivery_id)
    if told.name not in released:
        named = ", ".join(sorted(released)) or "none"
        return Refusal(why=f"no params file of this project describes releases of {told.name}; described: {named}")
    description = released[told.name]
    if (why := _not_meant(told, description)) is not None:
        return Refusal(why=why)
    return ReleaseRequest(
        model=f"models:/{told.name}/{told.version}",
        params=description.params,
        reason=_reason(told, delivery_id),
    )


def created_key(name: str, version: str, source: str) -> str:
    """The key under which the release of a new model version is asked for, whoever finds it first.

    Of several webhooks that tell of the same version, and a look at the registry, one makes a release. ``source`` tells
    apart the versions of a model that was deleted and registered again.
    """
    return f"model version {name}/{version} from {source}"


def key_of(told: Announcement, delivery_id: str) -> str:
    """What makes two requests one: the model version that is new, else the delivery."""
    if isinstance(told, VersionCreated):
        return created_key(told.name, told.version, told.source)
    return f"webhook delivery {delivery_id}"


def _engine(name: str, released: Mapping[str, Released]) -> tuple[str, str] | None:
    """The model and target whose engines are registered as ``name``."""
    for model, description in released.items():
        for target in description.targets:
            if name == f"{model}.{target}":
                return model, target
    return None


def _of_engine(
    told: VersionCreated | AliasSet, model: str, target: str, params: str, delivery_id: str
) -> Asked | Refusal:
    if isinstance(told, VersionCreated) or told.alias != CHALLENGER:
        return Refusal(why=f"{told.name} holds engines, which releases register and never follow from; {told}")
    return RolloutRequest(
        name=model, target=target, version=told.version, params=params, reason=_reason(told, delivery_id)
    )


def _not_meant(told: VersionCreated | AliasSet, description: Released) -> str | None:
    """Why this is not what the parameters ask for; None where it is."""
    wanted = f"{description.params} releases"
    if description.alias is None:
        return (
            None if isinstance(told, VersionCreated) else f"{told}, and {wanted} {told.name} by version, not by alias"
        )
    if isinstance(told, AliasSet) and told.alias == description.alias:
        return None
    return f"{told}, and {wanted} what {told.name}@{description.alias} names: set that alias"


def _reason(told: Announcement, delivery_id: str) -> str:
    return f"{told} (webhook delivery {delivery_id})"
