"""What every record is made of: verdicts, decisions, artifacts, and the base itself."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict

from slipway.errors import NotMeasuredError, RejectedError, UnsupportedError

Option: TypeAlias = bool | int | float | str


class Verdict(StrEnum):
    """What was concluded about a candidate, a gate or a release; only PASS promotes."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
    SKIPPED = "SKIPPED"

    @property
    def exit_code(self) -> int:
        """Exit status of a command with this verdict."""
        return {"PASS": 0, "FAIL": 3, "SKIPPED": 3, "INCONCLUSIVE": 4, "ERROR": 5}[self.value]

    @classmethod
    def of_error(cls, error: BaseException) -> Verdict:
        """The verdict on a candidate whose step raised ``error``."""
        if isinstance(error, UnsupportedError):
            return cls.SKIPPED
        if isinstance(error, NotMeasuredError):
            return cls.INCONCLUSIVE
        return cls.FAIL if isinstance(error, RejectedError) else cls.ERROR


class Form(StrEnum):
    """The file form that an engine builds from."""

    PROGRAM = "program"
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"


class Record(BaseModel):
    """Base of every record: immutable, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Decision(Record):
    """A verdict with its reasons, in words and figures."""

    verdict: Verdict
    reasons: tuple[str, ...]


class Failure(Record):
    """A step that ended in a definite no (SKIPPED or FAIL) or could not be done (ERROR), with the reason."""

    step: str
    decision: Decision


class Artifact(Record):
    """Bytes in the object store: one file, or one directory of files (OpenVINO's .xml and .bin).

    ``digest`` is the sha256 of the file's bytes; of a directory, the sha256 of its sorted listing.
    """

    digest: str
    name: str
    size_bytes: int
