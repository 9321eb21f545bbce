"""Move an alias after the gates were checked again."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from slipway.config import ApprovalParams
from slipway.decisions.approval import Word
from slipway.records import Decision
from slipway.steps import promote as steps
from slipway.steps.promote import Today
from slipway.stores.registry import Registry
from tasks.policy import RETRIED, TOLD


@task(name="promote", task_run_name="promote {name} version {version}", cache_policy=NO_CACHE, **RETRIED, **TOLD)
def promote(registry: Registry, name: str, version: str, data_md5: str, approval: ApprovalParams) -> Decision:
    """The version as champion; as challenger when people decide."""
    if approval.required:
        return steps.await_approval(registry, name, version, data_md5, approval)
    return steps.promote(registry, name, version, data_md5)


@task(name="decide", task_run_name="{word} {name} version {version}", cache_policy=NO_CACHE, **RETRIED, **TOLD)
def decide(registry: Registry, name: str, version: str, word: str, said: Word, today: Today) -> Decision:
    """A person's word on a version: ``approve``, ``consent`` or ``reject``."""
    if word in {"approve", "consent"}:
        allow = steps.approve if word == "approve" else steps.consent
        return allow(registry, name, version, said, today)
    return steps.reject(registry, name, version, said.person, said.reason)
