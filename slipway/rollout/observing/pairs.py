"""Mirrored requests: both arms' answers to the same request, joined by its id, and by it to the label."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slipway.rollout.observing.growing import Growing
from slipway.rollout.observing.traffic import ARMS, Arm
from slipway.rollout.store.rollouts import Classes

MAX_WAITING = 200_000  # requests, of about 0.7 kB each


@dataclass(slots=True)
class _Request:
    """What is known of a request: the answers, the label, and what became of them."""

    at_s: float
    answers: dict[Arm, Classes] = field(default_factory=dict)
    label: Classes | None = None
    counted: bool = False
    labelled: bool = False
    given_up: bool = False


class Pairs:
    """Compares answer with answer, and both with the label, each example once, in the order in which they meet.

    What has not met ``wait_s`` after the first of it does not any more: a label that is late by then never counts, and
    each example of a pair without one counts as missing. ``disagreed_labelled`` counts the labelled examples whose
    answers differ. Memory is bounded: of more than ``at_most`` requests the earliest wait no longer (``crowded_out``).
    Requests of one id whose answers cannot belong together are left out (``ambiguous``), as are labels of another
    number of examples than the answers (``unfit_labels``).
    """

    def __init__(self, wait_s: float, at_most: int = MAX_WAITING) -> None:
        self._wait_s, self._at_most = wait_s, at_most
        self._requests: OrderedDict[str, _Request] = OrderedDict()  # a dict finds its first key ever more slowly
        self._disagreed = Growing(np.bool_)
        self._gained = Growing(np.float64)
        self._any_label = False
        self.disagreed_labelled = self.labels_missing = 0
        self.unfit_labels = self.ambiguous = self.crowded_out = 0

    @property
    def disagreed(self) -> NDArray[np.bool_]:
        """Whether the two top-1 classes differ, of each example of each pair."""
        return self._disagreed.array()

    @property
    def gained(self) -> NDArray[np.float64] | None:
        """Correct_challenger - correct_champion of each labelled example of a pair; None while no label has come."""
        return self._gained.array() if self._any_label else None

    def answered(self, arm: Arm, request_id: str, top1: Classes, at_s: float) -> None:
        """An arm answered: the most likely class of each example."""
        request = self._known(request_id, at_s)
        if arm in request.answers:  # a repeated request is none of a second time
            if request.answers[arm] != top1 and not request.counted:
                self._give_up(request)  # the answers differ, and so may the questions
            return
        request.answers[arm] = top1
        if len(request.answers) < len(ARMS) or request.given_up:
            return
        champion, challenger = (request.answers[arm] for arm in ARMS)
        if len(champion) != len(challenger):
            self._give_up(request)
            return
        request.counted = True
        self._disagreed.extend([a != b for a, b in zip(champion, challenger, strict=True)])
        self._judge(request)

    def labelled(self, request_id: str, classes: Classes, at_s: float) -> None:
        """Somebody told which class is right for each example."""
        self._any_label = True
        request = self._known(request_id, at_s)
        if request.label is None:
            request.label = classes
            if request.counted:
                self._judge(request)

    def expire(self, now_s: float) -> None:
        """Wait no longer for what should have come by now."""
        while self._requests:
            request_id, request = next(iter(self._requests.items()))
            if request.at_s >= now_s - self._wait_s:
                return
            self._forget(request_id)

    def _known(self, request_id: str, at_s: float) -> _Request:
        request = self._requests.get(request_id)
        if request is None:
            if len(self._requests) >= self._at_most:
                self.crowded_out += 1
                self._forget(next(iter(self._requests)))
            request = self._requests[request_id] = _Request(at_s)
        return request

    def _judge(self, request: _Request) -> None:
        """Compare both answers with the label, where it has come."""
        if request.label is None:
            return
        champion, challenger = (request.answers[arm] for arm in ARMS)
        if len(request.label) != len(champion):
            self.unfit_labels += 1
            request.label = None  # it is missing, then
            return
        examples = list(zip(champion, challenger, request.label, strict=True))
        self._gained.extend([int(own == right) - int(other == right) for other, own, right in examples])
        self.disagreed_labelled += sum(other != own for other, own, _ in examples)
        request.labelled = True

    def _give_up(self, request: _Request) -> None:
        self.ambiguous += not request.given_up
        request.given_up = True

    def _forget(self, request_id: str) -> None:
        request = self._requests.pop(request_id)
        if request.counted and not request.labelled:
            self.labels_missing += len(request.answers["champion"])
