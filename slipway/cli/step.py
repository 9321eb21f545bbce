"""``slipway step STEP``: one step alone, from and to directories that DVC tracks; what ``dvc.yaml`` runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slipway.cli.console import err, tell
from slipway.cli.progress import progress
from slipway.cli.release import DEFAULT_PARAMS, ParamsOption
from slipway.config import Params, load_params
from slipway.engines import engine
from slipway.errors import BadInputError, UnsupportedError
from slipway.examples import Example, example_of
from slipway.records import (
    Artifact,
    Built,
    CandidateSpec,
    DataSource,
    Exported,
    Failure,
    Form,
    Hardware,
    ModelSource,
    Predictions,
    Release,
    TargetOutcome,
    Validated,
    VariantFile,
)
from slipway.reports.summary import is_chosen
from slipway.reports.tables import tables
from slipway.steps import bundles
from slipway.steps.benchmark import Timings, benchmark
from slipway.steps.build import build, build_options, reference_of, refusal
from slipway.steps.candidates import candidates, wanted
from slipway.steps.convert import convert, open_source
from slipway.steps.data import CheckedData, check_data
from slipway.steps.export import export
from slipway.steps.fetch import fetch
from slipway.steps.inputs import InputData, input_data, summarize_inputs
from slipway.steps.judge import Context, conclude, judge, release_of
from slipway.steps.outcomes import definite, failure
from slipway.steps.quantize import quantize
from slipway.steps.report import report
from slipway.steps.validate import evaluate_reference, validate
from slipway.stores.conversion import Format, InputSpec
from slipway.stores.tracking import verify
from slipway.variants import variant as variant_kind
from slipway.wiring import Workshop, check_targets_here, code_revision, host_hardware, training_data, workshop

OUT = Path("stages")
TargetOption = Annotated[str, typer.Option("--target", help="A target of params.yaml.")]
EngineOption = Annotated[str, typer.Option("--engine", help="An engine of that target.")]
VariantOption = Annotated[str, typer.Option("--variant", help="A variant of params.yaml.")]
FormOption = Annotated[Form, typer.Option("--form", help="The form to export.")]

app = typer.Typer(help="Run one step alone, from and to stages/ (what dvc.yaml calls).", no_args_is_help=True)


def add_commands(parent: typer.Typer) -> None:
    """Add ``step`` with its own commands."""
    parent.add_typer(app, name="step")


@app.command("hardware")
def hardware_command() -> None:
    """Describe this host, so that what another one built or measured is never taken for its own."""
    hardware = host_hardware()
    _finish(workshop(), hardware, "hardware")
    # Alone in a file, so that what depends on it sees a change of behaviour and nothing else.
    (OUT / "hardware" / "fingerprint").write_text(hardware.fingerprint + "\n", encoding="ascii")


@app.callback()
def _show_progress(context: typer.Context) -> None:
    context.with_resource(progress())


@app.command("fetch")
def fetch_command(params: ParamsOption = DEFAULT_PARAMS) -> None:
    """Fetch the model version from the registry; an example's own, where it is missing, is made first."""
    described, shop = load_params(params), workshop()
    try:
        version = shop.registry.resolve(described.model)
    except BadInputError as missing:
        if (owner := example_of(model=described.model)) is None:
            raise
        _restore(shop, owner, str(missing))
        version = shop.registry.resolve(described.model)
    _finish(shop, fetch(shop.registry, shop.objects, version, described.trust_pickle), "fetch")


@app.command("verify")
def verify_command(
    params: ParamsOption = DEFAULT_PARAMS,
    revision: Annotated[str | None, typer.Option(help="Also hold the data against this git revision.")] = None,
) -> None:
    """Hash test and calibration data against what git and DVC track; an example's own, where missing, is made first."""
    described, shop = check_targets_here(load_params(params)), workshop()
    for directory in filter(None, (described.data.test, described.data.calibration, training_data(described))):
        if not directory.exists() and (owner := example_of(data=directory)):
            _restore(shop, owner, f"data {directory} does not exist")
        if revision is not None:
            verify(directory, revision)
    checked = check_data(
        described.data.test, described.data.calibration, _load_source(shop).signature, training_data(described)
    )
    _finish(shop, checked, "verify")
    bundles.save(OUT / "verify" / "test", checked.test, shop.objects)
    bundles.save(OUT / "verify" / "inputs", input_data(checked), shop.objects)
    for variant in described.variants:
        kind = variant_kind(variant)
        read = CheckedData(
            test=checked.test,
            calibration=checked.calibration if kind.needs_calibration else None,
            training=checked.training if kind.needs_training else None,
        )
        bundles.save(OUT / "verify" / variant, read, shop.objects)


@app.command("summarize")
def summarize_command() -> None:
    """Summarize the model's inputs, to tell later whether requests look like them."""
    shop = workshop()
    read = bundles.load(OUT / "verify" / "inputs", InputData, shop.objects)
    _unchanged(read.data)
    _finish(shop, summarize_inputs(shop.objects, _load_source(shop).signature, read), "summarize")


@app.command("export")
def export_command(form: FormOption, params: ParamsOption = DEFAULT_PARAMS) -> None:
    """Export the fp32 model into one form, checked against eager PyTorch."""
    described, shop = check_targets_here(load_params(params)), workshop()
    specs = [spec for target in described.targets for spec in candidates(described, target)]
    if form in {wanted_form for _, wanted_form in wanted(specs)}:
        exported = definite(export)(shop.objects, _load_source(shop), form, _load_test(shop))
    else:
        exported = failure("export", UnsupportedError(f"no engine of {params} builds from the form {form}"))
    _finish(shop, exported, "export", form)


@app.command("quantize")
def quantize_command(variant: VariantOption, form: FormOption, params: ParamsOption = DEFAULT_PARAMS) -> None:
    """Make one variant in one form."""
    described, shop = load_params(params), workshop()
    exported = bundles.load_outcome(OUT / "export" / form, Exported, shop.objects)
    data = bundles.load(OUT / "verify" / variant, CheckedData, shop.objects)
    sources = (_unchanged(data.test), data.calibration and _unchanged(data.calibration))
    training = data.training and _unchanged(data.training)
    made = definite(quantize)(
        shop.objects, _load_source(shop), exported, variant, *sources, described.calibration, training, described.qat
    )
    _finish(shop, made, "quantize", variant, form)


@app.command("reference")
def reference_command(target: TargetOption, params: ParamsOption = DEFAULT_PARAMS) -> None:
    """Answer the whole test set with the reference of a target."""
    described, shop = check_targets_here(load_params(params), (target,)), workshop()
    reference = reference_of(_load_source(shop), target)
    threads, policy = min(described.targets[target].threads), described.accuracy.measured()
    answers = evaluate_reference(shop.objects, reference, _load_test(shop), policy, threads)
    _finish(shop, answers, "reference", target)


@app.command("build")
def build_command(
    target: TargetOption, runtime: EngineOption, variant: VariantOption, params: ParamsOption = DEFAULT_PARAMS
) -> None:
    """Build one candidate."""
    described, shop = check_targets_here(load_params(params), (target,)), workshop()
    spec = CandidateSpec(target=target, variant=variant, engine=runtime)
    place = OUT / "quantize" / variant / engine(runtime).form
    file = bundles.load_outcome(place, VariantFile, shop.objects)
    source, data = _load_source(shop), _load_test(shop)
    options = build_options(spec, described.targets[target], source.signature)
    reference = reference_of(source, target)
    built = refusal(spec) or definite(build)(shop.objects, spec, file, options, reference, data)
    _finish(shop, built, "build", target, runtime, variant)


@app.command("validate")
def validate_command(
    target: TargetOption, runtime: EngineOption, variant: VariantOption, params: ParamsOption = DEFAULT_PARAMS
) -> None:
    """Validate one candidate on the whole test set."""
    described, shop = check_targets_here(load_params(params), (target,)), workshop()
    spec = CandidateSpec(target=target, variant=variant, engine=runtime)
    built = bundles.load_outcome(_place("build", spec), Built, shop.objects)
    reference = bundles.load(OUT / "reference" / target, Predictions, shop.objects)
    threads, policy = min(described.targets[target].threads), described.accuracy.measured()
    done = definite(validate)(shop.objects, built, _load_test(shop), reference, policy, threads)
    _finish(shop, done, "validate", target, runtime, variant)


@app.command("benchmark")
def benchmark_command(target: TargetOption, params: ParamsOption = DEFAULT_PARAMS) -> None:
    """Time all candidates of one target against the reference."""
    described, shop = check_targets_here(load_params(params), (target,)), workshop()
    reference = reference_of(_load_source(shop), target)
    pairs = [
        (built, done)
        for _, built, done in _load_candidates(shop, described, target)
        if isinstance(built, Built) and isinstance(done, Validated)
    ]
    settings = (described.targets[target], described.latency)
    timings = benchmark(shop.objects, *settings, _load_test(shop), reference, pairs, champion=None)
    _finish(shop, timings, "benchmark", target)


@app.command("choose")
def choose_command(params: ParamsOption = DEFAULT_PARAMS) -> None:
    """Judge all candidates and choose one per target."""
    described, shop = check_targets_here(load_params(params)), workshop()
    data = bundles.load(OUT / "verify", CheckedData, shop.objects)
    context = Context(
        model=_load_source(shop),
        data=data.test,
        calibration=data.calibration,
        training=data.training,
        code_revision=code_revision(shop.root),
        hardware=bundles.load(OUT / "hardware", Hardware, shop.objects),
        inputs=bundles.load(OUT / "summarize", Artifact, shop.objects),
    )
    outcomes = [_conclude(described, shop, context, name) for name in described.targets]
    _finish(shop, release_of(context, described.accuracy.metric, outcomes), "choose")
    for outcome in outcomes:
        tell(f"{outcome.target}: {outcome.decision.verdict}: {outcome.decision.reasons[0]}")


@app.command("report")
def report_command() -> None:
    """Write the report, the plots, and the figures that `dvc metrics` and `dvc plots` compare."""
    shop, directory = workshop(), OUT / "report"
    release = bundles.load(OUT / "choose", Release, shop.objects)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for artifact in report(shop.objects, release):
        shutil.copyfile(shop.objects.path(artifact), directory / artifact.name)
    for name, text in tables(release, lambda outcome: _load_answers(shop, outcome)).items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    tell(f"report: {directory}")


@app.command("convert")
def convert_command(
    source: Annotated[str, typer.Argument(help="A folder or file; of a function, package.module:function.")],
    out: Annotated[Path, typer.Argument(help="The directory of shards to write.")],
    kind: Annotated[Format, typer.Option("--from", help="The form of the source.")],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="NAME[:DTYPE[:SHAPE]], as in image:float32:3x32x32; repeatable.")
    ] = None,
    target: Annotated[str, typer.Option(help="The column or array with the targets.")] = "target",
    labels: Annotated[Path | None, typer.Option(help="CSV of an image folder, with a column `file`.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Examples per shard.")] = 1000,
) -> None:
    """Convert a data set into the shards that the other steps stream."""
    stream = open_source(kind, source, [InputSpec.parse(text) for text in inputs or ()], target, labels)
    columns = (TextColumn(f"converting {escape(source)}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=stream.total)
        written = convert(stream, out, shard_size, lambda count: bar.advance(task, count))
    tell(f"{out}: {len(written)} shards")


def _restore(shop: Workshop, owner: Example, missing: str) -> None:
    tell(f"making the example {owner.name}: {missing}")
    owner.restore(shop.root, shop.registry, tell)


def _finish(shop: Workshop, record: BaseModel, *place: str) -> None:
    bundles.save(OUT.joinpath(*place), record, shop.objects)
    tell(f"{'/'.join(place)}: {record.decision.reasons[0] if isinstance(record, Failure) else 'done'}")


def _load_source(shop: Workshop) -> ModelSource:
    return bundles.load(OUT / "fetch", ModelSource, shop.objects)


def _load_test(shop: Workshop) -> DataSource:
    return _unchanged(bundles.load(OUT / "verify" / "test", DataSource, shop.objects))


def _unchanged(source: DataSource) -> DataSource:
    """``source``, whose files were hashed anew just now: DVC starts a step without noticing every change.

    Raises:
        TamperedError: a file differs from what is tracked; it is named.
        BadInputError: other data were tracked since the step `verify`.
    """
    if verify(Path(source.path)).md5 != source.md5:
        raise BadInputError(f"data {source.path} was tracked anew since it was verified; run `dvc repro`")
    return source


def _conclude(described: Params, shop: Workshop, context: Context, name: str) -> TargetOutcome:
    target = described.targets[name]
    timings = bundles.load(OUT / "benchmark" / name, Timings, shop.objects)
    reference = bundles.load(OUT / "reference" / name, Predictions, shop.objects)
    evidences = [
        judge(context, spec, described, built, done, timings.of(built), timings.reference_profile)
        for spec, built, done in _load_candidates(shop, described, name)
    ]
    return conclude(context, name, target, reference, evidences, timings.reference_trace)


def _load_candidates(
    shop: Workshop, described: Params, name: str
) -> Iterator[tuple[CandidateSpec, Built | Failure, Validated | Failure]]:
    for spec in candidates(described, name):
        built = bundles.load_outcome(_place("build", spec), Built, shop.objects)
        yield spec, built, bundles.load_outcome(_place("validate", spec), Validated, shop.objects)


def _load_answers(shop: Workshop, outcome: TargetOutcome) -> Path:
    """The predictions of the chosen candidate; without one, of the reference."""
    for evidence in outcome.candidates:
        if is_chosen(outcome, evidence):
            validated = bundles.load(_place("validate", evidence.spec), Validated, shop.objects)
            return shop.objects.path(validated.predictions)
    reference = bundles.load(OUT / "reference" / outcome.target, Predictions, shop.objects)
    return shop.objects.path(reference.artifact)


def _place(step: str, spec: CandidateSpec) -> Path:
    return OUT / step / spec.target / spec.engine / spec.variant
