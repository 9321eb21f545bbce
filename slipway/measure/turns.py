"""One participant's part in a timing session: its worker, its turns, and what they showed."""

from __future__ import annotations

import base64
import functools
import io
import itertools
import math
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Concatenate, ParamSpec, Self

import numpy as np

from slipway.errors import BadInputError, InfrastructureError, SlipwayError
from slipway.measure import protocol
from slipway.measure.arrays import Array, read_arrays
from slipway.measure.host import cores_first
from slipway.measure.latency import Nanoseconds, summarise
from slipway.measure.plan import LEAST_ROUNDS, Participant, ParticipantTiming, TimingPlan, speedup_by_round
from slipway.measure.processes import TimedWorker
from slipway.records import HostLoad, Interval, Latency, Scenario, Throughput, Timing

P = ParamSpec("P")
_LEAST_CALLS = 16
_TRIALS = 3  # of every thread count, each time that it is tried
_TRIAL_CALLS = 5
_WINDOW_SECONDS = 0.05
# An engine that is opened again in a process that ran it before needs a few calls and no more.
_REOPENED_WINDOW_SECONDS = 0.005
_REOPENED_WARM_UP_SECONDS = 0.5
_THROUGHPUT_WINDOWS = 3
_PROFILE_SECONDS = 0.3
_PROFILE_CALLS = (10, 200)


def _while_well(step: Callable[Concatenate[Turns, P], None]) -> Callable[Concatenate[Turns, P], None]:
    """``step``, left out once the participant has failed; a failure is kept, and the reference's ends the session."""

    @functools.wraps(step)
    def run(self: Turns, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.error is None:
            try:
                step(self, *args, **kwargs)
            except SlipwayError as error:
                self.leave(error)

    return run


class Turns:
    """The steps that a session asks of one participant, and their results; a context manager that ends its worker.

    The first failure stays in ``error`` and ends the worker; the reference's is raised as InfrastructureError.
    ``rounds`` holds the samples of each round that it took part in.
    """

    def __init__(self, participant: Participant, plan: TimingPlan, is_reference: bool = False) -> None:
        self.participant = participant
        self.error: SlipwayError | None = None
        self.rounds: dict[int, Nanoseconds] = {}
        self._plan = plan
        self._is_reference = is_reference
        self._worker: TimedWorker
        self._cpus: list[int] = []
        self._running = ExitStack()
        self._first_load: protocol.Loaded | None = None
        self._opening_seconds = 0.0
        self._settled: list[bool] = []
        self._threads = plan.threads[0]
        self._calls = 0
        self._throughput: list[Throughput] = []
        self._scenario: Scenario | None = None
        self._profiled = protocol.Profiled(profile=None, reason="it was not asked for")
        self._trace: Path | None = None
        self._outputs: dict[str, Array] = {}
        self._peak_rss_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @_while_well
    def start(self, cpus: Collection[int]) -> None:
        """Start the worker on ``cpus``."""
        worker = TimedWorker(self.participant.name, self.participant.argv, cpus, self._plan.timeout_seconds)
        self._worker = self._running.enter_context(worker)
        self._cpus = cores_first(cpus)

    @_while_well
    def wait_until_ready(self) -> None:
        """Wait until the worker has imported what it needs."""
        self._worker.ready()

    @_while_well
    def prepare(self, block_seconds: float) -> None:
        """Find the best thread count, and size the blocks, each within ``block_seconds``.

        Each count is tried twice, in some order and then backwards, so that neither a drift of the host nor where
        memory happens to lie decides.
        """
        threads = self._plan.threads
        trials: dict[int, list[Nanoseconds]] = {count: [] for count in threads}
        for count in (*threads, *threads[::-1]) if len(threads) > 1 else threads:
            trials[count] += self._try(count, again=bool(trials[count]))
        self._close()
        self._threads = min(trials, key=lambda count: np.mean([np.median(trial) for trial in trials[count]]))
        samples_ns = np.concatenate(trials[self._threads])
        in_time = _calls_in(self._plan.block_ms / 1e3, samples_ns)
        wanted = max(_LEAST_CALLS, in_time, math.ceil(self._plan.samples / self._plan.rounds))
        self._calls = min(wanted, _calls_in(block_seconds, samples_ns))

    @property
    def rounds_wanted(self) -> int:
        """How many rounds it is to take part in: those of the plan, or the fewest if it is brief."""
        return min(self._plan.rounds, LEAST_ROUNDS) if self.participant.brief else self._plan.rounds

    def share(self) -> float:
        """The share that it has of the samples and rounds that are asked of it, whichever is lower.

        Of one that is brief only rounds are asked.
        """
        if self.participant.brief:
            return len(self.rounds) / self.rounds_wanted
        samples = sum(len(block) for block in self.rounds.values())
        return min(samples / self._plan.samples, len(self.rounds) / self._plan.rounds)

    def has_enough(self) -> bool:
        """Whether it has the samples and the rounds that are asked of it."""
        return self.share() >= 1

    @_while_well
    def run_block(self, turn: int) -> None:
        """Open the engine anew, time one block, in round ``turn``, on as many CPUs as it has threads, and close it.

        Which ones changes from round to round and is the same for all participants: CPUs of one host may differ by a
        quarter for minutes, when a neighbour shares the core of one of them.
        """
        first = turn % len(self._cpus)
        self._worker.pin((self._cpus[first:] + self._cpus[:first])[: self._threads])
        self._open(self._threads, _REOPENED_WINDOW_SECONDS, _REOPENED_WARM_UP_SECONDS)
        self.rounds[turn] = self._time(self._calls)
        self._close()

    @_while_well
    def take_outputs(self) -> None:
        """Take the outputs under the timed settings; from here on all CPUs may be used again."""
        self._worker.pin(self._cpus)
        self._load(self._threads)
        encoded = self._worker.ask(protocol.Check(), protocol.Outputs).npz
        try:
            self._outputs = read_arrays(io.BytesIO(base64.b64decode(encoded, validate=True)))
        except (ValueError, BadInputError) as error:
            raise InfrastructureError(
                f"worker {self.participant.name} answered outputs that are no npz: {error}"
            ) from error

    @_while_well
    def measure_throughput(self, cpus: int) -> None:
        """Examples per second under each setting of the plan that needs no more threads than there are ``cpus``.

        Each has three windows, between which the others have theirs. An engine that takes long to open or to answer has
        its windows at once, for it would spend more time on opening than on what is measured.
        """
        plan = self._plan
        seconds = plan.throughput_seconds / _THROUGHPUT_WINDOWS
        lead_in = self._opening_seconds + 3 * max(plan.batch) / plan.batch[0] * self.latency().p50_ms / 1e3
        passes, windows = (_THROUGHPUT_WINDOWS, 1) if lead_in <= seconds / 2 else (1, _THROUGHPUT_WINDOWS)
        settings = itertools.product(sorted(plan.streams), plan.threads, plan.batch)
        rates = {setting: list[float]() for setting in settings if setting[0] * setting[1] <= cpus}
        for _ in range(passes):
            for (streams, threads, batch), found in rates.items():
                request = protocol.Throughput(
                    batch=batch, threads=threads, streams=streams, seconds=seconds, windows=windows
                )
                found.extend(self._worker.ask(request, protocol.Rates).examples_per_s)
        self._throughput = [
            Throughput(
                batch=batch,
                threads=threads,
                streams=streams,
                examples_per_s=float(np.median(found)),
                lower=min(found),
                upper=max(found),
            )
            for (streams, threads, batch), found in rates.items()
        ]

    @_while_well
    def run_scenario(self) -> None:
        """Let LoadGen measure the scenario of the plan, where it asks for one: offline at the largest batch."""
        name = self._plan.scenario
        if name is not None:
            batch = max(self._plan.batch) if name == "offline" else self._plan.batch[0]
            request = protocol.Scenario(
                name=name,
                threads=self._threads,
                batch=batch,
                expected_per_s=self._best_rate(batch),
                server_per_s=self._plan.server_per_s,
            )
            self._scenario = self._worker.ask(request, protocol.Concluded).scenario

    @_while_well
    def profile(self, trace: Path) -> None:
        """Let the runtime's own profiler tell what it executes; one that cannot is no failure."""
        least, most = _PROFILE_CALLS
        calls = _calls_in(_PROFILE_SECONDS, np.concatenate(list(self.rounds.values())))
        request = protocol.Profile(
            threads=self._threads, batch=self._plan.batch[0], calls=min(max(calls, least), most), trace=str(trace)
        )
        self._profiled = self._worker.ask(request, protocol.Profiled)
        self._trace = trace if self._profiled.profile is not None and trace.exists() else None

    @_while_well
    def finish(self) -> None:
        """Let the worker end."""
        self._peak_rss_bytes = self._worker.ask(protocol.Finish(), protocol.Finished).peak_rss_bytes

    def leave(self, error: SlipwayError) -> None:
        """Take no further part, because of ``error``; without the reference nobody can."""
        if self._is_reference:
            raise InfrastructureError(f"the reference cannot be timed: {error}") from error
        self.error = error
        self._running.close()  # a worker that hangs would disturb the others

    def speedup_over(self, other: Turns) -> Interval:
        """How many times faster than ``other`` in the rounds so far, at least two."""
        return speedup_by_round(other.rounds, self.rounds)

    def timing(self, reference: Turns, host_load: HostLoad) -> ParticipantTiming:
        """All results, paired with those of the ``reference`` in the same rounds."""
        assert self._first_load is not None
        best = {str(batch): self._best_rate(batch) for batch in self._plan.batch}
        timing = Timing(
            latency=self.latency(),
            reference_latency=reference.latency(),
            speedup=self.speedup_over(reference),
            throughput_per_s=best,
            throughput=tuple(self._throughput),
            scenario=self._scenario,
            peak_rss_bytes=self._peak_rss_bytes,
            load_seconds=self._first_load.load_seconds,
            first_inference_seconds=self._first_load.first_inference_seconds,
            host_load=host_load,
        )
        profiled = self._profiled
        return ParticipantTiming(timing, self._outputs, self.rounds, profiled.profile, self._trace, profiled.reason)

    def latency(self) -> Latency:
        """Percentiles over all blocks; settled if most of the warm-ups did."""
        samples_ns = np.concatenate(list(self.rounds.values()))
        settled = 2 * sum(self._settled) > len(self._settled)
        return summarise(samples_ns, self._plan.batch[0], self._threads, settled)

    def _best_rate(self, batch: int) -> float:
        return max(rate.examples_per_s for rate in self._throughput if rate.batch == batch)

    def _try(self, threads: int, again: bool) -> list[Nanoseconds]:
        """Load and warm up with ``threads``, on as many CPUs; the samples of quick trials, together about a block."""
        self._worker.pin(self._cpus[:threads])
        if again:
            self._open(threads, _REOPENED_WINDOW_SECONDS, _REOPENED_WARM_UP_SECONDS)
        else:
            self._open(threads, _WINDOW_SECONDS, self._plan.warm_up_seconds)
        in_time = _calls_in(self._plan.block_ms / 1e3 / _TRIALS, self._time(_TRIAL_CALLS))
        return [self._time(max(_TRIAL_CALLS, in_time)) for _ in range(_TRIALS)]

    def _open(self, threads: int, window_seconds: float, max_seconds: float) -> None:
        self._load(threads)
        request = protocol.WarmUp(window_seconds=window_seconds, max_seconds=max_seconds)
        self._settled.append(self._worker.ask(request, protocol.Settled).settled)

    def _load(self, threads: int) -> None:
        loaded = self._worker.ask(protocol.Load(threads=threads, batch=self._plan.batch[0]), protocol.Loaded)
        self._first_load = self._first_load or loaded  # a later load finds the file cached and the runtime set up
        self._opening_seconds = loaded.load_seconds + loaded.first_inference_seconds

    def _close(self) -> None:
        """Close the engine: all of a session together may need more memory than there is."""
        self._worker.ask(protocol.Close(), protocol.Closed)

    def _time(self, calls: int) -> Nanoseconds:
        samples = np.array(self._worker.ask(protocol.Block(calls=calls), protocol.Samples).ns, dtype=np.int64)
        if len(samples) != calls:
            raise InfrastructureError(f"worker {self.participant.name} timed {len(samples)} of {calls} calls; mend it")
        return samples


def _calls_in(seconds: float, samples_ns: Nanoseconds) -> int:
    """How many calls take ``seconds``, at least one; by their mean, since rare slow calls take time too."""
    return math.ceil(seconds * 1e9 / float(np.mean(samples_ns)))
