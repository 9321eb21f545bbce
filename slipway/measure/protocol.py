"""What a timing session and its worker processes say to each other: one JSON object per line."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, PositiveInt, TypeAdapter

from slipway import records
from slipway.records import Record


class Load(Record):
    """Open the engine with ``threads``, in place of what was open, and run a batch once; answered by `Loaded`."""

    do: Literal["load"] = "load"
    threads: int
    batch: int


class Loaded(Record):
    """How long opening took, without process start and imports, and the first inference after it."""

    load_seconds: float
    first_inference_seconds: float


class WarmUp(Record):
    """Call until the medians of windows agree; answered by `Settled`."""

    do: Literal["warm_up"] = "warm_up"
    window_seconds: float
    max_seconds: float


class Settled(Record):
    """Whether it settled in time."""

    settled: bool


class Block(Record):
    """Time single calls, after some untimed ones; answered by `Samples`."""

    do: Literal["block"] = "block"
    calls: int


class Samples(Record):
    """Wall time of each call in ns."""

    ns: tuple[PositiveInt, ...]


class Check(Record):
    """Answer the batch that is timed; answered by `Outputs`."""

    do: Literal["check"] = "check"


class Outputs(Record):
    """The outputs by name: npz in base64."""

    npz: str


class Close(Record):
    """Close the engine that is open, so that its memory is free while others have their turn; answered by `Closed`."""

    do: Literal["close"] = "close"


class Closed(Record):
    """Said when no engine is open."""

    closed: Literal[True] = True


class Throughput(Record):
    """Call from ``streams`` callers the engine opened for as many, in place of what was open; answered by `Rates`.

    They call in each of ``windows``, one after another, for ``seconds``.
    """

    do: Literal["throughput"] = "throughput"
    batch: int
    threads: int
    streams: int
    seconds: float
    windows: int = 1


class Rates(Record):
    """Examples per second in each window, of all streams together."""

    examples_per_s: tuple[float, ...]


class Scenario(Record):
    """Run a scenario of MLPerf LoadGen, in place of what was open; answered by `Concluded`.

    ``batch`` is the most examples per call; ``expected_per_s`` is about how many examples per second it answers.
    """

    do: Literal["scenario"] = "scenario"
    name: Literal["single-stream", "server", "offline"]
    threads: int
    batch: int
    expected_per_s: float
    server_per_s: float | None


class Concluded(Record):
    """What LoadGen concluded."""

    scenario: records.Scenario


class Profile(Record):
    """Run ``calls`` calls under the runtime's own profiler, which writes ``trace``; answered by `Profiled`."""

    do: Literal["profile"] = "profile"
    threads: int
    batch: int
    calls: int
    trace: str


class Profiled(Record):
    """What the profiler told, or the ``reason`` why this runtime cannot tell."""

    profile: records.Profile | None
    reason: str | None = None


class Finish(Record):
    """Close the engine and end; answered by `Finished`."""

    do: Literal["finish"] = "finish"


class Finished(Record):
    """The most memory that the process held while it had one engine open."""

    peak_rss_bytes: int


class Ready(Record):
    """Said unasked once the process has started and imported all that it needs."""

    ready: Literal[True] = True


class Failed(Record):
    """Said in place of any answer, just before the process ends; ``kind`` is the exception's class."""

    kind: str
    error: str


Request: TypeAlias = Load | WarmUp | Block | Check | Close | Throughput | Scenario | Profile | Finish

REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="do")])
