"""What a timing session and its worker processes say to each other: one JSON object per line."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, PositiveInt, TypeAdapter

from slipway.records import Record


class Load(Record):
    """Open the engine with ``threads``, in place of what was open, and prepare a batch; answered by `Loaded`."""

    do: Literal["load"] = "load"
    threads: int
    batch: int


class Loaded(Record):
    """How long opening took, without process start and imports."""

    load_seconds: float


class WarmUp(Record):
    """Call until latency settles; answered by `Settled`."""

    do: Literal["warm_up"] = "warm_up"
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


class Throughput(Record):
    """Call with ``batch`` examples for about ``seconds``; answered by `Rate`."""

    do: Literal["throughput"] = "throughput"
    batch: int
    seconds: float


class Rate(Record):
    """Examples per second, call after call."""

    examples_per_s: float


class Check(Record):
    """Answer the batch that is timed; answered by `Outputs`."""

    do: Literal["check"] = "check"


class Outputs(Record):
    """The outputs by name: npz in base64."""

    npz: str


class Finish(Record):
    """Close the engine and end; answered by `Finished`."""

    do: Literal["finish"] = "finish"


class Finished(Record):
    """The most memory that the process ever held."""

    peak_rss_bytes: int


class Ready(Record):
    """Said unasked once the process has started and imported all that it needs."""

    ready: Literal[True] = True


class Failed(Record):
    """Said in place of any answer, just before the process ends; ``kind`` is the exception's class."""

    kind: str
    error: str


Request: TypeAlias = Load | WarmUp | Block | Throughput | Check | Finish

REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="do")])
