from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from slipway.errors import BadInputError, InfrastructureError, NotMeasuredError, UnsupportedError
from slipway.measure.host import cores_first
from slipway.measure.plan import ParticipantTiming, SessionTimings, TimingPlan
from slipway.measure.sessions import run_session
from tests.unit.measure.participants import Behaviour, gone, stand_in

QUICK = TimingPlan(samples=60, rounds=4, block_ms=4, throughput_seconds=0.02, warm_up_seconds=1, timeout_seconds=60)
CPUS = os.sched_getaffinity(0)
SPINS = 10_000
CANDIDATES = {
    "half": Behaviour(spins=SPINS),
    "same": Behaviour(spins=2 * SPINS),
    "hiccups": Behaviour(spins=SPINS, hiccup_every=33, hiccup_seconds=0.02, profiled=False),
    "stumbles": Behaviour(spins=SPINS, stumbles=True),
    "dies": Behaviour(spins=SPINS, dies_at=1000),
    "unsupported": Behaviour(unsupported=True),
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> SessionTimings:
    """One full session, which is long enough for a p99."""
    candidates = [stand_in(name, behaviour) for name, behaviour in CANDIDATES.items()]
    plan = TimingPlan(batch=(2, 4), streams=(2, 1), block_ms=10, throughput_seconds=0.1, timeout_seconds=60)
    traces = tmp_path_factory.mktemp("traces")
    return run_session(stand_in("reference", CANDIDATES["same"]), candidates, plan, CPUS, traces)


def timing_of(name: str, session: SessionTimings) -> ParticipantTiming:
    result = session.candidates[list(CANDIDATES).index(name)]
    assert isinstance(result, ParticipantTiming), result
    return result


def journal_of(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def started_in(journal: list[dict[str, Any]]) -> set[int]:
    return {entry[kind] for entry in journal for kind in ("pid", "child") if kind in entry}


def test_half_the_work_is_twice_as_fast(session: SessionTimings) -> None:
    speedup = timing_of("half", session).timing.speedup
    assert speedup.lower < speedup.value < speedup.upper
    assert speedup.value == pytest.approx(2, rel=0.25)


def test_the_same_work_is_as_fast(session: SessionTimings) -> None:
    """With some room, since an interval at 95% misses now and then."""
    speedup = timing_of("same", session).timing.speedup
    assert speedup.lower - 0.05 <= 1 <= speedup.upper + 0.05


def test_candidates_of_one_session_compare_with_each_other(session: SessionTimings) -> None:
    over_champion = timing_of("half", session).speedup_over(timing_of("same", session))
    assert over_champion.value == pytest.approx(2, rel=0.25)


def test_rare_slow_calls_move_p99_and_not_p50(session: SessionTimings) -> None:
    steady, hiccups = (timing_of(name, session).timing.latency for name in ("half", "hiccups"))
    assert steady.p99_ms is not None
    assert hiccups.p99_ms is not None
    assert hiccups.p99_ms > 20
    assert hiccups.p50_ms == pytest.approx(steady.p50_ms, rel=0.3)


def test_each_latency_has_the_samples_of_a_p99(session: SessionTimings) -> None:
    latency = timing_of("half", session).timing.latency
    assert latency.samples >= 662
    assert (latency.batch, latency.threads) == (2, 1)
    assert len(timing_of("half", session).rounds) >= 12


def test_all_else_that_is_told_is_filled_in(session: SessionTimings) -> None:
    timing = timing_of("half", session).timing
    assert timing.peak_rss_bytes > 2**20
    assert timing.load_seconds >= 0
    assert timing.first_inference_seconds is not None
    assert timing.first_inference_seconds > 0
    assert 0 <= timing.host_load.steal_share <= 1
    assert timing.host_load.cpus == len(CPUS)
    assert timing.scenario is None
    assert timing.reference_latency == session.reference.timing.latency
    assert session.reference.timing.speedup.value == 1


def test_throughput_is_told_per_setting_and_the_best_per_batch(session: SessionTimings) -> None:
    timing = timing_of("half", session).timing
    rates = {(rate.batch, rate.streams): rate.examples_per_s for rate in timing.throughput}
    streams = (1, 2) if len(CPUS) > 1 else (1,)
    assert rates.keys() == {(batch, count) for batch in (2, 4) for count in streams}
    assert timing.throughput_per_s == {str(b): max(rates[b, count] for count in streams) for b in (2, 4)}
    assert rates[4, 1] > rates[2, 1]
    for rate in timing.throughput:
        assert rate.lower is not None
        assert rate.upper is not None
        assert 0 < rate.lower < rate.examples_per_s < rate.upper


def test_each_is_profiled_and_its_trace_kept(session: SessionTimings) -> None:
    profiled = timing_of("half", session)
    assert profiled.profile is not None
    assert (profiled.profile.batch, profiled.profile.threads) == (2, 1)
    assert 10 <= profiled.profile.calls <= 200
    assert profiled.trace is not None
    assert profiled.trace != session.reference.trace
    assert profiled.trace.read_text() == "{}"


def test_a_runtime_that_cannot_be_profiled_is_timed_all_the_same(session: SessionTimings) -> None:
    result = timing_of("hiccups", session)
    assert (result.profile, result.trace) == (None, None)
    assert result.no_profile == "this runtime has no profiler"


def test_a_profiler_that_stumbles_takes_nothing_from_what_was_timed(session: SessionTimings) -> None:
    result = timing_of("stumbles", session)
    assert (result.profile, result.trace) == (None, None)
    assert result.no_profile == "KeyError: 'no such event\\nin the trace'"
    assert result.timing.speedup.value == pytest.approx(2, rel=0.25)


def test_the_timed_session_s_outputs_come_back(session: SessionTimings) -> None:
    assert timing_of("half", session).outputs["y"].tolist() == [0, 1]


def test_a_dying_worker_and_an_unsupported_engine_are_told_and_the_others_go_on(session: SessionTimings) -> None:
    dead, unsupported = session.candidates[4:]
    assert isinstance(dead, InfrastructureError)
    assert "out of memory, says the runtime" in str(dead)
    assert isinstance(unsupported, UnsupportedError)


def test_workers_run_one_at_a_time_and_none_is_left(tmp_path: Path) -> None:
    behaviour = Behaviour(sleep_seconds=0.001, journal=str(tmp_path / "journal"))
    run_session(stand_in("reference", behaviour), [stand_in("other", behaviour)], QUICK, CPUS)
    journal = journal_of(tmp_path / "journal")
    calls = sorted((entry["start"], entry["end"], entry["pid"]) for entry in journal if "start" in entry)
    assert all(end <= start for (_, end, _), (start, _, _) in pairwise(calls))
    turns = [one for (*_, one), (*_, other) in pairwise(calls) if one != other]
    assert len(turns) >= 2 * QUICK.rounds - 2, "they took turns"
    assert all(gone(pid) for pid in started_in(journal))


def test_one_engine_at_a_time_is_open(tmp_path: Path) -> None:
    """Twenty of 5 GB would not fit into memory together."""
    behaviour = Behaviour(sleep_seconds=0.001, journal=str(tmp_path / "journal"))
    names = ("reference", "one", "other")
    first, *others = (stand_in(name, behaviour) for name in names)
    run_session(first, others, replace(QUICK, batch=(1, 2)), CPUS, tmp_path)
    events = [one for one in journal_of(tmp_path / "journal") if one.keys() & {"opened_by", "closed_by"}]
    assert len(events) >= 2 * len(names) * QUICK.rounds
    for opening, closing in zip(events[::2], events[1::2], strict=True):
        assert opening["opened_by"] == closing["closed_by"]


def test_each_setting_of_throughput_has_three_windows_between_those_of_others(tmp_path: Path) -> None:
    """One that takes long to answer has its windows at once, since each opening takes untimed calls."""
    for seconds, openings in ((0.0005, 3 * 2), (0.02, 2)):
        journal = tmp_path / f"{seconds}"
        plan = replace(QUICK, batch=(1, 2), throughput_seconds=0.09, rounds=2)
        behaviour = Behaviour(sleep_seconds=seconds, journal=str(journal))
        timing = run_session(stand_in("one", behaviour), [], plan, CPUS).reference.timing
        assert [(rate.batch, rate.streams) for rate in timing.throughput] == [(1, 1), (2, 1)]
        assert all(rate.lower is not None and rate.lower < rate.examples_per_s for rate in timing.throughput)
        opened = [entry for entry in journal_of(journal) if "opened_by" in entry]
        assert len(opened) == 1 + plan.rounds + 1 + openings


def test_each_round_is_run_by_all_on_the_same_cpus_and_the_next_one_on_others(tmp_path: Path) -> None:
    """Two CPUs of one host may differ by a quarter for minutes: that must not look like a difference of engines."""
    if len(CPUS) < 2:
        pytest.skip("one CPU")
    behaviour = Behaviour(sleep_seconds=0.001, journal=str(tmp_path / "journal"))
    run_session(stand_in("reference", behaviour), [stand_in("other", behaviour)], QUICK, CPUS)
    opened: dict[int, list[list[int]]] = {}
    for entry in journal_of(tmp_path / "journal"):
        if "opened_by" in entry:
            opened.setdefault(entry["opened_by"], []).append(entry["on"])
    turns = [[cores_first(CPUS)[turn % len(CPUS)]] for turn in range(QUICK.rounds)]
    for trial, *rest in opened.values():
        assert trial == turns[0], "it is tried as it is timed"
        assert rest[: QUICK.rounds] == turns
        assert all(on == sorted(CPUS) for on in rest[QUICK.rounds :]), "after the rounds all are free"


def test_thread_counts_are_tried_there_and_back_on_as_many_cpus(tmp_path: Path) -> None:
    """A slow spell at the beginning, or a drift, would otherwise speak against the count that is tried in it."""
    if len(CPUS) < 2:
        pytest.skip("one CPU")
    journal = tmp_path / "journal"
    plan = replace(QUICK, threads=(1, 2))
    run_session(stand_in("one", Behaviour(sleep_seconds=0.002, journal=str(journal))), [], plan, CPUS)
    tried = [(entry["threads"], entry["on"]) for entry in journal_of(journal) if "opened_by" in entry][:4]
    order = cores_first(CPUS)
    assert tried == [(count, sorted(order[:count])) for count in (1, 2, 2, 1)]


def test_each_takes_its_best_thread_count() -> None:
    """The stand-in sleeps half as long on two threads, and answers its thread count times the input."""
    if len(CPUS) < 2:
        pytest.skip("one CPU")
    plan = replace(QUICK, threads=(2, 1), batch=(3,))
    sleeper = stand_in("sleeper", Behaviour(sleep_seconds=0.004))
    session = run_session(sleeper, [sleeper], plan, CPUS)
    (candidate,) = session.candidates
    assert isinstance(candidate, ParticipantTiming)
    assert candidate.timing.latency.threads == session.reference.timing.latency.threads == 2
    assert candidate.outputs["y"].tolist() == [0, 2, 4]


def test_two_streams_at_once_serve_twice_as_much() -> None:
    """The stand-in sleeps, so that callers do not compete."""
    if len(CPUS) < 2:
        pytest.skip("one CPU")
    plan = replace(QUICK, threads=(1, 2), streams=(1, 2), throughput_seconds=0.2)
    timing = run_session(stand_in("sleeper", Behaviour(sleep_seconds=0.01)), [], plan, set(list(CPUS)[:2])).reference
    rates = {(rate.threads, rate.streams): rate.examples_per_s for rate in timing.timing.throughput}
    assert rates.keys() == {(1, 1), (2, 1), (1, 2)}, "two streams of two threads need four CPUs"
    assert rates[1, 2] == pytest.approx(2 * rates[1, 1], rel=0.25)


def test_loadgen_runs_inside_the_worker_when_asked_for() -> None:
    plan = replace(QUICK, batch=(2,), scenario="single-stream")
    timing = run_session(stand_in("sleeper", Behaviour(sleep_seconds=0.005)), [], plan, CPUS).reference.timing
    assert timing.scenario is not None
    assert (timing.scenario.name, timing.scenario.percentile, timing.scenario.valid) == ("single-stream", 90, True)
    assert timing.scenario.latency_ms is not None
    assert timing.scenario.latency_ms >= 5
    assert 0.3 * 2 / 0.005 < timing.scenario.examples_per_s <= 2 / 0.005


def test_the_interval_knows_that_an_engine_opened_again_may_be_slower() -> None:
    """Every second opening of the candidate is 50% slower, though within each its calls agree to a percent or two."""
    lucky = Behaviour(spins=SPINS, slower_openings=True)
    plan = replace(QUICK, rounds=8)
    session = run_session(stand_in("reference", Behaviour(spins=SPINS)), [stand_in("lucky", lucky)], plan, CPUS)
    (candidate,) = session.candidates
    assert isinstance(candidate, ParticipantTiming)
    speedup = candidate.timing.speedup
    assert speedup.lower < 1 / 1.25 < speedup.upper
    assert speedup.upper / speedup.lower > 1.15


def test_halving_drops_what_is_clearly_slower_and_never_one_that_others_are_compared_with() -> None:
    work = {"fast": 1, "as fast": 1, "slow": 6, "slower": 9}
    candidates = [stand_in(name, Behaviour(spins=SPINS * times)) for name, times in work.items()]
    champion = replace(stand_in("champion", Behaviour(spins=SPINS * 12)), stays=True)
    plan = replace(QUICK, rounds=9, halving=True)
    session = run_session(stand_in("reference", Behaviour(spins=SPINS * 6)), [*candidates, champion], plan, CPUS)
    fast, as_fast, *slow, kept = session.candidates
    assert all(isinstance(one, ParticipantTiming) for one in (fast, as_fast, kept))
    for one in slow:
        assert isinstance(one, NotMeasuredError), one
        assert re.fullmatch(
            r"not measured in full: dropped after [248] rounds at [\d.]+x to [\d.]+x against the [\d.]+x to [\d.]+x of "
            r"(as )?fast; release without --budget to measure it",
            str(one),
        )


def test_what_cannot_pass_pushes_nothing_out() -> None:
    """Two fast ones would be the better half of three; they do not count, and the slow one is the best that does."""
    useless = [replace(stand_in(f"useless {i}", Behaviour(spins=SPINS)), counts=False) for i in range(2)]
    slowest = replace(stand_in("slowest", Behaviour(spins=SPINS * 12)), counts=False)
    passes = stand_in("passes", Behaviour(spins=SPINS * 4))
    plan = replace(QUICK, halving=True)
    session = run_session(stand_in("reference", Behaviour(spins=SPINS)), [*useless, passes, slowest], plan, CPUS)
    *kept, dropped = session.candidates
    assert all(isinstance(one, ParticipantTiming) for one in kept), kept
    assert isinstance(dropped, NotMeasuredError)
    assert "of passes;" in str(dropped)


def test_where_nothing_counts_all_do() -> None:
    fast, slow = (replace(stand_in(f"{n}", Behaviour(spins=SPINS * n)), counts=False) for n in (1, 8))
    session = run_session(stand_in("reference", Behaviour()), [fast, slow], replace(QUICK, halving=True), CPUS)
    assert isinstance(session.candidates[0], ParticipantTiming)
    assert isinstance(session.candidates[1], NotMeasuredError)


def test_a_brief_one_has_two_rounds_and_neither_drops_nor_is_dropped() -> None:
    """The two fastest would be the better half, and the slowest would leave after two rounds."""
    brief = [replace(stand_in(f"brief {n}", Behaviour(spins=SPINS * n)), brief=True) for n in (1, 1, 40)]
    candidate = stand_in("candidate", Behaviour(spins=SPINS * 12))
    plan = replace(QUICK, halving=True)
    session = run_session(stand_in("reference", Behaviour(spins=SPINS)), [candidate, *brief], plan, CPUS)
    rounds = [sorted(one.rounds) for one in session.candidates if isinstance(one, ParticipantTiming)]
    assert rounds == [list(range(QUICK.rounds)), *[[0, 1]] * 3]


def test_a_spent_budget_leaves_fewer_samples_and_no_p99() -> None:
    plan = replace(QUICK, samples=662, budget_seconds=0.5)
    session = run_session(stand_in("slow", Behaviour(sleep_seconds=0.02)), [], plan, CPUS)
    latency = session.reference.timing.latency
    assert 2 <= latency.samples < 64
    assert (latency.p90_ms, latency.p99_ms) == (None, None)


def test_latency_that_never_settles_is_told() -> None:
    slowing = Behaviour(sleep_seconds=0.001, slows_by=0.03)
    plan = replace(QUICK, warm_up_seconds=0.0, samples=10, rounds=2)
    assert not run_session(stand_in("slowing", slowing), [], plan, CPUS).reference.timing.latency.settled


@pytest.mark.parametrize("reference", [Behaviour(dies_at=200), Behaviour(unsupported=True)])
def test_without_a_reference_there_is_no_session(reference: Behaviour, tmp_path: Path) -> None:
    other = stand_in("other", Behaviour(journal=str(tmp_path / "journal")))
    with pytest.raises(InfrastructureError, match="the reference cannot be timed"):
        run_session(stand_in("reference", reference), [other], QUICK, CPUS)
    assert all(gone(pid) for pid in started_in(journal_of(tmp_path / "journal")))


def test_a_candidate_that_hangs_is_ended_after_the_time_out(tmp_path: Path) -> None:
    plan = replace(QUICK, timeout_seconds=3.0)
    hanging = stand_in("hanging", Behaviour(spins=100, hangs_at=3, journal=str(tmp_path / "journal")))
    session = run_session(stand_in("reference", Behaviour(spins=SPINS)), [hanging], plan, CPUS)
    assert "did not warm_up within 3 s" in str(session.candidates[0])
    assert all(gone(pid) for pid in started_in(journal_of(tmp_path / "journal")))


def test_an_interrupt_leaves_no_process(tmp_path: Path) -> None:
    behaviour = Behaviour(sleep_seconds=0.002, journal=str(tmp_path / "journal"))
    plan = replace(QUICK, samples=1_000_000)

    def interrupt_once_both_run() -> None:
        while len({entry["pid"] for entry in journal_of(tmp_path / "journal") if "start" in entry}) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_once_both_run, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_session(stand_in("reference", behaviour), [stand_in("other", behaviour)], plan, CPUS)
    started = started_in(journal_of(tmp_path / "journal"))
    assert len(started) == 4
    assert all(gone(pid) for pid in started)


@pytest.mark.parametrize("plan", [TimingPlan(threads=(1, 3)), TimingPlan(streams=(3,))])
def test_more_threads_than_cpus_are_refused(plan: TimingPlan) -> None:
    with pytest.raises(BadInputError, match="3 threads on 1 CPUs"):
        run_session(stand_in("reference", Behaviour()), [], plan, {min(CPUS)})
