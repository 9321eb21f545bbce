"""A canary as a flow: for a deployment that starts one by itself, on the host where the gateway runs."""

from __future__ import annotations

from prefect import flow, get_run_logger

from slipway.canary import run_canary
from slipway.config import Params
from slipway.records import Rollout
from slipway.wiring import workshop


@flow(name="rollout", flow_run_name="rollout of {name} on {target}")
def rollout(params: Params, name: str, target: str, version: str | None = None) -> Rollout:
    """Bring the challenger of ``name`` on ``target`` to its end beside the champion; run again, it resumes.

    Raises:
        SlipwayError: it could not start: nothing to compare, no gateway, or another controller at work.
    """
    logger = get_run_logger()
    return run_canary(
        workshop(),
        params,
        f"{name}.{target}",
        version,
        lambda now: logger.info(f"{now.phase}, {now.share_percent:g}%: {'; '.join(now.reasons)}"),
        logger.warning,
    )
