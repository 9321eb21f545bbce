"""One controller's time: the lease, the logs and the servers around a rollout, held until it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from slipway.records import Decision, Rollout
from slipway.rollout.contenders import RunningGateway, await_contenders
from slipway.rollout.controller import Controller, Demands, unfinished
from slipway.rollout.gateway.envoy_config import CHAMPION
from slipway.rollout.observing.observer import Logs, Observer
from slipway.rollout.recording import record_course, tag_version
from slipway.rollout.registry_word import registry_word
from slipway.rollout.site import Site
from slipway.rollout.store.lease import this_process
from slipway.rollout.store.rollouts import RolloutStore
from slipway.stores.registry import Registry

LEASE_SECONDS = 15.0

Told = tuple[Callable[[Rollout], None], Callable[[str], None]]


def run_rollout(
    store: RolloutStore,
    registry: Registry,
    folder: Path,
    start: Callable[[], Rollout],
    promote: Callable[[str], Decision],
    demands: Demands,
    told: Told,
) -> Rollout:
    """Go on with the rollout of the gateway in ``folder`` that is not finished, or with what ``start`` begins.

    ``told`` are what tells a person of each saved look, and of what is wrong.

    Raises:
        LeaseHeldError: another controller is at work.
        InfrastructureError: no gateway runs, or what the end needs is out of reach for too long.
    """
    running = RunningGateway(folder)
    gateway = running.gateway
    with store.lease(gateway.name, this_process(), LEASE_SECONDS) as lease:
        rollout = unfinished(store, gateway.name) or start()
        if not rollout.phase.ended:
            await_contenders(running, rollout, lease.renew, lambda: registry_word(registry, rollout) is not None)
        logs = Logs(gateway.access_log, gateway.champion_log, gateway.challenger_log)
        with Observer(rollout, logs, store) as observer:
            site = Site(
                store=store,
                registry=registry,
                splitter=running,
                shadow=running.set_shadow,
                observe=lambda now: observer.observe(now, time.time()),
                promote=promote,
                serving=lambda: running.opened(CHAMPION),
                record=partial(tag_version, registry),
                close=partial(record_course, registry, store),
                report=told[0],
                warn=told[1],
                clock=time.time,
                sleep=time.sleep,
            )
            return Controller(site, rollout, demands).run(lease.renew)
