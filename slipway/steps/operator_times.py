"""What every operator of an ONNX file takes on this host, for a variant that weighs its layers by time."""

from __future__ import annotations

import tempfile
from pathlib import Path

from slipway.engines import engine
from slipway.engines.base import Arrays, BuildOptions, RunOptions
from slipway.measure.hardware import describe
from slipway.records import Signature
from slipway.variants.layer_times import Measured, Timer

# One file of a variant serves every engine that builds from ONNX. This one is there wherever such a variant is made,
# and tells its operators by the names of the file.
ENGINE = "onnxruntime"
CALLS = 50  # of these the quietest quarter counts


def operator_times(signature: Signature, example: Arrays) -> Timer:
    """A timer of ONNX files with this signature, on one example and one thread.

    Times differ from one run to the next, and are rough on a busy host.
    """
    runtime, threads = engine(ENGINE), 1
    version, cpu = runtime.availability().version, describe({}).cpu
    by = f"{ENGINE} {version}, {threads} thread, on {cpu}"

    def time(path: Path) -> Measured:
        with tempfile.TemporaryDirectory() as directory:
            built, trace = Path(directory, f"engine{runtime.suffix}"), Path(directory, "trace.json")
            runtime.build(path, built, BuildOptions(variant="int8-mixed", signature=signature))
            profile = runtime.profile(built, RunOptions(threads=threads), example, CALLS, trace)
        return Measured(by, {layer.name: layer.time_us or 0.0 for layer in profile.layers})

    return time
