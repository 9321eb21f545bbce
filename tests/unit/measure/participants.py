"""Participants of test sessions, which run `stand_in_worker`, and whether they are gone."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass

import psutil

from slipway.measure.plan import Participant


@dataclass(frozen=True)
class Behaviour:
    """What a stand-in engine does per call; calls are counted from 1 over the life of its process.

    With ``slower_openings``, every second engine that it opens spins half as long again, as if memory lay worse.
    """

    spins: int = 0
    sleep_seconds: float = 0.0
    slows_by: float = 0.0
    hiccup_every: int = 0
    hiccup_seconds: float = 0.0
    dies_at: int = 0
    hangs_at: int = 0
    unsupported: bool = False
    profiled: bool = True
    slower_openings: bool = False
    stumbles: bool = False
    journal: str = ""


def stand_in(name: str, behaviour: Behaviour) -> Participant:
    command = (sys.executable, "-m", "tests.unit.measure.stand_in_worker", json.dumps(asdict(behaviour)))
    return Participant(name=name, argv=command)


def gone(pid: int, within_seconds: float = 5) -> bool:
    """Whether a process has ended; a killed one takes a moment, and one that nobody waits for stays a zombie."""
    end = time.monotonic() + within_seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False
