"""The guard against unexpected skips, run in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = {
    "test_call": "def test(): pytest.skip({reason!r})",
    "test_mark": "@pytest.mark.skip(reason={reason!r})\ndef test(): ...",
    "test_module": "pytest.skip({reason!r}, allow_module_level=True)",
}


def run(folder: Path, reason: str, ci: str) -> subprocess.CompletedProcess[str]:
    for name, source in TESTS.items():
        (folder / f"{name}.py").write_text(f"import pytest\n{source.format(reason=reason)}\n", encoding="utf-8")
    (folder / "test_xfail.py").write_text(
        "import pytest\n@pytest.mark.xfail\ndef test(): assert False\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--continue-on-collection-errors", str(folder)]
    environment = {**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_an_unexpected_skip_fails_in_ci_however_it_is_asked_for(tmp_path: Path) -> None:
    done = run(tmp_path, "no server", ci="true")
    assert done.returncode == 1
    assert done.stdout.count("\nunexpected skip in CI: Skipped: no server;") == len(TESTS)
    assert "1 failed, 1 xfailed, 2 errors" in done.stdout


def test_an_expected_skip_passes_in_ci(tmp_path: Path) -> None:
    assert "3 skipped, 1 xfailed" in run(tmp_path, "no NVIDIA GPU here", ci="true").stdout


def test_any_skip_passes_outside_ci(tmp_path: Path) -> None:
    assert "3 skipped, 1 xfailed" in run(tmp_path, "no server", ci="").stdout
