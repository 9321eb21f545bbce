"""Which servers are meant: those that the environment names, else those of `python -m infra.stack up`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from slipway.errors import BadInputError

FILES = (Path(".slipway/stack/environment"), Path(".slipway/stack/admin"))
ADDRESSES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL")


def stack_settings(root: Path) -> dict[str, str]:
    """The variables of the services that `python -m infra.stack up` started in ``root``; none where it did not.

    Raises:
        BadInputError: a file of settings cannot be read.
    """
    found: dict[str, str] = {}
    for file in FILES:
        try:
            lines = (root / file).read_text(encoding="utf-8").splitlines()
            words = [word for line in lines for word in shlex.split(line, comments=True)]
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise BadInputError(f"cannot read {root / file}: {error}; run `make stack` again") from error
        found |= dict(word.split("=", 1) for word in words if "=" in word)
    return found


def adopted(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Those settings that ``environment`` lacks; none if it names another server, which must not see their keys."""
    if any(environment.get(name, settings.get(name)) != settings.get(name) for name in ADDRESSES):
        return {}
    return {name: value for name, value in settings.items() if name not in environment}
