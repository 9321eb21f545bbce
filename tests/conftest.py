"""What holds for every test: a quiet, closed environment, and in CI no skip that nobody expected."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

# A home directory of the tests' own: no tool reads the person's settings or leaves anything behind.
_HOME = tempfile.TemporaryDirectory(prefix="slipway-tests-", ignore_cleanup_errors=True)
# Set before any of these tools is imported, and inherited by every process that a test starts.
os.environ.update(
    {
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": f"{_HOME.name}/dvc",
        "HOME": _HOME.name,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MPLBACKEND": "Agg",
        "ORT_DISABLE_TELEMETRY": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
)
# What would lead a test to the person's own stores.
for name in (
    *("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE"),
    *("PREFECT_API_AUTH_STRING", "SLIPWAY_ROLLOUTS_URL"),
):
    os.environ.pop(name, None)
# OpenVINO knows no variable for it, only its own file of consent; 0 declines.
_CONSENT = Path(_HOME.name, "intel", "openvino_telemetry")
_CONSENT.parent.mkdir()
_CONSENT.write_text("0", encoding="utf-8")

# A shell that starts the tests in the background has interrupts ignored, and what ignores them cannot be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)

# In CI a test may be skipped only for a reason that matches one of these.
EXPECTED_SKIPS = (
    r"no NVIDIA GPU",
    r"no Chromium",
    r"the description cannot be had",
    r"no file system can be mounted here",  # a container may forbid it
)


def pytest_unconfigure() -> None:
    """Remove what the tools wrote in place of a home directory."""
    _HOME.cleanup()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, turn the unexpected skip of one test into a failure."""
    return _fail_if_unexpected((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In CI, turn the unexpected skip of a whole module into a failure."""
    return _fail_if_unexpected((yield))


def _fail_if_unexpected(report: Report) -> Report:
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(re.search(expected, reason) for expected in EXPECTED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"unexpected skip in CI: {reason}; mend its cause, or name it in EXPECTED_SKIPS"
    return report
