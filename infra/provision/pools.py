"""Work pools: queues of runs, which workers of the right hardware take from."""

from __future__ import annotations

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound

from infra.provision.things import Change

COMMON = "slipway"  # of everything but what is built on a target's own hardware


def ensure_pool(client: SyncPrefectClient, name: str) -> Change:
    """Make a pool for process workers; one that is there stays as it is, of whatever type and limit."""
    from prefect.workers.process import ProcessWorker

    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))
        return Change.CREATED
    return Change.THERE
