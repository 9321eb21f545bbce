"""A build that takes its process with it, as a fault in a native runtime does."""

from __future__ import annotations

import os
from typing import Any

from slipway.records import Built, CandidateSpec, VariantFile
from slipway.steps.build import build as build_step
from slipway.stores.objects import ObjectStore


def build(objects: ObjectStore, spec: CandidateSpec, file: VariantFile, *rest: Any) -> Built:
    """The real step, but for one variant."""
    if spec.variant == "int8-dynamic":
        os.abort()
    return build_step(objects, spec, file, *rest)
