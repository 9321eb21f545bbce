"""People's decision on a registered engine: from the command line, or as a deployment in a worker's project."""

from __future__ import annotations

import contextlib
from typing import Literal

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.place import project_of_the_worker
from slipway.canary import decided, today_of
from slipway.config import load_params
from slipway.decisions.approval import Word
from slipway.errors import BadInputError
from slipway.records import Decision
from slipway.steps.promote import Today
from slipway.stores.registry import parse_model_uri
from slipway.wiring import Workshop, project_params, workshop
from tasks.promote import decide


@flow(name="promote", flow_run_name="{word} {name} version {version}")
def promote(
    name: str,
    version: str,
    word: Literal["approve", "reject"],
    reason: str,
    person: str | None = None,
    today: Today | None = None,
) -> State[Decision]:
    """Approve or reject ``version`` of the registered engine ``name``; the evidence is read and checked again.

    The run is named after the verdict. Who decided is whom MLflow has authenticated in this process; another ``person``
    is kept as a claim. ``today`` is what the word is held against (None: what the worker's project tells of the model);
    whoever starts a run of the deployment does not choose that.

    Raises:
        BadInputError: no reason is given, there is no such version, or a run of the deployment is given ``today``.
        RejectedError: MLflow refuses the change, or the champion would be rejected.
    """
    with contextlib.chdir(project_of_the_worker()):
        if not reason.strip():
            raise BadInputError(f"cannot {word} {name} version {version} without a reason; set the parameter reason")
        deployed = runtime.deployment.id is not None
        if deployed and today is not None:
            raise BadInputError(
                f"cannot {word} {name} version {version} against other data, host or terms than the worker's project "
                "has; leave out the parameter today"
            )
        shop = workshop()
        said = word_of(shop.registry.user(), person, reason, deployed=deployed)
        held_against = today or (_today(shop, name, version) if word == "approve" else Today())
        decision = decided(
            shop, name, version, word, said, lambda one: decide(shop.registry, name, version, one, said, held_against)
        )
    return Completed(name=decision.verdict.value, message="; ".join(decision.reasons), data=decision)


def word_of(user: str | None, person: str | None, reason: str, *, deployed: bool) -> Word:
    """Who says it, when ``user`` is whom MLflow has authenticated and ``person`` whom the caller names.

    A deployment is run with the account of its worker, whoever started the run: that account is nobody's own word.

    Raises:
        BadInputError: nobody is named.
    """
    if user is None:
        if not person:
            raise BadInputError(
                "cannot tell who decides: this MLflow asks nobody who they are; set the parameter person"
            )
        return Word(person=person, reason=reason)
    if person in {None, "", user}:
        return Word(person=user, reason=reason, authenticated=not deployed)
    return Word(person=f"{user} (for {person}, claimed)", reason=reason)


def _today(shop: Workshop, name: str, version: str) -> Today:
    """What the project here tells of the model, if it describes releases of it."""
    evidence = shop.registry.version(name, version).evidence
    with contextlib.suppress(KeyError):
        return today_of(load_params(project_params(shop.root)[parse_model_uri(evidence.model_uri)[0]]), evidence)
    return Today()
