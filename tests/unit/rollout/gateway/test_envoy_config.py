from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.rollout.gateway.envoy_config import Places, bootstrap, routes, state_of


@given(st.integers(0, 1_000_000), st.booleans())
def test_share_and_shadow_are_read_back_as_they_were_written(millionths: int, shadow: bool) -> None:
    percent = millionths / 10_000
    written = json.loads(json.dumps(routes(percent, shadow)))

    assert state_of(written["resources"][0]) == (pytest.approx(percent), shadow)


@pytest.mark.parametrize("found", [{}, {"virtual_hosts": []}, {"virtual_hosts": [{"routes": [{}, {}, {}]}]}])
def test_other_routes_are_not_taken_for_ours(found: dict[str, Any]) -> None:
    with pytest.raises((KeyError, IndexError, ValueError)):
        state_of(found)


def test_the_configuration_leaves_nothing_open_to_others() -> None:
    told = bootstrap(Places("0.0.0.0", 8080, 20_001, 20_002, 20_003, Path("/folder")))

    assert told["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    clusters = told["static_resources"]["clusters"]
    endpoints = [
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
        for cluster in clusters
        if "load_assignment" in cluster
    ]
    assert {(place["address"], place["port_value"]) for place in endpoints} == {
        ("127.0.0.1", 20_002),
        ("127.0.0.1", 20_003),
    }
    assert told["static_resources"]["listeners"][0]["enable_reuse_port"] is False
