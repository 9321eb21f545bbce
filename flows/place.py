"""Where a flow run of a deployment works: in the project, whose parameters and state lie there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil

from slipway.errors import InfrastructureError


def project_of_the_worker() -> Path:
    """The directory in which the worker was started, or the one that its work pool sets.

    Without a `working_dir` Prefect gives every run an empty temporary directory.

    Raises:
        InfrastructureError: the worker has ended meanwhile, or is not the `prefect worker start` of a process pool.
    """
    here = Path.cwd()
    if here.parent != Path(tempfile.gettempdir()).resolve() or not here.name.endswith("prefect"):
        return here
    for process in psutil.Process().parents():
        if {"worker", "start"} <= set(process.cmdline()):
            return Path(process.cwd())
    raise InfrastructureError(
        "found no `prefect worker start` that started this run, so its project is unknown; start the worker again, or "
        "set working_dir on its work pool"
    )
