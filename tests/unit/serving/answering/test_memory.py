from __future__ import annotations

import subprocess
import sys

import pytest

from slipway.serving.answering import memory

FAULTS = """
import resource, sys
from slipway.serving.answering.memory import keep_large_buffers
assert "keep" not in sys.argv or keep_large_buffers()
def buffers():
    for _ in range(50):
        one = bytearray(2_000_000); other = bytearray(2_000_000); del one, other
buffers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
buffers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str) -> int:
    """How many pages the system had to give for buffers like those that were freed just before."""
    return int(subprocess.run([sys.executable, "-c", FAULTS, *arguments], capture_output=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_what_was_freed_serves_the_next_request() -> None:
    assert faults() > 10 * max(faults("keep"), 1)


def test_another_system_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_large_buffers()
