from __future__ import annotations

import pytest

from slipway.records import ReleaseRequest
from slipway.triggers.announcement import AliasSet, Announcement, Other, VersionCreated
from slipway.triggers.decide import Asked, Refusal, Released, RolloutRequest, decide, key_of
from tests.unit.triggers.deliveries import RELEASED


def decided(told: Announcement) -> Asked | Refusal:
    return decide(told, RELEASED, "d1")


def why(told: Announcement) -> str:
    found = decided(told)
    assert isinstance(found, Refusal), found
    return found.why


def created(name: str) -> VersionCreated:
    return VersionCreated(name=name, version="3", source="models:/m-1")


def alias(name: str, alias: str) -> AliasSet:
    return AliasSet(name=name, alias=alias, version="3")


def test_a_new_version_of_a_model_named_by_version_is_released() -> None:
    assert decided(created("digits")) == ReleaseRequest(
        model="models:/digits/3",
        params="params.yaml",
        reason="model version 3 of digits was registered (webhook delivery d1)",
    )


def test_the_alias_that_names_a_model_releases_the_version_it_is_set_to() -> None:
    assert decided(alias("faces", "candidate")) == ReleaseRequest(
        model="models:/faces/3",
        params="params/faces.yaml",
        reason="alias candidate of faces was set to version 3 (webhook delivery d1)",
    )


def test_what_the_parameters_do_not_ask_for_is_refused_in_words() -> None:
    assert why(created("faces")) == (
        "model version 3 of faces was registered, and params/faces.yaml releases what faces@candidate names: set that "
        "alias"
    )
    assert why(alias("faces", "Candidate")).endswith("releases what faces@candidate names: set that alias")
    assert why(alias("digits", "candidate")) == (
        "alias candidate of digits was set to version 3, and params.yaml releases digits by version, not by alias"
    )


def test_the_example_that_mlflow_tests_a_webhook_with_starts_nothing() -> None:
    for told in (created("example_model"), alias("example_model", "example_alias")):
        assert (
            why(told) == "no params file of this project describes releases of example_model; described: digits, faces"
        )


@pytest.mark.parametrize("name", ["digits.x86", "digits.board", "faces.x86"])
def test_our_own_engines_never_start_a_release(name: str) -> None:
    assert why(created(name)).startswith(f"{name} holds engines, which releases register and never follow from; ")
    for given in ("champion", "previous", "candidate"):
        assert why(alias(name, given)).startswith(f"{name} holds engines")


def test_an_engine_stays_one_when_a_file_releases_a_model_of_its_name() -> None:
    """Else each release would start the next one."""
    model = Released(params="params/odd.yaml", alias=None, targets=())
    found = decide(created("digits.x86"), RELEASED | {"digits.x86": model}, "d1")
    assert isinstance(found, Refusal)


def test_a_challenger_asks_for_a_rollout() -> None:
    assert decided(alias("digits.board", "challenger")) == RolloutRequest(
        name="digits",
        target="board",
        version="3",
        params="params.yaml",
        reason="alias challenger of digits.board was set to version 3 (webhook delivery d1)",
    )


@pytest.mark.parametrize("name", ["digits.gone", "other.x86", "Digits", "digits/3", "models:/digits"])
def test_names_are_compared_whole(name: str) -> None:
    assert why(created(name)).startswith(f"no params file of this project describes releases of {name}; ")
    assert why(alias(name, "challenger")).startswith("no params file")


def test_nothing_follows_from_other_events() -> None:
    assert why(Other(entity="registered_model", action="created")) == (
        "nothing follows from registered_model created; a release follows from a new model version or an alias"
    )


def test_a_version_told_of_twice_is_asked_for_under_one_key() -> None:
    """By two webhooks, or by one and a look at the registry; a model that was deleted and made again is another."""
    assert key_of(created("digits"), "d1") == key_of(created("digits"), "d2")
    again = VersionCreated(name="digits", version="3", source="models:/m-2")
    assert key_of(created("digits"), "d1") != key_of(again, "d1")


def test_an_alias_set_twice_is_asked_for_twice() -> None:
    assert key_of(alias("faces", "candidate"), "d1") != key_of(alias("faces", "candidate"), "d2")
