"""Which candidates a release asks for, and which files they are built from."""

from __future__ import annotations

from collections.abc import Iterable

from slipway.config import Params
from slipway.engines import engine
from slipway.records import CandidateSpec, Form
from slipway.steps.build import refusal


def candidates(params: Params, target: str) -> tuple[CandidateSpec, ...]:
    """Every variant on every engine of ``target``, in the order of the parameters."""
    return tuple(
        CandidateSpec(target=target, variant=variant, engine=runtime)
        for variant in params.variants
        for runtime in params.targets[target].engines
    )


def wanted(specs: Iterable[CandidateSpec]) -> list[tuple[str, Form]]:
    """The variants and forms that ``specs`` are built from, sorted; none for those that their engine refuses."""
    return sorted({(spec.variant, engine(spec.engine).form) for spec in specs if refusal(spec) is None})
