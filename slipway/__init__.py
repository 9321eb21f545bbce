"""Slipway: from a registered PyTorch model version to the fastest engine that provably keeps its accuracy."""

import os

__version__ = "0.1.0"

# What Slipway drives does not report home unasked; each of these reads its switch when it is imported.
SILENT = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
for _name, _value in SILENT.items():
    os.environ.setdefault(_name, _value)
