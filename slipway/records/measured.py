"""What was measured on one candidate: accuracy, latency, throughput, executed precision."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slipway.records.base import Artifact, Record
from slipway.records.source import Parity


class Predictions(Record):
    """Outputs and targets over a whole data set, kept so that candidates compare without running again.

    ``probe`` holds some random examples with their inputs, on which a hopeless candidate is found early. ``example``
    holds a few with their inputs, which are kept with every engine; ``no_example`` tells why there are none.
    """

    artifact: Artifact
    metric: str
    value: float
    n: int
    probe: Artifact | None = None
    example: Artifact | None = None
    no_example: str | None = None


class ClassAccuracy(Record):
    """Of the ``n`` examples of one class, the share that reference and candidate got right."""

    label: str
    n: int
    reference: float
    candidate: float


class Accuracy(Record):
    """A candidate's accuracy, paired per example with the reference.

    ``drop`` is reference minus candidate for metrics where higher is better (candidate minus reference otherwise),
    with one-sided bounds at ``confidence``. ``flips`` counts examples whose top-1 answer changed; for 0/1 metrics,
    ``discordant`` counts those that exactly one of the two got right. ``n`` examples were compared; it is less than
    ``available`` where a hopeless candidate was given up before the end of the test set.
    """

    metric: str
    value: float
    reference_value: float
    drop: float
    drop_lower: float
    drop_upper: float
    confidence: float
    method: str
    n: int
    flips: int | None = None
    discordant: int | None = None
    worst_class: str | None = None
    per_class: tuple[ClassAccuracy, ...] = ()
    available: int | None = None

    @property
    def given_up(self) -> bool:
        """Whether the candidate was given up before the end of the test set."""
        return self.available is not None and self.n < self.available


class Interval(Record):
    """A point estimate with its two-sided confidence interval."""

    value: float
    lower: float
    upper: float


class Rebuild(Record):
    """A further build of a candidate that gave other bytes than the one kept; what was not measured on it is None.

    ``accuracy`` is in the metric of the candidate's; ``latency_ratio`` is its latency over that of the file that was
    kept, paired in one session.
    """

    digest: str
    size_bytes: int
    accuracy: float | None = None
    latency_p50_ms: float | None = None
    latency_ratio: Interval | None = None


class Validated(Record):
    """Accuracy and parity of one engine file on the whole test set; ``scores`` holds the metric example by example.

    ``rebuilds`` tells the accuracy of every further build that gave other bytes. ``example`` holds a few examples with
    what the engine file answered to each alone.
    """

    accuracy: Accuracy
    parity: Parity
    executed_precision: dict[str, int]
    predictions: Artifact
    scores: Artifact | None = None
    rebuilds: tuple[Rebuild, ...] = ()
    example: Artifact | None = None
    notes: tuple[str, ...] = ()


class Latency(Record):
    """Latency of one engine file; a percentile the sample count cannot support is None."""

    p50_ms: float
    p90_ms: float | None
    p95_ms: float | None = None
    p99_ms: float | None
    p99_interval_ms: Interval | None = None
    samples: int
    batch: int
    threads: int
    settled: bool


class HostLoad(Record):
    """The host's state around a measurement; steal is the share of CPU time taken by other guests."""

    load_1m_before: float
    load_1m_after: float
    steal_share: float
    governor: str | None = None
    cpus: int | None = None


class Throughput(Record):
    """Examples per second under one setting: ``streams`` callers at once, each with ``threads`` threads.

    ``examples_per_s`` is the median of several windows, whose rates lie between ``lower`` and ``upper``.
    """

    batch: int
    threads: int
    streams: int
    examples_per_s: float
    lower: float | None = None
    upper: float | None = None


class Scenario(Record):
    """One MLPerf LoadGen scenario as the tool itself concluded it: its ``percentile`` of latency, and its rate.

    ``valid`` is LoadGen's own verdict, ``target_per_s`` the Poisson arrival rate that a server was asked for.
    """

    name: Literal["single-stream", "server", "offline"]
    percentile: int | None
    latency_ms: float | None
    examples_per_s: float
    queries: int
    valid: bool
    target_per_s: float | None
    tool: str


class Timing(Record):
    """Latency, paired speed-up over the reference and throughput, from one interleaved session.

    ``throughput_per_s`` holds the best setting per batch size, ``throughput`` every setting, ``best_throughput`` the
    one to serve with.
    """

    latency: Latency
    reference_latency: Latency
    speedup: Interval
    throughput_per_s: dict[str, float]
    throughput: tuple[Throughput, ...] = ()
    best_throughput: Throughput | None = None
    scenario: Scenario | None = None
    peak_rss_bytes: int
    load_seconds: float
    first_inference_seconds: float | None = None
    host_load: HostLoad


class Layer(Record):
    """One executed operation, in the runtime's own words: the precision it computed in and its mean time per call.

    ``multiplies`` says that it multiplies and accumulates (convolution, matrix product, recurrent cell), which is where
    a lower precision saves time. ``time_us`` is None where the runtime tells no time.
    """

    name: str
    kind: str
    precision: str
    multiplies: bool
    time_us: float | None


class Profile(Record):
    """What one engine file executed, in order, over ``calls`` calls of ``batch`` examples; ``tool`` is who told it."""

    tool: str
    layers: tuple[Layer, ...]
    calls: int
    batch: int
    threads: int


class Timed(Record):
    """Timing of one candidate; ``over_champion`` is its paired speed-up over the engine that serves now, if any.

    ``no_champion`` tells why the engine that serves now could not be timed. ``trace`` is the profile as the runtime's
    own tool writes it. ``rebuilds`` tells accuracy and latency of every further build that gave other bytes.
    """

    timing: Timing
    over_champion: Interval | None
    no_champion: str | None = None
    profile: Profile | None = None
    trace: Artifact | None = None
    rebuilds: tuple[Rebuild, ...] = ()


class Hardware(Record):
    """The hardware that was measured on; ``fingerprint`` is the sha256 of what changes an engine's behaviour.

    ``caches`` holds sizes in bytes by name (L1d, L2, L3); empty, like ``compute_capability`` and ``driver``, where the
    host does not tell, or a record is older than the question.
    """

    fingerprint: str
    cpu: str
    isa: tuple[str, ...]
    cores: int
    memory_bytes: int
    gpu: str | None
    machine: str
    runtimes: dict[str, str]
    caches: dict[str, int] = Field(default_factory=dict)
    compute_capability: str | None = None
    driver: str | None = None
