"""What a delivery of MLflow announces."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from slipway.records.base import Record
from slipway.triggers.signature import RefusedDeliveryError

MAX_NAME = 256  # characters, as MLflow's database has them

_Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]
_Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}$")]


class VersionCreated(Record):
    """A version of a registered model was made from ``source``."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # MLflow tells more, and will tell yet more

    name: _Name
    version: _Version
    source: str = ""

    def __str__(self) -> str:
        return f"model version {self.version} of {self.name} was registered"


class AliasSet(Record):
    """An alias of a registered model now names this version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: _Name
    alias: _Name
    version: _Version

    def __str__(self) -> str:
        return f"alias {self.alias} of {self.name} was set to version {self.version}"


class Other(Record):
    """Any other event."""

    entity: str
    action: str

    def __str__(self) -> str:
        return f"{self.entity} {self.action}"


Announcement: TypeAlias = VersionCreated | AliasSet | Other

_KINDS: dict[tuple[str, str], type[VersionCreated | AliasSet]] = {
    ("model_version", "created"): VersionCreated,
    ("model_version_alias", "created"): AliasSet,
}
# In MLflow's own spelling, for whoever creates the webhook.
EVENTS = tuple(f"{entity}.{action}" for entity, action in _KINDS)


class _Envelope(BaseModel):
    entity: Annotated[str, Field(max_length=64)]
    action: Annotated[str, Field(max_length=64)]
    data: dict[str, Any]


def read_announcement(body: bytes) -> Announcement:
    """What ``body`` announces.

    Raises:
        RefusedDeliveryError: it is no JSON, or not what MLflow sends.
    """
    try:
        envelope = _Envelope.model_validate_json(body)
        kind = _KINDS.get((envelope.entity, envelope.action))
        if kind is None:
            return Other(entity=envelope.entity, action=envelope.action)
        return kind.model_validate(envelope.data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:MAX_NAME]
        message = f"the body is not what MLflow sends: {f'{place}: ' if place else ''}{first['msg']}"
        raise RefusedDeliveryError(400, "malformed", " ".join(message.split())) from error
