"""Build one candidate."""

from __future__ import annotations

from prefect import task

from slipway.engines.base import BuildOptions
from slipway.records import Built, CandidateSpec, DataSource, Failure, VariantFile
from slipway.steps.budget import Budget, require_time
from slipway.steps.build import build as build_step
from slipway.steps.isolated import isolated
from slipway.steps.outcomes import definite
from slipway.stores.objects import ObjectStore
from tasks.policy import CACHED, RETRIED, TOLD

BUILD_SECONDS = 1800


@task(name="build", task_run_name="build {spec}", **CACHED, **RETRIED, **TOLD)
def build(
    objects: ObjectStore,
    spec: CandidateSpec,
    file: VariantFile | Failure,
    options: BuildOptions,
    reference: Built,
    data: DataSource,
    budget: Budget | None = None,
) -> Built | Failure:
    """The engine file, or why this engine cannot execute the variant, or computes something else."""
    require_time(budget, "build")
    return definite(isolated(build_step, BUILD_SECONDS * options.builds))(objects, spec, file, options, reference, data)
