from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.decisions.retention import UNFINISHED_SECONDS, YOUNG_SECONDS, Bundle, Retention, Version, retention

OLD = 30 * 24 * 3600.0


def history() -> list[Version]:
    """Seven decided versions: the third is previous, the fourth champion, the sixth challenger."""
    aliases = {3: ("previous",), 4: ("champion",), 6: ("challenger",)}
    return [Version(n, f"d{n}", aliases.get(n, ()), "promoted" if n < 5 else "rejected") for n in range(1, 8)]


def bundles(versions: list[Version], age_seconds: float = OLD) -> list[Bundle]:
    return [Bundle(one.digest, age_seconds, one.number) for one in versions]


def digests(judged: Retention, what: str) -> set[str]:
    return {one.digest for one in getattr(judged, what)}


def reasons(judged: Retention, digest: str) -> tuple[str, ...]:
    return next(one.reasons for one in chain(judged.kept, judged.gone) if one.digest == digest)


def test_what_serves_may_serve_again_or_wants_to_stays_and_the_rest_goes() -> None:
    judged = retention(history(), bundles(history()), keep=0)

    assert digests(judged, "kept") == {"d3", "d4", "d6"}
    assert digests(judged, "gone") == {"d1", "d2", "d5", "d7"}
    assert reasons(judged, "d4") == ("version 4 is champion",)
    assert reasons(judged, "d5") == ("only of version 5 (rejected)",)


@pytest.mark.parametrize(("keep", "kept"), [(1, {"d7"}), (3, {"d5", "d6", "d7"}), (99, {f"d{n}" for n in range(1, 8)})])
def test_the_newest_versions_stay_whatever_became_of_them(keep: int, kept: set[str]) -> None:
    judged = retention(history(), bundles(history()), keep)

    assert digests(judged, "kept") == kept | {"d3", "d4", "d6"}
    assert f"version 7 is among the {keep} newest" in reasons(judged, "d7")


def test_a_version_after_the_champion_that_nobody_has_decided_on_stays() -> None:
    versions = [Version(1, "d1"), Version(2, "d2", ("champion",), "promoted"), Version(3, "d3"), *map(filler, (4, 5))]

    judged = retention(versions, bundles(versions), keep=1)

    assert reasons(judged, "d3") == ("version 3 waits for approval: nobody has decided on it",)
    assert reasons(judged, "d1") == ("only of version 1 (passed over)",)


def filler(number: int) -> Version:
    return Version(number, f"d{number}", (), "rejected")


def test_a_file_stays_while_any_version_that_has_it_does() -> None:
    versions = [Version(1, "same", (), "rolled back"), Version(2, "same", ("champion",), "promoted"), filler(3)]

    judged = retention(versions, [Bundle("same", OLD, 1)], keep=1)

    assert reasons(judged, "same") == ("version 2 is champion",)


def test_a_young_bundle_stays_for_its_publisher_knows_more() -> None:
    versions = [filler(1), filler(2)]
    young, old = Bundle("d1", YOUNG_SECONDS - 1, 1), Bundle("d1", YOUNG_SECONDS + 1, 1)

    assert retention(versions, [young], keep=1).kept[0].reasons == ("it is younger than an hour",)
    assert digests(retention(versions, [old], keep=1), "gone") == {"d1"}


def test_what_has_no_manifest_stays_for_a_day_and_then_goes_even_for_a_champion() -> None:
    versions = [Version(1, "d1", ("champion",), "promoted")]
    publishing, cut_short = Bundle("d1", UNFINISHED_SECONDS - 1, None), Bundle("d1", UNFINISHED_SECONDS + 1, None)

    assert retention(versions, [publishing], keep=1).kept[0].reasons[0].startswith("it has no manifest")
    assert retention(versions, [cut_short], keep=1).gone[0].reasons[0].startswith("it has no manifest and nothing came")


def test_a_bundle_of_a_version_that_was_deleted_goes_and_one_of_another_registry_stays() -> None:
    versions = [filler(1), filler(2)]
    deleted, foreign = Bundle("lost", OLD, 9), Bundle("foreign", OLD, 1)

    judged = retention(versions, [deleted, foreign], keep=1)

    assert reasons(judged, "lost") == ("its version 9 is not registered any more",)
    assert digests(judged, "kept") == {"foreign"}
    assert "which is another file here" in reasons(judged, "foreign")[0]


@given(
    versions=st.lists(
        st.builds(
            Version,
            number=st.integers(1, 30),
            digest=st.sampled_from("abcdef"),
            aliases=st.lists(st.sampled_from(["champion", "previous", "challenger"]), max_size=2).map(tuple),
            decision=st.sampled_from([None, "rejected", "promoted", "rolled back"]),
        ),
        unique_by=lambda one: one.number,
    ),
    found=st.lists(
        st.builds(
            Bundle,
            digest=st.sampled_from("abcdefgh"),
            age_seconds=st.floats(0, 1e6),
            version=st.none() | st.integers(1, 30),
        ),
        unique_by=lambda one: one.digest,
    ),
    keep=st.integers(0, 5),
)
def test_each_bundle_is_judged_once_with_reasons_and_no_named_file_goes(
    versions: list[Version], found: list[Bundle], keep: int
) -> None:
    judged = retention(versions, found, keep)

    assert sorted(one.digest for one in chain(judged.kept, judged.gone)) == sorted(one.digest for one in found)
    assert all(one.reasons for one in chain(judged.kept, judged.gone))
    newest = sorted(versions, key=lambda one: -one.number)[:keep]
    named = {one.digest for one in versions if one.aliases} | {one.digest for one in newest}
    complete = {one.digest for one in found if one.version is not None}
    assert not named & complete & digests(judged, "gone")
    assert not {one.digest for one in found if one.age_seconds < YOUNG_SECONDS} & digests(judged, "gone")
