"""How a version's tags keep who has approved it, what that is held to, and since when it waits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from pydantic import ValidationError

from slipway.decisions.approval import Approval, Terms, Wait
from slipway.errors import TamperedError
from slipway.stores.registry import (
    CHALLENGER,
    DECIDED_AT_TAG,
    DECISION_TAG,
    RegisteredEngine,
    sha256_of,
    utc_now,
)

APPROVAL_TAG = "slipway.approval."  # and a person's name
APPROVALS_NEEDED_TAG, EXPIRES_HOURS_TAG = "slipway.approvals_needed", "slipway.expires_hours"
CHALLENGER_SINCE_TAG, CHALLENGED_BY_TAG = "slipway.challenger_since", "slipway.challenged_by"
CLEARED = "cleared"
KEY_CHARACTERS = 100


def approval_tag(approval: Approval) -> tuple[str, str]:
    """Key and value of the tag that keeps a person's approval.

    MLflow takes few characters for a key: of other names it holds a digest, and the value the name.
    """
    plain = re.sub(r"[^\w.\-]", "_", approval.person, flags=re.ASCII)
    whole = plain == approval.person and len(plain) <= KEY_CHARACTERS
    key = plain if whole else f"{plain[:KEY_CHARACTERS]}-{sha256_of(approval.person)[:8]}"
    return APPROVAL_TAG + key, approval.model_dump_json()


def approvals_of(tags: Mapping[str, str]) -> tuple[Approval, ...]:
    """The approvals that a version's tags keep; what is cleared, or none that Slipway wrote, is left out."""
    found = []
    for key, value in tags.items():
        if key.startswith(APPROVAL_TAG):
            with suppress(ValidationError):
                found.append(Approval.model_validate_json(value))
    return tuple(found)


def cleared_approvals(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that keep approvals, emptied: whoever may edit a version may not delete its tags."""
    return {key: CLEARED for key, value in tags.items() if key.startswith(APPROVAL_TAG) and value != CLEARED}


def waiting_tags(held_to: Terms, by: str | None) -> dict[str, str]:
    """The tags with which a version begins to wait for approval now, ``by`` whom (None: the registry asks nobody)."""
    asker = {} if by is None else {CHALLENGED_BY_TAG: by}
    return {CHALLENGER_SINCE_TAG: utc_now().isoformat(), **asker, **terms_tags(held_to)}


def terms_tags(held_to: Terms) -> dict[str, str]:
    """The tags that keep what an approval is held to."""
    tags = {APPROVALS_NEEDED_TAG: str(held_to.persons)} if held_to.persons else {}
    if held_to.expires_hours is not None:
        tags[EXPIRES_HOURS_TAG] = f"{held_to.expires_hours:g}"
    return tags


def terms_of(tags: Mapping[str, str]) -> Terms | None:
    """What was recorded of an approval's terms when the version became challenger; None where nothing was.

    Raises:
        TamperedError: a tag holds what Slipway never writes there.
    """
    if not {APPROVALS_NEEDED_TAG, EXPIRES_HOURS_TAG} & tags.keys():
        return None
    try:
        hours = tags.get(EXPIRES_HOURS_TAG)
        persons = int(tags.get(APPROVALS_NEEDED_TAG, "0"))
        return Terms(persons=persons, expires_hours=None if hours is None else float(hours))
    except ValueError as error:
        raise TamperedError(f"a tag {APPROVALS_NEEDED_TAG} or {EXPIRES_HOURS_TAG} was changed: {error}") from error


def wait_of(engine: RegisteredEngine) -> Wait:
    """What a version's tags tell of its wait for approval.

    Raises:
        TamperedError: a tag holds no time.
    """
    return Wait(
        challenger=CHALLENGER in engine.aliases,
        since=_time(engine.tags, CHALLENGER_SINCE_TAG),
        by=engine.tags.get(CHALLENGED_BY_TAG),
        decision=engine.tags.get(DECISION_TAG),
        decided_at=_time(engine.tags, DECIDED_AT_TAG),
    )


def _time(tags: Mapping[str, str], key: str) -> datetime | None:
    if key not in tags:
        return None
    try:
        return datetime.fromisoformat(tags[key]).astimezone(UTC)
    except ValueError as error:
        raise TamperedError(f"tag {key} was changed: {tags[key]!r} is no time in ISO 8601") from error
