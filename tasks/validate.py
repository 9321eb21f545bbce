"""Validate one candidate on the whole test set, unless it soon proves hopeless."""

from __future__ import annotations

from prefect import task

from slipway.config import AccuracyParams
from slipway.errors import RejectedError
from slipway.records import Built, CandidateSpec, DataSource, Failure, Predictions, Validated
from slipway.steps.budget import Budget, require_time
from slipway.steps.isolated import isolated
from slipway.steps.outcomes import definite
from slipway.steps.validate import validate as validate_step
from slipway.stores.objects import ObjectStore
from tasks.policy import CACHED, RETRIED, TOLD

VALIDATION_SECONDS = 1800  # of each file, where an engine was built several times


class GivenUpError(RejectedError):
    """A candidate was given up before the end of the test set, with what was ``validated`` until then.

    Raised and not returned, so that no cache keeps it: a larger ``max_drop`` asks for more of the same candidate.
    """

    def __init__(self, validated: Validated) -> None:
        accuracy = validated.accuracy
        super().__init__(
            f"given up after {accuracy.n} of {accuracy.available} examples, "
            f"{accuracy.metric} drop >= {accuracy.drop_lower:.4f}"
        )
        self.validated = validated


@task(name="validate", task_run_name="validate {spec}", **CACHED, **RETRIED, **TOLD)
def validate(
    objects: ObjectStore,
    spec: CandidateSpec,
    built: Built | Failure,
    data: DataSource,
    reference: Predictions,
    policy: AccuracyParams,
    threads: int,
    give_up_drop: float | None = None,
    budget: Budget | None = None,
) -> Validated | Failure:
    """Accuracy and parity, or why the candidate's answers are unusable.

    Raises:
        GivenUpError: the candidate proved to lose more than ``give_up_drop``.
    """
    require_time(budget, "validate")
    files = 1 + len(built.rebuilds) if isinstance(built, Built) else 1
    step = isolated(validate_step, VALIDATION_SECONDS * files)
    validated = definite(step)(objects, built, data, reference, policy, threads, give_up_drop)
    if isinstance(validated, Validated) and validated.accuracy.given_up:
        raise GivenUpError(validated)
    return validated
