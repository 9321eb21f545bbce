"""The border to MLflow: imported quietly, and what it raises told in Slipway's own words."""

from __future__ import annotations

import functools
import logging
import os
import re
import warnings
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from slipway.errors import BadInputError, InfrastructureError, RejectedError, SlipwayError

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results: with --json, one object
}
# How often MLflow's client sends a request again while a server is down: 5 times within about a minute, which lets one
# start anew. Its own 7 times take four minutes for each request.
RETRIES_VARIABLE, RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5"

# What the client says of a server that takes requests and cannot pass a file on.
_FILES_REFUSED = re.compile(
    r"/mlflow-artifacts/\S*?(?P<file>[^/\s]+)\s.*(?P<answer>too many 5\d\d error responses|5\d\d Server Error)"
)

P = ParamSpec("P")
R = TypeVar("R")


class Bordered(Protocol):
    """What ``at_border`` needs of its object."""

    @property
    def tracking_uri(self) -> str:
        """The store that messages name."""
        ...


S = TypeVar("S", bound=Bordered)


def at_border(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Turn what MLflow and its database raise inside ``method`` into one of Slipway's errors, in one line."""

    @functools.wraps(method)
    def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        import_mlflow()
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return method(self, *args, **kwargs)
        except SlipwayError:
            raise
        except (MlflowException, RequestException, SQLAlchemyError, ImportError, OSError) as error:
            names = [word for word in args if isinstance(word, str)][:2]
            asked = " ".join([method.__name__.strip("_").replace("_", " "), *names])
            raise _translated(error, self.tracking_uri, asked) from error

    return wrapped


def _translated(error: Exception, uri: str, asked: str) -> SlipwayError:
    store = f"MLflow at {without_password(uri)}"
    told_whole = without_password(" ".join(str(error).split()))
    told = told_whole[:400]  # cut last: half an address would show its password
    text, code = f"{store}: {told}", _code(error)
    if code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
        return BadInputError(f"{text}; check the name, the version and MLFLOW_TRACKING_URI")
    if code == "PERMISSION_DENIED":
        answer = re.search("Response body: '(.+)'$", told)
        return RejectedError(
            f"{store} does not let {_asker() or 'you'} do this ({asked}): {answer[1] if answer else told}; "
            "ask for EDIT permission on the model or experiment, or set MLFLOW_TRACKING_USERNAME to somebody who has it"
        )
    if code in {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}:
        asker = _asker()
        refused = "asks who you are" if asker is None else f"does not accept {asker} with this password"
        return BadInputError(f"{store} {refused}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    if isinstance(error, ImportError):
        return BadInputError(f"{text}; install the driver of this database")
    if without_files := _FILES_REFUSED.search(told_whole):
        return InfrastructureError(
            f"{store} answers, but the store of its files does not ({asked}, {without_files['file']}: "
            f"{without_files['answer']}); check that its S3 is up, and look at the server's log"
        )
    return InfrastructureError(f"{text}; check that the store is up and MLFLOW_TRACKING_URI is right")


def _code(error: Exception) -> str | None:
    """MLflow's code for the error; a refused transfer of a file it leaves in the words of ``requests``."""
    if refused := re.search(r"\b(401|403) Client Error\b", str(error)):
        return {"401": "UNAUTHENTICATED", "403": "PERMISSION_DENIED"}[refused[1]]
    return getattr(error, "error_code", None)


def _asker() -> str | None:
    """The user name that MLflow is given."""
    from mlflow.utils.credentials import read_mlflow_creds

    return read_mlflow_creds().username or None


def without_password(text: str) -> str:
    """The text with a password in an address replaced."""
    return re.sub(r"(?<=://)([^/@:\s]*):[^/\s]*@", r"\1:***@", text)


@functools.cache
def import_mlflow() -> None:
    """Import MLflow with telemetry, progress bars and INFO logs off, and no more patience than is told above."""
    os.environ.update(QUIET)
    os.environ.setdefault(RETRIES_VARIABLE, RETRIES)
    with warnings.catch_warnings():
        # MLflow's own classes carry hints that its own check warns about, at import.
        warnings.filterwarnings("ignore", r".*type hint is inferred as AnyType", UserWarning)
        import mlflow.pyfunc  # noqa: F401 - for its effect

    logging.getLogger("mlflow").setLevel(logging.WARNING)
