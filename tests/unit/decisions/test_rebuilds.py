from __future__ import annotations

from slipway.decisions.rebuilds import builds_told, rebuilds_told
from slipway.records import Interval, Rebuild
from tests.fakes.evidence import ACCURACY
from tests.unit.steps.records import artifact

FILES = [artifact(letter, size_bytes=size) for letter, size in (("a", 1_220_000), ("b", 1_200_000), ("c", 1_210_000))]


def rebuild(accuracy: float | None = None, ratio: float | None = None) -> Rebuild:
    interval = None if ratio is None else Interval(value=ratio, lower=ratio - 0.01, upper=ratio + 0.01)
    return Rebuild(digest="b" * 64, size_bytes=1_200_000, accuracy=accuracy, latency_ratio=interval)


def test_what_builds_gave_is_told_in_one_line() -> None:
    assert builds_told(1, FILES[:1]) == ()
    assert builds_told(3, FILES[:1]) == ("3 builds gave the same bytes",)
    assert builds_told(4, FILES) == ("4 builds, 3 different files of 1,200,000 to 1,220,000 bytes; the first is kept",)
    assert builds_told(2, [FILES[0], artifact("d", size_bytes=1_220_000)]) == (
        "2 builds, 2 different files of 1,220,000 bytes; the first is kept",
    )


def test_accuracy_and_latency_of_the_others_are_told_beside_the_kept_one() -> None:
    found = [rebuild(0.9310, 1.02), rebuild(0.9312, 1.09)]

    assert rebuilds_told(ACCURACY, found) == (
        f"other builds: top1 0.9310 to 0.9312 (kept: {ACCURACY.value:.4f}), latency 1.02 to 1.09 of the kept one's",
    )


def test_what_was_not_measured_is_not_told() -> None:
    assert rebuilds_told(ACCURACY, []) == rebuilds_told(None, [rebuild()]) == rebuilds_told(ACCURACY, [rebuild()]) == ()
    assert rebuilds_told(None, [rebuild(0.9)]) == ()
    assert rebuilds_told(ACCURACY, [rebuild(0.9), rebuild(0.9)]) == ("other builds: top1 0.9000 (kept: 0.9800)",)
    assert rebuilds_told(ACCURACY, [rebuild(ratio=0.98), rebuild()]) == (
        "other builds: latency 0.98 of the kept one's (1 not timed)",
    )
