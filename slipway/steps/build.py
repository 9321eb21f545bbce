"""Build one engine file for one target, once or as often as shows how far builds differ."""

from __future__ import annotations

from slipway.config import TargetParams
from slipway.decisions.rebuilds import builds_told
from slipway.engines import engine
from slipway.engines.base import BuildOptions, Engine
from slipway.errors import UnsupportedError
from slipway.records import (
    Artifact,
    Built,
    CandidateSpec,
    DataSource,
    Failure,
    ModelSource,
    Option,
    Signature,
    VariantFile,
)
from slipway.steps.engine_parity import check_builds
from slipway.steps.outcomes import failure
from slipway.stores.objects import ObjectStore


def build(
    objects: ObjectStore,
    spec: CandidateSpec,
    file: VariantFile,
    options: BuildOptions,
    reference: Built,
    data: DataSource,
) -> Built:
    """Build the engine file of ``spec`` from ``file``, and hold it against the reference on a few examples of ``data``.

    It is built as often as ``options`` say; the first build is kept, and others whose bytes differ come beside it, held
    against the reference as well. A file for other hardware is held against nothing; its notes say so.

    Raises:
        UnsupportedError: the engine is not available here, or cannot execute the variant.
        RejectedError: the engine computes something else; for fp32 the first operator that differs is named.
    """
    runtime = engine(spec.engine)
    here = runtime.availability()
    made = [_build_once(objects, runtime, file, options) for _ in range(options.builds)]
    artifact, chosen = made[0]
    files = tuple(dict.fromkeys(found for found, _ in made))
    elsewhere = () if here.runs else (f"built here, run nowhere yet: {here.reason}",)
    built = Built(
        spec=spec,
        artifact=artifact,
        options=chosen,
        engine_version=here.version or "",
        notes=(*file.notes, *elsewhere, *builds_told(options.builds, files)),
        rebuilds=files[1:],
        restored=file.restored,
    )
    if not here.runs:
        return built
    return built.model_copy(update={"parity": check_builds(objects, built, file, reference, data, options)})


def _build_once(
    objects: ObjectStore, runtime: Engine, file: VariantFile, options: BuildOptions
) -> tuple[Artifact, dict[str, Option]]:
    with objects.new_dir() as folder:
        out = folder / f"engine{runtime.suffix}"
        chosen = runtime.build(objects.path(file.artifact), out, options)
        return objects.put(out), chosen


def build_options(spec: CandidateSpec, target: TargetParams, signature: Signature) -> BuildOptions:
    """What the build of ``spec`` depends on beside its file, as the parameters of its target tell it."""
    settings = target.settings.get(spec.engine, {})
    return BuildOptions(
        variant=spec.variant, signature=signature, batch=target.batch, settings=settings, builds=target.builds
    )


def refusal(spec: CandidateSpec) -> Failure | None:
    """That the engine of ``spec`` never executes its variant, which saves making the variant for it; else None."""
    reason = engine(spec.engine).refused.get(spec.variant)
    if reason is None:
        return None
    return failure("build", UnsupportedError(f"engine {spec.engine} cannot execute {spec.variant}: {reason}"))


def reference_of(source: ModelSource, target: str) -> Built:
    """The reference of a target: the fetched program as it is, run by eager fp32 PyTorch."""
    return Built(
        spec=CandidateSpec(target=target, variant="fp32", engine="torch"),
        artifact=source.program,
        options={},
        engine_version=engine("torch").availability().version or "",
    )
