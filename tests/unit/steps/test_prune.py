from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from slipway.decisions.retention import Version
from slipway.errors import BadInputError
from slipway.steps.promote import promote
from slipway.steps.prune import Plan, carry_out, plans
from slipway.steps.publish_bundle import publish_bundle
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import DECISION_TAG, DIGEST_TAG
from slipway.stores.s3_bundles import BundleStore
from slipway.stores.s3_connection import S3Place
from tests.fakes.evidence import DATA_MD5
from tests.fakes.registry import FakeRegistry
from tests.fakes.s3 import FakeS3
from tests.unit.steps.registered import register_engine

AGO = timedelta(hours=2)


class Site:
    """A registry and an S3 in memory, and bundles of engines that all were champion once, two hours ago."""

    def __init__(self, folder: Path) -> None:
        self.registry = FakeRegistry()
        self.s3, self._folder = FakeS3("bucket"), folder
        self.store = BundleStore(self.s3, S3Place("bucket", "engines"), folder / "journal")

    def versions(self, name: str) -> list[Version]:
        """As `RegisteredVersions` reads them from MLflow, which the integration tests do."""
        aliases = self.registry.aliases(name)
        held = enumerate(self.registry.models[name].versions, start=1)
        return [
            Version(
                number,
                one.tags[DIGEST_TAG],
                tuple(alias for alias, of in aliases.items() if of == str(number)),
                one.tags.get(DECISION_TAG),
            )
            for number, one in held
        ]

    def publish(self, content: str, name: str = "digits.x86", ago: timedelta = AGO) -> str:
        """The digest of the next champion, published."""
        engine = register_engine(self.registry, self._folder, name, content.encode())
        promote(self.registry, name, engine.version, DATA_MD5)
        self.s3.ahead = -ago
        model, target = name.split(".")
        publish_bundle(self.registry, ObjectStore(self._folder / "objects"), model, target, "champion", self.store)
        self.s3.ahead = timedelta()
        return engine.digest

    def plan(self, keep: int = 1) -> Plan:
        (plan,) = plans(self.store, self.versions, "digits", None, keep)
        return plan

    def published(self) -> set[str]:
        return {one.digest for one in self.store.bundles("digits", "x86")}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_plan_deletes_nothing_and_carried_out_it_deletes_what_goes(site: Site) -> None:
    first, second, third = (site.publish(content) for content in ("one", "two", "three"))

    plan = site.plan()

    assert [one.digest for one in plan.retention.gone] == [first]
    assert site.published() == {first, second, third}
    assert "delete_objects" not in site.s3.called
    assert [one.digest for one in carry_out(plan, site.store, site.versions, keep=1)] == [first]
    assert site.published() == {second, third}
    assert site.plan().retention.gone == ()
    # MLflow keeps it, so it can be published again.
    assert site.registry.version("digits.x86", "1").digest == first


def test_an_alias_that_moves_meanwhile_saves_its_bundle(site: Site) -> None:
    first, second, third = (site.publish(content) for content in ("one", "two", "three"))
    plan = site.plan()
    site.registry.set_challenger("digits.x86", "1")

    assert carry_out(plan, site.store, site.versions, keep=1) == []
    assert site.published() == {first, second, third}


def test_a_publication_that_is_completed_meanwhile_stays_whole(site: Site) -> None:
    """What was cut short a day ago may be gone on with between the plan and the deletion."""
    digest = site.publish("one", ago=timedelta(hours=25))
    objects = site.s3.buckets["bucket"]
    manifest = f"engines/digits/x86/{digest}/manifest.json"
    completed = objects.pop(manifest)
    plan = site.plan()
    assert [one.digest for one in plan.retention.gone] == [digest]
    objects[manifest] = completed
    before = dict(objects)

    assert carry_out(plan, site.store, site.versions, keep=1) == []
    assert objects == before


def test_what_any_alias_names_stays(site: Site) -> None:
    first, second, third = (site.publish(content) for content in ("one", "two", "three"))
    site.registry.models["digits.x86"].aliases["edge"] = "1"

    assert site.plan(keep=0).retention.gone == ()
    assert site.published() == {first, second, third}


def test_an_upload_is_dropped_once_nobody_went_on_with_it_for_a_day(site: Site) -> None:
    digest = site.publish("one")
    key = f"engines/digits/x86/{digest}/engine/engine.onnx"
    for ago in (timedelta(hours=23), timedelta(hours=25)):
        site.s3.ahead = -ago
        site.s3.create_multipart_upload(Bucket="bucket", Key=key)
    site.s3.ahead = timedelta()

    plan = site.plan()

    assert [round(one.age_seconds / 3600) for one in plan.abandoned] == [25]
    carry_out(plan, site.store, site.versions, keep=1)
    assert len(site.s3.uploads) == 1


def test_a_bundle_that_was_just_published_stays(site: Site) -> None:
    young = [site.publish(content, ago=timedelta()) for content in ("one", "two", "three")]

    assert {one.digest for one in site.plan(keep=0).retention.kept} == set(young)


def test_all_of_a_place_in_which_nothing_is_published_yet_is_nothing(site: Site) -> None:
    assert plans(site.store, site.versions, None, None, keep=1) == []


def test_all_means_every_model_that_is_published(site: Site) -> None:
    site.publish("one")
    site.publish("one", name="fashion.arm")

    found = plans(site.store, site.versions, None, None, keep=1)

    assert [(plan.name, plan.target) for plan in found] == [("digits", "x86"), ("fashion", "arm")]


@pytest.mark.parametrize(
    ("name", "target", "keep", "message"),
    [
        (
            "digit",
            None,
            1,
            r"^nothing is published in s3://bucket/engines of digit on any target; published: digits\.x86$",
        ),
        (
            "digits",
            "arm",
            1,
            r"^nothing is published in s3://bucket/engines of digits on target arm; published: digits",
        ),
        ("digits", None, -1, "^--keep -1: keep none or more"),
    ],
)
def test_a_wrong_question_is_told(site: Site, name: str, target: str | None, keep: int, message: str) -> None:
    site.publish("one")

    with pytest.raises(BadInputError, match=message):
        plans(site.store, site.versions, name, target, keep)


def test_bundles_of_a_model_that_is_not_registered_are_no_ones_to_delete(site: Site) -> None:
    site.publish("one")
    site.s3.buckets["bucket"] = {
        key.replace("/digits/", "/others/"): found for key, found in site.s3.buckets["bucket"].items()
    }

    with pytest.raises(BadInputError, match=r"others"):
        plans(site.store, site.versions, None, None, keep=1)
