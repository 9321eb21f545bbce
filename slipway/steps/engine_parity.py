"""Compare one engine file with eager PyTorch on a few real inputs, which is quick, before the whole test set is run."""

from __future__ import annotations

import numpy as np

from slipway.decisions.parity import parity_gate
from slipway.engines import engine
from slipway.engines.base import Arrays, BuildOptions, RunOptions, Session
from slipway.errors import RejectedError
from slipway.measure.parity import ParityAccumulator, compare_outputs, require_close
from slipway.records import Built, DataSource, Parity, VariantFile, Verdict
from slipway.steps.edges import answers, answers_to, cases
from slipway.steps.wrong_operator import in_engine
from slipway.stores.objects import ObjectStore

# Five times what an export may differ by, which an engine has not begun to optimise: 150 times what engines were found
# to differ by.
FP32_RTOL, FP32_ATOL = 5e-4, 1e-4


def check_builds(
    objects: ObjectStore, built: Built, file: VariantFile, reference: Built, data: DataSource, options: BuildOptions
) -> Parity:
    """Parity of the kept engine file, as `check_engine` tells it, where every other build passes as well.

    Raises:
        RejectedError: one of them computes something else: who builds the engine anew might get that one.
    """
    parity = check_engine(objects, built, file, reference, data, options)
    for artifact in built.rebuilds:
        try:
            check_engine(objects, built.model_copy(update={"artifact": artifact}), file, reference, data, options)
        except RejectedError as error:
            raise RejectedError(f"another build ({artifact.digest[:12]}) is not like the first: {error}") from error
    return parity


def check_engine(
    objects: ObjectStore, built: Built, file: VariantFile, reference: Built, data: DataSource, options: BuildOptions
) -> Parity:
    """Parity of an engine file with the reference on examples of ``data``, at the edges of the dynamic dimensions.

    The first batch size of ``options`` is among them, for which an engine may have code of its own. The engine's
    answers to single examples are also compared with those to a batch of the same. ``file`` is what the engine was
    built from, with ``options``.

    Raises:
        RejectedError: fp32 answers differ by more than rounding, in which case the first operator that differs is
            named; those of a lower precision by more than the parity gate allows.
    """
    runtime = engine(built.spec.engine)
    parity = ParityAccumulator()
    with (
        engine(reference.spec.engine).load(objects.path(reference.artifact), RunOptions()) as eager,
        runtime.load(objects.path(built.artifact), RunOptions()) as session,
    ):
        for case in cases(eager, data, options.signature, options.batch[0]):
            found = answers_to(case, session, str(built.spec))
            try:
                _require(built, case.reference, found, f"from eager PyTorch at {case.where}")
            except RejectedError as error:
                if built.spec.variant != "fp32":
                    raise
                told = in_engine(runtime, objects.path(file.artifact), case.inputs, options)
                raise RejectedError(f"{error}; {told}") from error
            parity.add(case.reference, found)
            _require(built, _one_by_one(session, case.inputs), found, f"between single examples and {case.where}")
    return parity.result()


def _require(built: Built, reference: Arrays, found: Arrays, where: str) -> None:
    try:
        if built.spec.variant == "fp32":
            require_close(reference, found, rtol=FP32_RTOL, atol=FP32_ATOL)
        decision = parity_gate(built.spec.variant, compare_outputs(reference, found))
    except RejectedError as error:
        raise RejectedError(f"{built.spec} differs {where}: {error}") from error
    if decision.verdict is not Verdict.PASS:
        raise RejectedError(f"{built.spec} differs {where}: {'; '.join(decision.reasons)}")


def _one_by_one(session: Session, inputs: Arrays) -> Arrays:
    """What ``session`` answers to each example alone, put together again."""
    count = len(next(iter(inputs.values())))
    alone = [answers(session, {name: array[i : i + 1] for name, array in inputs.items()}) for i in range(count)]
    return {name: np.concatenate([answer[name] for answer in alone]) for name in alone[0]}
