from __future__ import annotations

import sys

import pytest

from slipway.errors import BadInputError, InfrastructureError, UnsupportedError
from slipway.rollout.splitters.kserve import KServePlace, KServeSplitter, cluster_objects
from tests.contract.splitters.cluster import ApiError, Cluster


def splitter(cluster: Cluster, canary: str = "v2", namespace: str = "ml", wait_seconds: float = 60) -> KServeSplitter:
    return KServeSplitter(cluster, KServePlace(namespace, "m", canary), lambda _: (0, 0), wait_seconds)


def test_a_share_changes_one_canary_and_nothing_else() -> None:
    cluster = Cluster(v2=0, other=10)
    before = cluster.object["spec"]
    splitter(cluster).set_share(25)

    after = cluster.object["spec"]
    assert [one["trafficPercent"] for one in after["canary"]] == [25, 10]
    assert [one["predictor"] for one in after["canary"]] == [one["predictor"] for one in before["canary"]]
    assert after["predictor"] == before["predictor"]


def test_a_share_that_is_already_there_is_not_patched() -> None:
    cluster = Cluster(v2=25)
    splitter(cluster).set_share(25)
    assert cluster.patches == []


def test_a_change_by_somebody_else_in_between_is_kept_and_the_share_set_all_the_same() -> None:
    cluster = Cluster(v2=0)
    cluster.conflicts = 2
    splitter(cluster).set_share(5)
    assert splitter(cluster).share() == 5
    assert len(cluster.patches) == 1

    cluster.conflicts = 100
    with pytest.raises(InfrastructureError, match="changed by others 5 times in a row; repeat"):
        splitter(cluster).rollback()


def test_the_share_is_what_the_routes_have_and_not_what_was_asked() -> None:
    cluster = Cluster(v2=50)
    cluster.lag = 10**6
    with pytest.raises(InfrastructureError, match=r"did not take a share of 0% within 0\.1 s, they have 50%, 50%; see"):
        splitter(cluster, wait_seconds=0.1).rollback()
    assert splitter(cluster).share() == 50


def test_fractions_of_a_percent_are_refused_as_the_cluster_would() -> None:
    cluster = Cluster(v2=1)
    with pytest.raises(BadInputError, match=r"KServe splits by whole percents, not 0\.5%"):
        splitter(cluster).set_share(0.5)
    assert splitter(cluster).share() == 1


def test_an_unknown_canary_service_or_namespace_is_told() -> None:
    cluster = Cluster(v2=0, v3=0)
    with pytest.raises(BadInputError, match=r"has no canary 'v9', it has v2, v3; add one to its spec.canary"):
        splitter(cluster, canary="v9").set_share(1)
    with pytest.raises(BadInputError, match="cannot read inferenceservices ml/other: there is none"):
        KServeSplitter(cluster, KServePlace("ml", "other", "v2"), lambda _: (0, 0)).rollback()
    with pytest.raises(InfrastructureError, match=r"forbidden: cannot get .*; give this account get and patch"):
        splitter(cluster, namespace="elsewhere").set_share(1)


def test_what_kserves_own_validation_refuses_is_told_in_its_words() -> None:
    cluster = Cluster(v2=0, other=90)
    with pytest.raises(InfrastructureError, match="denied the request: the canaries' trafficPercent exceeds 100"):
        splitter(cluster).set_share(25)
    cluster.object["spec"]["canary"][1]["trafficPercent"] = "90"
    with pytest.raises(BadInputError, match=r"the cluster refuses it: .*must be of type integer"):
        splitter(cluster).set_share(25)


def test_a_service_without_routes_is_not_taken_for_one_without_a_share() -> None:
    cluster = Cluster(v2=0)
    cluster._route = lambda name: (_ for _ in ()).throw(ApiError(404, "Not Found"))  # type: ignore[method-assign]
    with pytest.raises(InfrastructureError, match="has no HTTPRoute; KServe needs Standard mode and enableGatewayApi"):
        splitter(cluster).share()


@pytest.mark.parametrize("failure", [ApiError(500, "Internal Server Error"), ApiError(503, "x"), OSError("no route")])
def test_a_cluster_that_fails_is_no_fault_of_the_person(failure: Exception) -> None:
    cluster = Cluster(v2=0)
    cluster.failure = failure
    with pytest.raises(InfrastructureError, match="see whether the cluster can be reached"):
        splitter(cluster).share()


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'slipway\[kserve\]'"):
        cluster_objects()
