"""PostgreSQL that goes down in the middle of a rollout, and comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from slipway.errors import BadInputError, InfrastructureError
from slipway.rollout.dead_man import DEAD_MAN_EVENT, return_if_silent
from slipway.rollout.store.lease import this_process
from slipway.rollout.store.rollouts import RolloutStore
from tests.contract.rollout_state.postgres import PASSWORD, Postgres
from tests.fakes.splitter import FakeSplitter
from tests.unit.rollout.states import NAME, policy_json, progressing, rollout

pytestmark = pytest.mark.integration


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def test_a_controller_goes_on_with_its_lease_after_a_restart(own_postgres: Postgres) -> None:
    store = RolloutStore(own_postgres.url())
    with store.lease(NAME, this_process(), 600) as lease:
        store.save(rollout())
        own_postgres.stop()
        for fails in (lease.renew, lambda: store.save(progressing()), lambda: store.latest(NAME)):
            with pytest.raises(InfrastructureError, match="check that the server is up and") as told:
                fails()
            assert PASSWORD not in str(told.value)
        own_postgres.start()
        lease.renew()
        store.save(progressing())

    assert store.history("r1") == [rollout(), progressing()]


def test_the_dead_man_acts_while_the_database_is_down_and_tells_it_when_it_is_back(own_postgres: Postgres) -> None:
    store, splitter = RolloutStore(own_postgres.url()), FakeSplitter()
    splitter.set_share(25)
    state = progressing(policy_json=policy_json(dead_man_seconds=10))
    store.save(state)
    now_s = time.time()
    assert not return_if_silent(store, splitter, NAME, now_s)

    own_postgres.stop()
    assert not return_if_silent(store, splitter, NAME, now_s + 5)
    assert splitter.share() == 25
    assert return_if_silent(store, splitter, NAME, now_s + 20)
    assert splitter.share() == 0

    own_postgres.start()
    with store.lease(NAME, this_process(), 600):
        assert not return_if_silent(store, splitter, NAME, time.time())
    (event,) = store.events("r1")
    assert event.kind == DEAD_MAN_EVENT


def test_a_wrong_password_is_told_without_it(postgres: Postgres) -> None:
    url = postgres.url().replace("s3cret", "wr0ng")

    with pytest.raises(InfrastructureError, match="password authentication failed") as told:
        RolloutStore(url).latest(NAME)

    assert "wr0ng" not in str(told.value)
    assert "owner:***@127.0.0.1" in str(told.value)


def test_a_password_among_the_options_is_not_told_either(postgres: Postgres) -> None:
    place = postgres.url().partition("@")[2]

    with pytest.raises(InfrastructureError) as told:
        RolloutStore(f"postgresql://{place}?user=owner&password=wr0ng").latest(NAME)

    assert "wr0ng" not in str(told.value)


def test_a_database_that_is_not_there_is_told(postgres: Postgres) -> None:
    with pytest.raises(InfrastructureError, match='database "nowhere" does not exist'):
        RolloutStore(postgres.url("nowhere")).latest(NAME)


def test_other_databases_are_bad_input() -> None:
    with pytest.raises(BadInputError, match="rollouts cannot be kept in 'mysql'"):
        RolloutStore("mysql://owner:wr0ng@host/db")
