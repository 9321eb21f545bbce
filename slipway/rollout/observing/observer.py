"""What a rollout's decisions are made on: the logs of the splitter and of both servers, and the labels, as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Protocol, Self

import orjson

from slipway.config import CanaryParams
from slipway.decisions.canary import Seen
from slipway.errors import InfrastructureError
from slipway.records.rollout import Phase, Rollout
from slipway.rollout.observing.log_tail import LogTail
from slipway.rollout.observing.pairs import Pairs
from slipway.rollout.observing.traffic import ARMS, Arm, Traffic, routed
from slipway.rollout.store.rollouts import Classes, Label

MINUTE_SECONDS = 60.0

Told = tuple[float, Arm | None, str, Classes]
"""At what time, which arm answered (None: a person labelled), which request, and with which class of each example."""


class Labels(Protocol):
    """Where labels come from."""

    def labels_after(self, name: str, number: int, since_s: float) -> list[Label]:
        """The labels for ``name`` that came after the one of this number, and not before ``since_s``; in order."""
        ...


@dataclass(frozen=True)
class Logs:
    """Where the access logs are: the splitter's, and those of the two servers."""

    splitter: Path
    champion: Path
    challenger: Path


class Observer:
    """Sees all that happened since ``rollout`` began, at each look only what is new; a context manager.

    A new one, of a controller that resumes, reads the logs anew and comes to the same. Of the servers' logs only the
    lines of the rollout's two engines count, by their digests; of every log only what came since the rollout began.
    """

    def __init__(self, rollout: Rollout, logs: Logs, labels: Labels) -> None:
        policy = CanaryParams.model_validate_json(rollout.policy_json)
        self._rollout, self._labels, self._shadow = rollout, labels, policy.shadow
        self._splitter = LogTail(logs.splitter, rollout.started_s)
        self._servers: dict[Arm, LogTail] = {
            "champion": LogTail(logs.champion, rollout.started_s),
            "challenger": LogTail(logs.challenger, rollout.started_s),
        }
        self._digests: dict[Arm, str] = {"champion": rollout.champion.digest, "challenger": rollout.challenger.digest}
        self._traffic = Traffic((min(policy.steps, default=50), max(policy.steps, default=50)))
        self._pairs = Pairs(policy.label_minutes * MINUTE_SECONDS)
        self._last_label = 0
        self._reopened_s: float | None = None
        self._labels_failed = False
        self._unreadable = {tail.path: 0 for tail in self._tails}
        self._without_classes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the logs."""
        for tail in self._tails:
            tail.close()

    def observe(self, rollout: Rollout, now_s: float) -> Seen:
        """All that was seen until now (seconds since 1970) of the rollout, which stands as told.

        Raises:
            InfrastructureError: a log cannot be read.
        """
        self._join(self._new_labels())
        self._pairs.expire(now_s)
        self._read_splitter(rollout.phase_since_s if rollout.phase is Phase.PROMOTED else None)
        return Seen(
            champion_ms=self._traffic.latencies_ms("champion"),
            challenger_ms=self._traffic.latencies_ms("challenger"),
            champion_errors=self._traffic.errors["champion"],
            challenger_errors=self._traffic.errors["challenger"],
            disagreed=self._pairs.disagreed if self._shadow else None,
            gained=self._pairs.gained if self._shadow else None,
            labels_missing=self._pairs.labels_missing,
            disagreed_labelled=self._pairs.disagreed_labelled if self._shadow else None,
            baked_ms=self._traffic.baked_ms,
            champion_refused=self._traffic.refused["champion"],
            challenger_refused=self._traffic.refused["challenger"],
            outcomes=self._traffic.outcomes,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out so far, and why, in words and figures."""
        too_long = {tail.path: tail.too_long for tail in self._tails}
        left, pairs = self._traffic.left, self._pairs
        counted = [(count + too_long[path], f"unreadable lines in {path}") for path, count in self._unreadable.items()]
        counted += [(left[arm], f"clients of the {arm} left before the answer") for arm in ARMS]
        counted += [
            (self._without_classes, "answers without the classes that could be compared"),
            (pairs.ambiguous, "request ids whose answers cannot belong together"),
            (pairs.unfit_labels, "labels of another number of examples than the answers"),
            (pairs.crowded_out, "requests too many to wait for"),
        ]
        failed = ("the store of labels is out of reach",) if self._labels_failed else ()
        return failed + tuple(f"{count:,} {what}" for count, what in counted if count)

    @property
    def _tails(self) -> tuple[LogTail, ...]:
        return (self._splitter, *self._servers.values())

    def _new_labels(self) -> list[Label]:
        """None where the store is out of reach: latencies and errors need no label to roll back."""
        began = self._rollout
        try:
            labels = self._labels.labels_after(began.name, self._last_label, began.started_s)
        except InfrastructureError:
            self._labels_failed = True
            return []
        self._labels_failed = False
        if labels:
            self._last_label = labels[-1].number
        return labels

    def _read_splitter(self, promoted_s: float | None) -> None:
        for line in self._splitter.lines():
            try:
                request = routed(line)
            except ValueError:
                self._unreadable[self._splitter.path] += 1
                continue
            if request is None or request.start_s < self._rollout.started_s:
                continue
            if promoted_s is None or request.start_s < promoted_s:
                self._traffic.add(request)
            elif request.asked == "challenger" or self._champion_opened_it(request.start_s):
                self._traffic.bake(request)

    def _champion_opened_it(self, at_s: float) -> bool:
        """Whether the champion's server had opened the challenger's engine by then, as its log tells."""
        return self._reopened_s is not None and self._reopened_s <= at_s

    def _join(self, labels: list[Label]) -> None:
        """Take answers and labels in the order of their times: so a new reading of all ends as the many small ones."""
        labelled: list[Told] = [(label.at_s, None, label.request_id, label.classes) for label in labels]
        for at_s, arm, request_id, classes in merge(*map(self._answers, ARMS), labelled, key=itemgetter(0)):
            self._pairs.expire(at_s)
            if arm is None:
                self._pairs.labelled(request_id, classes, at_s)
            else:
                self._pairs.answered(arm, request_id, classes, at_s)

    def _answers(self, arm: Arm) -> Iterator[Told]:
        tail = self._servers[arm]
        for line in tail.lines():
            try:
                at_s, digest, request_id, classes = _served(line)
            except ValueError:
                self._unreadable[tail.path] += 1
                continue
            if arm == "champion" and digest == self._digests["challenger"] and self._reopened_s is None:
                self._reopened_s = at_s
            if digest != self._digests[arm] or at_s < self._rollout.started_s or request_id is None:
                continue
            if classes is None:
                self._without_classes += 1
            else:
                yield at_s, arm, request_id, classes


def _served(line: bytes) -> tuple[float, str, str | None, Classes | None]:
    """Time, digest, request and classes of a line of a server's access log.

    Raises:
        ValueError: the line is not one that `slipway serve` writes.
    """
    entry = orjson.loads(line)
    if not isinstance(entry, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one kind of error for all that is wrong with a line
    at_s, digest, request_id, top1 = (entry.get(key) for key in ("time", "digest", "request_id", "top1"))
    classes = None if top1 is None else tuple(top1) if isinstance(top1, list) else (top1,)
    if (
        not isinstance(at_s, int | float)
        or not isinstance(digest, str)
        or not isinstance(request_id, str | None)
        or not all(type(one) is int for one in classes or ())
    ):
        raise ValueError("not what was agreed on")
    return at_s, digest, request_id, classes
