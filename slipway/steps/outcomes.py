"""How a step of one candidate may end: with its result, or with a definite no that is a result too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from slipway.errors import RejectedError, UnsupportedError
from slipway.records import Decision, Failure, Verdict

P = ParamSpec("P")
T = TypeVar("T")


def definite(step: Callable[P, T]) -> Callable[..., T | Failure]:
    """``step``, whose definite no (SKIPPED, FAIL) is a Failure to keep, while an ERROR still raises.

    A Failure of the step before, given as any argument, is handed on instead of running this one.
    """

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> T | Failure:
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, Failure):
                return argument
        try:
            return step(*args, **kwargs)
        except (UnsupportedError, RejectedError) as error:
            return failure(step.__name__, error)

    return run


def failure(step: str, error: BaseException) -> Failure:
    """What is recorded of ``step`` when ``error`` ended it."""
    return Failure(step=step, decision=Decision(verdict=Verdict.of_error(error), reasons=(str(error),)))
