"""One thing that a server should hold, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from slipway.errors import InfrastructureError, SlipwayError
from slipway.records.base import Record


class Change(StrEnum):
    """What became of a thing."""

    CREATED = "created"
    CHANGED = "changed"
    THERE = "there already"
    SKIPPED = "skipped"
    ERROR = "error"


class Told(Record):
    """What became of the thing ``name`` of ``server``, and why where that is not plain."""

    server: str
    name: str
    change: Change
    why: str = ""
    exit_code: int = 0


class Skip(Exception):  # noqa: N818 - it is no error
    """Nobody asked for this: the variable that would is not set."""


@dataclass(frozen=True)
class Thing:
    """A thing by its kind and name; ``ensure`` sees to it, and raises `Skip` or a `SlipwayError`."""

    name: str
    ensure: Callable[[], Change]


@dataclass(frozen=True)
class Side:
    """One server, its things in the order of their needs, and errors of its library in Slipway's words."""

    name: str
    things: Callable[[], Iterable[Thing]]
    in_our_words: Callable[[Exception], SlipwayError | None] = lambda _: None


def provided(side: Side) -> Iterator[Told]:
    """See to the things of ``side`` one by one; a server that is down ends them, a thing that is wrong does not."""
    things = iter(side.things())
    while True:
        name = side.name
        try:
            thing = next(things, None)
            if thing is None:
                return
            name = thing.name
            told = Told(server=side.name, name=name, change=thing.ensure())
        except Skip as skip:
            told = Told(server=side.name, name=name, change=Change.SKIPPED, why=str(skip))
        except Exception as error:
            ours = error if isinstance(error, SlipwayError) else side.in_our_words(error)
            if ours is None:
                raise
            if isinstance(ours, InfrastructureError):
                yield _failed(side, side.name, ours)
                return
            told = _failed(side, name, ours)
        yield told


def _failed(side: Side, name: str, error: SlipwayError) -> Told:
    return Told(server=side.name, name=name, change=Change.ERROR, why=str(error), exit_code=error.exit_code)


def exit_code(told: Iterable[Told]) -> int:
    """The gravest of all."""
    return max((one.exit_code for one in told), default=0)
