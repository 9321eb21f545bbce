from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from slipway.errors import BadInputError
from slipway.triggers.signature import RefusedDeliveryError, checked_delivery_id, secret_from
from tests.unit.triggers.deliveries import DELIVERY, NOW_S, SECRET, announced, signed

BODY = announced(description="größer, \N{SNOWMAN}")


def check(headers: dict[str, str], body: bytes = BODY, now_s: float = NOW_S) -> str:
    return checked_delivery_id(Headers(headers), body, SECRET, now_s)


def refused(headers: dict[str, str], body: bytes = BODY, now_s: float = NOW_S) -> tuple[int, str]:
    with pytest.raises(RefusedDeliveryError) as error:
        check(headers, body, now_s)
    assert "\n" not in str(error.value)
    return error.value.status, error.value.outcome


def test_what_mlflow_itself_signs_is_accepted() -> None:
    assert check(signed(BODY)) == DELIVERY


def test_names_of_headers_are_found_in_any_case() -> None:
    assert check({name.lower(): value for name, value in signed(BODY).items()}) == DELIVERY


@pytest.mark.parametrize("header", ["X-MLflow-Signature", "X-MLflow-Timestamp", "X-MLflow-Delivery-Id"])
def test_a_delivery_without_one_of_the_headers_is_not_signed(header: str) -> None:
    headers = signed(BODY)
    del headers[header]
    assert refused(headers) == (401, "unsigned")


def test_nothing_that_was_signed_can_be_changed() -> None:
    wrong = (401, "wrong signature")
    headers = signed(BODY)
    assert refused(headers, BODY + b" ") == wrong
    assert refused(headers | {"X-MLflow-Timestamp": str(int(NOW_S) + 1)}) == wrong
    assert refused(headers | {"X-MLflow-Delivery-Id": "another"}) == wrong
    assert refused(signed(BODY, secret="another secret")) == wrong
    assert refused(headers | {"X-MLflow-Signature": headers["X-MLflow-Signature"].removeprefix("v1,")}) == wrong
    assert refused(headers | {"X-MLflow-Signature": "v1,größer"}) == wrong


def test_one_of_several_signatures_is_enough() -> None:
    """As while a secret changes."""
    headers = signed(BODY)
    assert check(headers | {"X-MLflow-Signature": f"v1,AAAA {headers['X-MLflow-Signature']}"}) == DELIVERY


@pytest.mark.parametrize("late_s", [-300, 0, 300])
def test_the_window_has_two_sides(late_s: float) -> None:
    assert check(signed(BODY), now_s=NOW_S + late_s) == DELIVERY


@pytest.mark.parametrize(("late_s", "words"), [(302, "302 s old"), (-302, "302 s ahead of this host's clock")])
def test_a_delivery_from_outside_the_window_is_stale(late_s: float, words: str) -> None:
    with pytest.raises(RefusedDeliveryError, match=words) as error:
        check(signed(BODY), now_s=NOW_S + late_s)
    assert (error.value.status, error.value.outcome) == (401, "stale")


def test_a_stranger_does_not_learn_what_the_time_is() -> None:
    assert refused(signed(BODY, secret="another"), now_s=NOW_S + 9999) == (401, "wrong signature")


@pytest.mark.parametrize(
    "changed",
    [
        {"X-MLflow-Delivery-Id": "a" * 129},
        {"X-MLflow-Delivery-Id": "a b"},
        {"X-MLflow-Timestamp": "yesterday"},
        {"X-MLflow-Timestamp": "1e9"},
        {"X-MLflow-Timestamp": "-5"},
        {"X-MLflow-Timestamp": "٣"},
    ],
)
def test_what_mlflow_would_not_send_is_malformed(changed: dict[str, str]) -> None:
    with pytest.raises(RefusedDeliveryError) as error:
        checked_delivery_id(signed(BODY) | changed, BODY, SECRET, NOW_S)
    assert (error.value.status, error.value.outcome) == (400, "malformed")


@pytest.mark.parametrize("environment", [{}, {"SLIPWAY_WEBHOOK_SECRET": ""}])
def test_without_a_secret_it_is_told_what_to_set(environment: dict[str, str]) -> None:
    with pytest.raises(BadInputError, match=r"^SLIPWAY_WEBHOOK_SECRET is not set, .*; set it to the secret that"):
        secret_from(environment)
