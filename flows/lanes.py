"""The candidates of a release on their way through the steps, all in parallel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prefect.futures import PrefectFuture

from slipway.config import CalibrationParams, Params
from slipway.engines import engine
from slipway.records import Built, CandidateSpec, Failure, Form, Predictions, Validated
from slipway.steps.budget import Budget
from slipway.steps.build import build_options, reference_of, refusal
from slipway.steps.candidates import candidates, wanted
from slipway.steps.judge import Context
from slipway.steps.outcomes import failure
from slipway.steps.progress import Event, tell
from slipway.stores.objects import DamagedObjectError, MissingObjectError, ObjectStore
from slipway.variants import variant as variant_kind
from tasks.build import build
from tasks.export import export
from tasks.quantize import quantize
from tasks.reference import evaluate_reference
from tasks.validate import GivenUpError, validate

Steps = tuple[tuple[str, PrefectFuture[Any]], ...]
Made = Mapping[tuple[str, Form], Steps]


@dataclass(frozen=True)
class Lane:
    """One candidate: the futures of its steps, in order; none, if its engine refused the variant from the start."""

    spec: CandidateSpec
    steps: Steps
    refused: Failure | None = None

    def wait(self) -> None:
        """Return when nothing of this candidate is running any more."""
        for _, future in self.steps:
            future.wait()

    def outcomes(self) -> tuple[Built | Failure, Validated | Failure]:
        """Tell the results of build and validate after `wait`; a step that broke down is a Failure from there on.

        Raises:
            MissingObjectError, DamagedObjectError: the object store lost what a cached result names.
        """
        ended = self.refused
        results: dict[str, Any] = {"build": ended, "validate": ended}
        for step, future in self.steps:
            results[step] = ended or _result(step, future)
            ended = results[step] if isinstance(results[step], Failure) else None
        return results["build"], results["validate"]


@dataclass(frozen=True)
class Lanes:
    """All candidates of one target, and the reference they are held against."""

    target: str
    reference: Built
    predictions: PrefectFuture[Predictions]
    lanes: tuple[Lane, ...]


def start(params: Params, objects: ObjectStore, context: Context, budget: Budget | None) -> list[Lanes]:
    """Submit every step of every candidate; exports and variants are shared by all engines that build from them."""
    specs = {name: candidates(params, name) for name in params.targets}
    made = _start_variants(params, objects, context, [spec for found in specs.values() for spec in found], budget)
    return [_start_target(params, objects, context, name, specs[name], made, budget) for name in params.targets]


def _start_variants(
    params: Params, objects: ObjectStore, context: Context, specs: Iterable[CandidateSpec], budget: Budget | None
) -> Made:
    pairs = sorted(wanted(specs))
    exported = {
        form: export.submit(objects, context.model, form, context.data) for form in sorted({form for _, form in pairs})
    }
    made = {}
    for variant, form in pairs:
        # What a variant does not read is no part of its key: other calibration data leave it as it is.
        kind = variant_kind(variant)
        calibrated = kind.needs_calibration
        data = (context.data, context.calibration if calibrated else None)
        ranges = params.calibration if calibrated else CalibrationParams()
        training = (context.training, params.qat) if kind.needs_training else (None, None)
        file = quantize.submit(objects, context.model, form, exported[form], variant, *data, ranges, *training, budget)
        made[variant, form] = (("export", exported[form]), ("quantize", file))
    return made


def _start_target(
    params: Params,
    objects: ObjectStore,
    context: Context,
    name: str,
    specs: Iterable[CandidateSpec],
    made: Made,
    budget: Budget | None,
) -> Lanes:
    reference, threads = reference_of(context.model, name), min(params.targets[name].threads)
    accuracy = params.accuracy.measured()
    predictions = evaluate_reference.submit(objects, reference, context.data, accuracy, threads)
    lanes = []
    for spec in specs:
        if refused := refusal(spec):
            tell(Event(str(spec), refused.step, refused.decision.verdict, refused.decision.reasons[0]))
            lanes.append(Lane(spec, (), refused))
            continue
        steps = made[spec.variant, engine(spec.engine).form]
        options = build_options(spec, params.targets[name], context.model.signature)
        built = build.submit(objects, spec, steps[-1][1], options, reference, context.data, budget)
        proof = (context.data, predictions, accuracy, threads)
        validated = validate.submit(objects, spec, built, *proof, params.accuracy.max_drop, budget)
        lanes.append(Lane(spec, (*steps, ("build", built), ("validate", validated))))
    return Lanes(name, reference, predictions, tuple(lanes))


def _result(step: str, future: PrefectFuture[Any]) -> Any:
    result = future.state.result(raise_on_failure=False)
    if isinstance(result, MissingObjectError | DamagedObjectError):
        raise result  # says nothing about the candidate
    if isinstance(result, GivenUpError):
        return result.validated
    return failure(step, result) if isinstance(result, BaseException) else result
