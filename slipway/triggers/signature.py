"""Who sent a delivery, and when: MLflow's signature, as its `mlflow/webhooks/delivery.py` makes it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping

from slipway.errors import BadInputError, SlipwayError

SECRET_VARIABLE = "SLIPWAY_WEBHOOK_SECRET"  # noqa: S105 - the variable's name
SIGNATURE, TIMESTAMP, DELIVERY_ID = "X-MLflow-Signature", "X-MLflow-Timestamp", "X-MLflow-Delivery-Id"
WINDOW_SECONDS = 300.0

_SCHEME = "v1"
_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_SECONDS = re.compile(r"[0-9]{1,12}")


class RefusedDeliveryError(SlipwayError):
    """A delivery that is not taken, with the HTTP ``status`` that says why, and the ``outcome`` it is counted under."""

    def __init__(self, status: int, outcome: str, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status, self.outcome, self.retry_after_seconds = status, outcome, retry_after_seconds


def secret_from(environment: Mapping[str, str]) -> str:
    """The secret that MLflow's webhook was created with.

    Raises:
        BadInputError: it is not set.
    """
    secret = environment.get(SECRET_VARIABLE, "")
    if not secret:
        raise BadInputError(
            f"{SECRET_VARIABLE} is not set, so nobody's deliveries could be told from MLflow's; set it to the secret "
            "that MLflow's webhook has, a long random one"
        )
    return secret


def signature(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
    """What MLflow writes into its signature header."""
    content = f"{delivery_id}.{timestamp}.".encode() + body
    return f"{_SCHEME},{base64.b64encode(hmac.new(secret.encode(), content, hashlib.sha256).digest()).decode()}"


def checked_delivery_id(
    headers: Mapping[str, str], body: bytes, secret: str, now_s: float, window_s: float = WINDOW_SECONDS
) -> str:
    """The id of a delivery that was signed with ``secret``, within ``window_s`` of ``now_s`` either way.

    ``headers`` are found by their names in any case, as Starlette's are.

    Raises:
        RefusedDeliveryError: it is not signed, signed with another secret, or too old or too new; 400 for an id that
            MLflow would not give.
    """
    given, timestamp, delivery_id = (headers.get(name, "") for name in (SIGNATURE, TIMESTAMP, DELIVERY_ID))
    missing = [name for name in (SIGNATURE, TIMESTAMP, DELIVERY_ID) if not headers.get(name)]
    if missing:
        message = f"not signed: no {', '.join(missing)}; create MLflow's webhook with a secret"
        raise RefusedDeliveryError(401, "unsigned", message)
    if not _ID.fullmatch(delivery_id) or not _SECONDS.fullmatch(timestamp):
        message = f"{DELIVERY_ID} is up to 128 letters, digits and dashes, {TIMESTAMP} seconds since 1970"
        raise RefusedDeliveryError(400, "malformed", message)
    # As bytes: a header may hold what is no ASCII, which compare_digest refuses in text. Several signatures, parted by
    # spaces, are what a sender gives while its secret changes.
    expected = signature(secret, delivery_id, timestamp, body).encode()
    matches = [hmac.compare_digest(one.encode("utf-8", "replace"), expected) for one in given.split(" ")[:4]]
    if not any(matches):
        message = f"the signature is not by this secret; give MLflow's webhook and {SECRET_VARIABLE} the same one"
        raise RefusedDeliveryError(401, "wrong signature", message)
    age_s = now_s - int(timestamp)
    if abs(age_s) > window_s:
        side = f"{age_s:.0f} s old" if age_s > 0 else f"{-age_s:.0f} s ahead of this host's clock"
        message = f"the delivery is {side}, {window_s:.0f} s are allowed; keep the clocks of both hosts in step"
        raise RefusedDeliveryError(401, "stale", message)
    return delivery_id
