"""A person's decision on a registered engine."""

from __future__ import annotations

from prefect import flow

from slipway.records import Decision, Hardware
from slipway.wiring import workshop
from tasks.promote import decide


@flow(name="promote", flow_run_name="{word} {name} version {version}")
def promote(
    name: str,
    version: str,
    word: str,
    person: str,
    reason: str,
    data_md5: str | None = None,
    host: Hardware | None = None,
) -> Decision:
    """Approve or reject ``version`` of the registered engine ``name``; the evidence is read and checked again.

    ``consent`` approves it in the middle of its rollout, which promotes it.
    """
    return decide(workshop().registry, name, version, word, person, reason, data_md5, host)
