"""Which published bundles stay: those that serve, may serve again or wait for a word, and the newest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

YOUNG_SECONDS = 3600.0  # its publisher may not have asked for it yet, or not have registered what it is
UNFINISHED_SECONDS = 24 * 3600.0  # longer than anything takes to publish


class Version(NamedTuple):
    """A version of the registered model; ``decision`` is what was decided about it, if anything."""

    number: int
    digest: str
    aliases: tuple[str, ...] = ()
    decision: str | None = None


class Bundle(NamedTuple):
    """A bundle as it lies there; ``version`` is the one that its manifest names, None where it has no manifest."""

    digest: str
    age_seconds: float
    version: int | None


class Judged(NamedTuple):
    """A bundle, by its digest, with why it stays or goes."""

    digest: str
    reasons: tuple[str, ...]


class Retention(NamedTuple):
    """What stays and what goes."""

    kept: tuple[Judged, ...]
    gone: tuple[Judged, ...]


def retention(versions: Sequence[Version], bundles: Sequence[Bundle], keep: int) -> Retention:
    """Judge every bundle of a registered model; ``keep`` newest versions stay whatever became of them.

    A file stays while any version that has it does: a file that was measured again is another version.
    """
    why = _reasons(versions, keep)
    judged = [(bundle, _stays(bundle, versions, why)) for bundle in bundles]
    return Retention(
        kept=tuple(Judged(bundle.digest, reasons) for bundle, reasons in judged if reasons),
        gone=tuple(Judged(bundle.digest, (_goes(bundle, versions),)) for bundle, reasons in judged if not reasons),
    )


def _reasons(versions: Sequence[Version], keep: int) -> dict[str, list[str]]:
    """Why a file stays, by its digest, as far as the registry tells."""
    newest = sorted((one.number for one in versions), reverse=True)[:keep]
    champion = max((one.number for one in versions if "champion" in one.aliases), default=0)
    why: dict[str, list[str]] = {}
    for one in sorted(versions, key=lambda version: version.number):
        told = [f"version {one.number} is {alias}" for alias in one.aliases]  # any alias can be published by
        if one.decision is None and one.number > champion and "challenger" not in one.aliases:
            told.append(f"version {one.number} waits for approval: nobody has decided on it")
        if one.number in newest:
            told.append(f"version {one.number} is among the {keep} newest")
        why.setdefault(one.digest, []).extend(told)
    return why


def _stays(bundle: Bundle, versions: Sequence[Version], why: dict[str, list[str]]) -> tuple[str, ...]:
    if bundle.version is None:
        if bundle.age_seconds > UNFINISHED_SECONDS:
            return ()
        return ("it has no manifest: it may be in the middle of being published",)
    reasons = list(why.get(bundle.digest, ()))
    named = next((one for one in versions if one.number == bundle.version), None)
    if named is not None and named.digest != bundle.digest:
        reasons.append(
            f"its manifest names version {bundle.version}, which is another file here: it may be of another registry"
        )
    if bundle.age_seconds < YOUNG_SECONDS:
        reasons.append("it is younger than an hour")
    return tuple(reasons)


def _goes(bundle: Bundle, versions: Sequence[Version]) -> str:
    if bundle.version is None:
        return "it has no manifest and nothing came for a day: its publication or deletion was cut short"
    held = [one for one in versions if one.digest == bundle.digest]
    if not held:
        return f"its version {bundle.version} is not registered any more"
    told = ", ".join(f"version {one.number} ({one.decision or 'passed over'})" for one in held)
    return f"only of {told}"
