"""What asks for a release that nobody types: a webhook, a look at the registry, an audit."""

from __future__ import annotations

from slipway.records.base import Record


class ReleaseRequest(Record):
    """A release of ``model``, a ``models:/NAME/VERSION``, as the file ``params`` of the project describes it.

    ``fresh`` measures everything again, whatever the cache holds.
    """

    model: str
    params: str
    reason: str
    fresh: bool = False
