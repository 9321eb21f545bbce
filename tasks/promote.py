"""Move an alias after the gates were checked again."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from slipway.records import Decision, Hardware
from slipway.steps import promote as steps
from slipway.stores.registry import Registry
from tasks.policy import RETRIED, TOLD


@task(name="promote", task_run_name="promote {name} version {version}", cache_policy=NO_CACHE, **RETRIED, **TOLD)
def promote(registry: Registry, name: str, version: str, data_md5: str, approval_required: bool) -> Decision:
    """The version as champion; as challenger when a person decides."""
    if approval_required:
        return steps.await_approval(registry, name, version, data_md5)
    return steps.promote(registry, name, version, data_md5)


@task(name="decide", task_run_name="{word} {name} version {version}", cache_policy=NO_CACHE, **RETRIED, **TOLD)
def decide(
    registry: Registry,
    name: str,
    version: str,
    word: str,
    person: str,
    reason: str,
    data_md5: str | None,
    host: Hardware | None = None,
) -> Decision:
    """A person's word on a version: ``approve``, ``consent`` or ``reject``; ``host`` would serve it, if known."""
    if word in {"approve", "consent"}:
        allow = steps.approve if word == "approve" else steps.consent
        return allow(registry, name, version, data_md5, person, reason, host)
    return steps.reject(registry, name, version, person, reason)
