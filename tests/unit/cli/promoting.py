"""The flow ``promote`` in the test's own process."""

from __future__ import annotations

from typing import Any

import pytest

from flows import promote as flows
from slipway.cli import engines
from tasks.promote import decide


def promote_without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands call the flow's own code, on the registry that they find, without Prefect's engine."""
    monkeypatch.setattr(flows, "workshop", engines.workshop)
    monkeypatch.setattr(flows, "decide", decide.fn)

    def load_flow(name: str) -> Any:
        assert name == "promote"
        return lambda *arguments: flows.promote.fn(*arguments).data

    monkeypatch.setattr(engines, "load_flow", load_flow)
