"""Engines whose builds sleep, and tell a journal when: a build costs time and next to no CPU.

They build for hardware that is not here, as `tensorrt-rtx` does on a host without a GPU: nothing is run, nor timed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Session, Settings
from slipway.errors import UnsupportedError
from slipway.records import Form, Option, Profile

COUNT = 25
NAMES = tuple(f"nap-{number:02}" for number in range(COUNT))
BEGUN, ENDED = "begun", "ended"
NOT_HERE = "its files are for hardware that is not here"
# In every process of a worker, `slipway.engines` has them from its import on.
REGISTRATION = f"""\
import importlib.util
import sys


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "slipway.engines":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            module.ENGINES.update({{name: "{__name__}:" + name.replace("-", "_") for name in {NAMES!r}}})

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""


class NappingSettings(Settings):
    """How long a build of ``candidate`` sleeps, in seconds, and the file that it tells."""

    candidate: str
    seconds: float
    journal: Path


class Entry(NamedTuple):
    """What a build told: on the clock of the host, which all its processes share."""

    event: str
    candidate: str
    pid: int
    at_seconds: float


class NappingEngine:
    """Sleeps, and writes its candidate's name as the engine file."""

    name: ClassVar[str]
    form: ClassVar[Form] = Form.PROGRAM
    suffix: ClassVar[str] = ".nap"
    refused: ClassVar[Mapping[str, str]] = {}
    settings: ClassVar[type[Settings]] = NappingSettings

    def availability(self) -> Availability:
        """That it builds everywhere and runs nowhere."""
        return Availability(engine=self.name, available=True, version="1", reason=NOT_HERE, extra=None, runs=False)

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Sleep for the time that is set; the file is another one for each candidate."""
        settings = NappingSettings.model_validate(options.settings)
        _tell(settings, BEGUN)
        time.sleep(settings.seconds)
        out.write_text(settings.candidate, encoding="utf-8")
        _tell(settings, ENDED)
        return {}

    def load(self, path: Path, options: RunOptions) -> Session:
        """Refuse.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(NOT_HERE)

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """Refuse.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(NOT_HERE)


def __getattr__(name: str) -> Any:
    """The class of one of the engines."""
    if (found := name.replace("_", "-")) in NAMES:
        return type(name, (NappingEngine,), {"name": found})
    raise AttributeError(name)


def _tell(settings: NappingSettings, event: str) -> None:
    line = json.dumps(Entry(event, settings.candidate, os.getpid(), time.monotonic())) + "\n"
    journal = os.open(settings.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(journal, line.encode())  # at once: lines of several processes do not mix
    finally:
        os.close(journal)


def read_journal(path: Path) -> list[Entry]:
    """What builds told so far, in this order."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Entry(*json.loads(line)) for line in lines]


def write_registration(folder: Path) -> None:
    """Make ``folder`` one that brings the engines to each Python process which has it in PYTHONPATH."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(REGISTRATION, encoding="utf-8")
