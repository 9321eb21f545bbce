"""Take out of S3 what nobody will ask for again: bundles that retention lets go, and uploads that were abandoned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from slipway.decisions.retention import UNFINISHED_SECONDS, Bundle, Retention, Version, retention
from slipway.errors import BadInputError
from slipway.stores.mlflow_border import at_border
from slipway.stores.mlflow_connection import Connection
from slipway.stores.registry import DECISION_TAG, DIGEST_TAG, Registry
from slipway.stores.s3_bundles import BundleStore, StoredBundle

Versions: TypeAlias = Callable[[str], Sequence[Version]]


class RegisteredVersions:
    """The versions of registered models in MLflow, as retention wants them, by calling it with ``NAME.TARGET``."""

    def __init__(self, registry: Registry, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self._registry = registry
        self._connection = Connection(tracking_uri, None)

    @at_border
    def __call__(self, name: str) -> list[Version]:
        """Every version that Slipway registered.

        Raises:
            BadInputError: there is no such registered model.
        """
        aliases = self._registry.aliases(name)
        return [
            Version(
                number=int(found.version),
                digest=found.tags[DIGEST_TAG],
                aliases=tuple(sorted(alias for alias, version in aliases.items() if version == str(found.version))),
                decision=found.tags.get(DECISION_TAG),
            )
            for found in self._connection.versions(name)
            if DIGEST_TAG in found.tags
        ]


class Abandoned(NamedTuple):
    """An upload that nobody goes on with."""

    key: str
    upload_id: str
    age_seconds: float


class Plan(NamedTuple):
    """What would become of all that lies in S3 of one model's target."""

    name: str
    target: str
    bundles: tuple[StoredBundle, ...]
    retention: Retention
    abandoned: tuple[Abandoned, ...]

    def bundle(self, digest: str) -> StoredBundle:
        """The bundle of this digest."""
        return next(one for one in self.bundles if one.digest == digest)


def plans(store: BundleStore, versions: Versions, name: str | None, target: str | None, keep: int) -> list[Plan]:
    """Plan for the model ``name`` (None: for all) on ``target`` (None: on all); nothing is deleted.

    Raises:
        BadInputError: nothing is published so, the model is not registered, or ``keep`` is negative.
    """
    if keep < 0:
        raise BadInputError(f"--keep {keep}: keep none or more of the newest versions")
    store.check()
    published = store.published()
    wanted = [one for one in published if name in {None, one[0]} and target in {None, one[1]}]
    if not wanted and (name, target) != (None, None):  # a place in which nothing is published yet has nothing to prune
        asked = f"{name or 'any model'} on {f'target {target}' if target else 'any target'}"
        there = ", ".join(f"{model}.{of}" for model, of in published) or "nothing"
        raise BadInputError(f"nothing is published in {store.place} of {asked}; published: {there}")
    return [_plan(store, versions, model, of, keep) for model, of in wanted]


def carry_out(plan: Plan, store: BundleStore, versions: Versions, keep: int) -> list[StoredBundle]:
    """Delete what goes, and tell what was deleted: before each is looked whether an alias or a publisher moved."""
    deleted = []
    for judged in plan.retention.gone:
        # As it is by now: to delete the old half of what was completed meanwhile would leave it looking whole.
        for bundle in store.bundles(plan.name, plan.target, judged.digest):
            if retention(versions(f"{plan.name}.{plan.target}"), [_seen(bundle)], keep).gone:
                store.delete(bundle)
                deleted.append(bundle)
    for one in plan.abandoned:
        store.abort(one.key, one.upload_id)
    return deleted


def _plan(store: BundleStore, versions: Versions, name: str, target: str, keep: int) -> Plan:
    bundles = tuple(store.bundles(name, target))
    judged = retention(versions(f"{name}.{target}"), [_seen(bundle) for bundle in bundles], keep)
    abandoned = tuple(Abandoned(*one) for one in store.abandoned(name, target, UNFINISHED_SECONDS))
    return Plan(name, target, bundles, judged, abandoned)


def _seen(bundle: StoredBundle) -> Bundle:
    version = int(bundle.manifest.version) if bundle.manifest else None
    return Bundle(bundle.digest, bundle.age_seconds, version)
