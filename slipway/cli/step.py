"""``slipway step STEP``: one step alone, from and to directories that DVC tracks; what ``dvc.yaml`` runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel

from slipway.cli.console import tell
from slipway.cli.release import ParamsOption
from slipway.config import Params, load_params
from slipway.engines import engine
from slipway.records import (
    Built,
    CandidateSpec,
    Exported,
    Failure,
    Form,
    ModelSource,
    Predictions,
    Release,
    TargetOutcome,
    Validated,
    VariantFile,
)
from slipway.steps import bundles
from slipway.steps.benchmark import Timings, benchmark
from slipway.steps.build import build, reference_of, refusal
from slipway.steps.data import CheckedData, check_data
from slipway.steps.export import export
from slipway.steps.fetch import fetch
from slipway.steps.judge import Context, conclude, judge, release_of
from slipway.steps.outcomes import definite
from slipway.steps.quantize import quantize
from slipway.steps.report import report
from slipway.steps.summary import metrics_json
from slipway.steps.validate import evaluate_reference, validate
from slipway.wiring import Workshop, check_targets, code_revision, host_hardware, workshop

T = TypeVar("T", bound=BaseModel)
OUT = Path("stages")
PARAMS = Path("params.yaml")
TargetOption = Annotated[str, typer.Option("--target", help="A target of params.yaml.")]
EngineOption = Annotated[str, typer.Option("--engine", help="An engine of that target.")]
VariantOption = Annotated[str, typer.Option("--variant", help="A variant of params.yaml.")]
FormOption = Annotated[Form, typer.Option("--form", help="The form to export.")]

app = typer.Typer(help="Run one step alone, from and to stages/ (what dvc.yaml calls).", no_args_is_help=True)


def add_commands(parent: typer.Typer) -> None:
    """Add ``step`` with its own commands."""
    parent.add_typer(app, name="step")


def _finish(shop: Workshop, record: BaseModel, *place: str) -> None:
    directory = OUT.joinpath(*place)
    bundles.save(directory, record, shop.objects)
    tell(f"{'/'.join(place)}: {record.decision.reasons[0] if isinstance(record, Failure) else 'done'}")


def _load_source(shop: Workshop) -> ModelSource:
    return bundles.load(OUT / "fetch", ModelSource, shop.objects)


def _load_data(shop: Workshop) -> CheckedData:
    return bundles.load(OUT / "verify", CheckedData, shop.objects)


@app.command("fetch")
def fetch_command(params: ParamsOption = PARAMS) -> None:
    """Fetch the model version from the registry."""
    described, shop = load_params(params), workshop()
    version = shop.registry.resolve(described.model)
    _finish(shop, fetch(shop.registry, shop.objects, version, described.trust_pickle), "fetch")


@app.command("verify")
def verify_command(params: ParamsOption = PARAMS) -> None:
    """Hash test and calibration data against what DVC tracks."""
    described, shop = check_targets(load_params(params)), workshop()
    names = [spec.name for spec in _load_source(shop).signature.inputs]
    _finish(shop, check_data(described.data.test, described.data.calibration, names), "verify")


@app.command("export")
def export_command(form: FormOption) -> None:
    """Export the fp32 model into one form, checked against eager PyTorch."""
    shop = workshop()
    exported = definite(export)(shop.objects, _load_source(shop), form, _load_data(shop).test)
    _finish(shop, exported, "export", form)


@app.command("quantize")
def quantize_command(variant: VariantOption, form: FormOption) -> None:
    """Make one variant in one form."""
    shop = workshop()
    data, exported = _load_data(shop), bundles.load_outcome(OUT / "export" / form, Exported, shop.objects)
    made = definite(quantize)(shop.objects, _load_source(shop), exported, variant, data.test, data.calibration)
    _finish(shop, made, "quantize", form, variant)


@app.command("reference")
def reference_command(target: TargetOption, params: ParamsOption = PARAMS) -> None:
    """Answer the whole test set with the reference of a target."""
    described, shop = check_targets(load_params(params), (target,)), workshop()
    reference = reference_of(_load_source(shop), target)
    threads = min(described.targets[target].threads)
    answers = evaluate_reference(shop.objects, reference, _load_data(shop).test, described.accuracy, threads)
    _finish(shop, answers, "reference", target)


@app.command("hardware")
def hardware_command() -> None:
    """Describe this host, so that latencies of another host are never taken for its own."""
    _finish(workshop(), host_hardware(), "hardware")


@app.command("build")
def build_command(target: TargetOption, runtime: EngineOption, variant: VariantOption) -> None:
    """Build one candidate."""
    shop, spec = workshop(), CandidateSpec(target=target, variant=variant, engine=runtime)
    place = OUT / "quantize" / engine(runtime).form / variant
    file = bundles.load_outcome(place, VariantFile, shop.objects)
    built = refusal(spec) or definite(build)(shop.objects, spec, file, _load_source(shop).signature)
    _finish(shop, built, "build", target, runtime, variant)


@app.command("validate")
def validate_command(
    target: TargetOption, runtime: EngineOption, variant: VariantOption, params: ParamsOption = PARAMS
) -> None:
    """Validate one candidate on the whole test set."""
    described, shop = check_targets(load_params(params), (target,)), workshop()
    built = _load_built(shop, CandidateSpec(target=target, variant=variant, engine=runtime))
    reference = bundles.load(OUT / "reference" / target, Predictions, shop.objects)
    threads = min(described.targets[target].threads)
    done = definite(validate)(shop.objects, built, _load_data(shop).test, reference, described.accuracy, threads)
    _finish(shop, done, "validate", target, runtime, variant)


@app.command("benchmark")
def benchmark_command(target: TargetOption, params: ParamsOption = PARAMS) -> None:
    """Time all candidates of one target against the reference."""
    described, shop = check_targets(load_params(params), (target,)), workshop()
    reference = reference_of(_load_source(shop), target)
    pairs = [
        (built, done)
        for _, built, done in _load_candidates(shop, described, target)
        if isinstance(built, Built) and isinstance(done, Validated)
    ]
    data = _load_data(shop).test
    timings = benchmark(shop.objects, described.targets[target], data, reference, pairs, champion=None)
    _finish(shop, timings, "benchmark", target)


@app.command("choose")
def choose_command(params: ParamsOption = PARAMS) -> None:
    """Judge all candidates, choose one per target, and write the report and the metrics."""
    described, shop = check_targets(load_params(params)), workshop()
    data = _load_data(shop)
    context = Context(
        model=_load_source(shop),
        data=data.test,
        calibration=data.calibration,
        code_revision=code_revision(shop.root),
        hardware=host_hardware(),
    )
    outcomes = [_conclude(described, shop, context, name) for name in described.targets]
    _finish(shop, release_of(context, described.accuracy.metric, outcomes), "choose")


@app.command("report")
def report_command() -> None:
    """Write the report, the plots and the metrics that `dvc metrics` compares."""
    shop = workshop()
    release = bundles.load(OUT / "choose", Release, shop.objects)
    directory = OUT / "report"
    directory.mkdir(parents=True, exist_ok=True)
    for artifact in report(shop.objects, release):
        shutil.copyfile(shop.objects.path(artifact), directory / artifact.name)
    (directory / "metrics.json").write_text(json.dumps(metrics_json(release), indent=2) + "\n", encoding="utf-8")
    tell(f"report: {directory}")


def _conclude(described: Params, shop: Workshop, context: Context, name: str) -> TargetOutcome:
    target = described.targets[name]
    timings = bundles.load(OUT / "benchmark" / name, Timings, shop.objects)
    reference = bundles.load(OUT / "reference" / name, Predictions, shop.objects)
    evidences = [
        judge(context, spec, described.accuracy, target, built, done, timings.of(built))
        for spec, built, done in _load_candidates(shop, described, name)
    ]
    return conclude(context, name, target, reference, evidences)


def _load_candidates(
    shop: Workshop, described: Params, name: str
) -> Iterator[tuple[CandidateSpec, Built | Failure, Validated | Failure]]:
    for variant in described.variants:
        for runtime in described.targets[name].engines:
            spec = CandidateSpec(target=name, variant=variant, engine=runtime)
            yield spec, _load_built(shop, spec), _load_validated(shop, spec)


def _load_built(shop: Workshop, spec: CandidateSpec) -> Built | Failure:
    return _load_either(shop, Built, "build", spec.target, spec.engine, spec.variant)


def _load_validated(shop: Workshop, spec: CandidateSpec) -> Validated | Failure:
    return _load_either(shop, Validated, "validate", spec.target, spec.engine, spec.variant)


def _load_either(shop: Workshop, kind: type[T], *place: str) -> T | Failure:
    return bundles.load_outcome(OUT.joinpath(*place), kind, shop.objects)
