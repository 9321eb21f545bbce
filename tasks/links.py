"""Links between a flow run in Prefect's UI and what it recorded in MLflow's, both ways."""

from __future__ import annotations

from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from slipway.stores.mlflow_registry import MlflowRegistry


def this_run() -> str | None:
    """The address of this flow run in Prefect's UI; None outside a run, and where nothing shows it."""
    if flow_run.id is None:
        return None
    return url_for("flow-run", obj_id=flow_run.id)


def link(registry: MlflowRegistry, run_id: str) -> None:
    """Let MLflow's page of the release ``run_id`` name this flow run.

    Raises:
        SlipwayError: MLflow is down, or does not let this user write there.
    """
    if address := this_run():
        registry.link_release(run_id, address)


def pages(registry: MlflowRegistry, run_id: str) -> dict[str, str]:
    """The addresses of MLflow's pages on the release ``run_id`` by title; none where no server shows them.

    Raises:
        SlipwayError: MLflow is down.
    """
    return registry.release_pages(run_id)
