"""One participant's part in a timing session: its worker, its turns, and what they showed."""

from __future__ import annotations

import base64
import functools
import io
import math
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Concatenate, ParamSpec, Self

import numpy as np

from slipway.errors import BadInputError, InfrastructureError, SlipwayError
from slipway.measure import protocol
from slipway.measure.arrays import Array, read_arrays
from slipway.measure.latency import Nanoseconds, summarise
from slipway.measure.plan import Participant, ParticipantTiming, TimingPlan, speedup_by_round
from slipway.measure.processes import TimedWorker
from slipway.records import HostLoad, Latency, Timing

P = ParamSpec("P")
_LEAST_CALLS = 16
_TRIAL_CALLS = 5


def _while_well(step: Callable[Concatenate[Turns, P], None]) -> Callable[Concatenate[Turns, P], None]:
    """``step``, left out once the participant has failed; a failure is kept, and the reference's ends the session."""

    @functools.wraps(step)
    def run(self: Turns, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.error is None:
            try:
                step(self, *args, **kwargs)
            except SlipwayError as error:
                self._fail(error)

    return run


class Turns:
    """The steps that a session asks of one participant, and their results; a context manager that ends its worker.

    The first failure stays in ``error`` and ends the worker; the reference's is raised as InfrastructureError.
    ``rounds`` holds the samples of each round that it took part in.
    """

    def __init__(self, participant: Participant, plan: TimingPlan, is_reference: bool = False) -> None:
        self.error: SlipwayError | None = None
        self._participant = participant
        self._plan = plan
        self._is_reference = is_reference
        self._worker: TimedWorker
        self._running = ExitStack()
        self._load_seconds: float | None = None
        self._settled = False
        self._threads = plan.threads[0]
        self._calls = 0
        self.rounds: dict[int, Nanoseconds] = {}
        self._throughput_per_s: dict[str, float] = {}
        self._outputs: dict[str, Array] = {}
        self._peak_rss_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @_while_well
    def start(self, cpus: Collection[int]) -> None:
        """Start the worker on ``cpus``."""
        worker = TimedWorker(self._participant.name, self._participant.argv, cpus, self._plan.timeout_seconds)
        self._worker = self._running.enter_context(worker)

    @_while_well
    def wait_until_ready(self) -> None:
        """Wait until the worker has imported what it needs."""
        self._worker.ready()

    @_while_well
    def prepare(self, block_seconds: float) -> None:
        """Find the best thread count, warm up with it, and size the blocks, each within ``block_seconds``."""
        trials = {threads: self._open(threads) for threads in self._plan.threads}
        best = min(trials, key=lambda threads: np.median(trials[threads]))
        if best != self._threads:
            self._open(best)
        wanted = max(_LEAST_CALLS, _calls_in(self._plan.block_ms / 1e3, trials[best]))
        self._calls = min(wanted, _calls_in(block_seconds, trials[best]))

    def share(self) -> float:
        """The share that it has of the samples and the rounds that the plan asks for, whichever is lower."""
        samples = sum(len(block) for block in self.rounds.values())
        return min(samples / self._plan.samples, len(self.rounds) / self._plan.rounds)

    def has_enough(self) -> bool:
        """Whether it has the samples and the rounds that the plan asks for."""
        return self.share() >= 1

    @_while_well
    def run_block(self, turn: int) -> None:
        """Time one block, in round ``turn``."""
        self.rounds[turn] = self._time(self._calls)

    @_while_well
    def measure_throughput(self) -> None:
        """Examples per second at each batch size of the plan."""
        for batch in self._plan.batch:
            request = protocol.Throughput(batch=batch, seconds=self._plan.throughput_seconds)
            self._throughput_per_s[str(batch)] = self._worker.ask(request, protocol.Rate).examples_per_s

    @_while_well
    def finish(self) -> None:
        """Take the outputs under the timed settings, and let the worker end."""
        encoded = self._worker.ask(protocol.Check(), protocol.Outputs).npz
        try:
            self._outputs = read_arrays(io.BytesIO(base64.b64decode(encoded, validate=True)))
        except (ValueError, BadInputError) as error:
            raise InfrastructureError(
                f"worker {self._participant.name} answered outputs that are no npz: {error}"
            ) from error
        self._peak_rss_bytes = self._worker.ask(protocol.Finish(), protocol.Finished).peak_rss_bytes

    def timing(self, reference: Turns, host_load: HostLoad) -> ParticipantTiming:
        """All results, paired with those of the ``reference`` in the same rounds."""
        timing = Timing(
            latency=self.latency(),
            reference_latency=reference.latency(),
            speedup=speedup_by_round(reference.rounds, self.rounds),
            throughput_per_s=self._throughput_per_s,
            peak_rss_bytes=self._peak_rss_bytes,
            load_seconds=self._load_seconds or 0.0,
            host_load=host_load,
        )
        return ParticipantTiming(timing=timing, outputs=self._outputs, rounds=self.rounds)

    def latency(self) -> Latency:
        """Percentiles over all blocks."""
        samples_ns = np.concatenate(list(self.rounds.values()))
        return summarise(samples_ns, self._plan.batch[0], self._threads, self._settled)

    def _fail(self, error: SlipwayError) -> None:
        if self._is_reference:
            raise InfrastructureError(f"the reference cannot be timed: {error}") from error
        self.error = error
        self._running.close()  # a worker that hangs would disturb the others

    def _open(self, threads: int) -> Nanoseconds:
        """Load and warm up with ``threads``; the samples of a quick trial, about a block long."""
        loaded = self._worker.ask(protocol.Load(threads=threads, batch=self._plan.batch[0]), protocol.Loaded)
        if self._load_seconds is None:  # a later load finds the file cached and the runtime set up
            self._load_seconds = loaded.load_seconds
        self._settled = self._worker.ask(
            protocol.WarmUp(max_seconds=self._plan.warm_up_seconds), protocol.Settled
        ).settled
        self._threads = threads
        return self._time(max(_TRIAL_CALLS, _calls_in(self._plan.block_ms / 1e3, self._time(_TRIAL_CALLS))))

    def _time(self, calls: int) -> Nanoseconds:
        samples = np.array(self._worker.ask(protocol.Block(calls=calls), protocol.Samples).ns, dtype=np.int64)
        if len(samples) != calls:
            raise InfrastructureError(f"worker {self._participant.name} timed {len(samples)} of {calls} calls; mend it")
        return samples


def _calls_in(seconds: float, samples_ns: Nanoseconds) -> int:
    """How many calls take ``seconds``, at least one; by their mean, since rare slow calls take time too."""
    return math.ceil(seconds * 1e9 / float(np.mean(samples_ns)))
