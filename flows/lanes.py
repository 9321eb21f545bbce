"""The candidates of a release on their way through the steps, all in parallel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prefect.futures import PrefectFuture

from slipway.config import CalibrationParams, Params
from slipway.errors import UnsupportedError
from slipway.records import (
    Built,
    CandidateSpec,
    Failure,
    Form,
    Predictions,
    Validated,
    VariantFile,
)
from slipway.steps.budget import Budget
from slipway.steps.build import build_options, reference_of, refusal
from slipway.steps.candidates import candidates
from slipway.steps.judge import Context
from slipway.steps.outcomes import failure
from slipway.steps.progress import Event, tell
from slipway.stores.objects import DamagedObjectError, MissingObjectError, ObjectStore
from slipway.variants import variant as variant_kind
from slipway.wiring import form_of, wanted_forms
from tasks.build import build
from tasks.export import export
from tasks.quantize import quantize
from tasks.reference import evaluate_reference
from tasks.validate import GivenUpError, validate

Steps = tuple[tuple[str, PrefectFuture[Any]], ...]


@dataclass(frozen=True)
class Supply:
    """A variant in one form: its file, in the making or made elsewhere, and the steps here that make it, in order."""

    file: Any  # PrefectFuture[VariantFile | Failure], VariantFile or Failure: a task takes each alike
    steps: Steps = ()

    def wait(self) -> VariantFile | Failure:
        """The file, or why there is none.

        Raises:
            MissingObjectError, DamagedObjectError: the object store lost what a cached result names.
        """
        made: Any = self.file
        for step, future in self.steps:
            future.wait()
            made = _result(step, future)
            if isinstance(made, Failure):
                break
        return made  # type: ignore[no-any-return]  # it comes out of a future


Supplies = Mapping[tuple[str, Form], Supply]


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


def start_variants(
    params: Params, targets: Iterable[str], objects: ObjectStore, context: Context, budget: Budget | None
) -> Supplies:
    """Submit what the candidates of ``targets`` are built from; all engines that build from a form share it."""
    pairs = wanted_forms(spec for name in targets for spec in candidates(params, name))
    exported = {
        form: export.submit(objects, context.model, form, context.data) for form in sorted({form for _, form in pairs})
    }
    supplies = {}
    for variant, form in pairs:
        # What a variant does not read is no part of its key: other calibration data leave it as it is.
        kind = variant_kind(variant)
        calibrated = kind.needs_calibration
        data = (context.data, context.calibration if calibrated else None)
        ranges = params.calibration if calibrated else CalibrationParams()
        training = (context.training, params.qat) if kind.needs_training else (None, None)
        file = quantize.submit(objects, context.model, form, exported[form], variant, *data, ranges, *training, budget)
        supplies[variant, form] = Supply(file, (("export", exported[form]), ("quantize", file)))
    return supplies


def start_target(
    params: Params, name: str, objects: ObjectStore, context: Context, supplies: Supplies, budget: Budget | None
) -> Lanes:
    """Submit every step of every candidate of one target on this host."""
    reference, threads = reference_of(context.model, name), min(params.targets[name].threads)
    accuracy = params.accuracy.measured()
    predictions = evaluate_reference.submit(objects, reference, context.data, accuracy, threads)
    lanes = []
    for spec in candidates(params, name):
        if refused := _refusal(spec):
            tell(Event(str(spec), refused.step, refused.decision.verdict, refused.decision.reasons[0]))
            lanes.append(Lane(spec, (), refused))
            continue
        supply = supplies[spec.variant, form_of(spec.engine)]
        options = build_options(spec, params.targets[name], context.model.signature)
        built = build.submit(objects, spec, supply.file, options, reference, context.data, budget)
        proof = (context.data, predictions, accuracy, threads)
        validated = validate.submit(objects, spec, built, *proof, params.accuracy.max_drop, budget)
        lanes.append(Lane(spec, (*supply.steps, ("build", built), ("validate", validated))))
    return Lanes(name, reference, predictions, tuple(lanes))


def _refusal(spec: CandidateSpec) -> Failure | None:
    """That the engine of ``spec`` refuses its variant, or is not available on this host."""
    try:
        return refusal(spec)
    except UnsupportedError as error:
        return failure("build", error)


def _result(step: str, future: PrefectFuture[Any]) -> Any:
    result = future.state.result(raise_on_failure=False)
    if isinstance(result, MissingObjectError | DamagedObjectError):
        raise result  # says nothing about the candidate
    if isinstance(result, GivenUpError):
        return result.validated
    return failure(step, result) if isinstance(result, BaseException) else result
