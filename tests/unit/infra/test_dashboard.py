"""Every figure on the dashboard and in the alerts is one that Slipway's servers expose, with the labels asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from slipway.cli.status_server import metrics as rollout_metrics
from slipway.measure.input_summary import InputDraw
from slipway.records import InputSummaries, Phase
from slipway.serving.answering.drift import InputWatch
from slipway.serving.http.metrics import Metrics
from slipway.triggers.deliveries import Standing
from slipway.triggers.metrics import Figures
from tests.unit.rollout.rollouts import looked

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "infra" / "prometheus"
GRAFANA = ROOT / "infra" / "grafana"
BOARD = json.loads((GRAFANA / "dashboards" / "slipway.json").read_text(encoding="utf-8"))
RULES = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
SCRAPES = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
BY_PROMETHEUS = {"job", "instance"}
SELECTOR = re.compile(r"\b(slipway[_:][\w:]+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\b(?:by|group_left|on) \(([^)]*)\)")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')


class Query(NamedTuple):
    """An expression, and the labels that its legend or its message names."""

    expression: str
    told: frozenset[str]


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """The labels of every sample that the servers, the rollouts and the receiver expose, by its name."""
    found: dict[str, set[str]] = {}
    for text in (_serving(), rollout_metrics([looked(300)]), _receiver()):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def _serving() -> str:
    pixels = np.random.default_rng(0).random((300, 4), np.float32)
    draw = InputDraw()
    draw.add(pixels)
    watch = InputWatch(InputSummaries(source="calibration", md5="d" * 32, inputs=(draw.summary("image"),)))
    watch.saw({"image": pixels})
    model: Any = SimpleNamespace(name="digits.x86", version="1", digest="d" * 64, watch=watch)
    figures = Metrics()
    figures.answered(model, 0.001, 0.0001, 1)
    figures.failed(model.name, "engine")
    figures.in_flight({model.name: 1})
    figures.swapped(model.name, "swapped")
    figures.watch_inputs(lambda: [model])
    return figures.exposed(0).decode()


def _receiver() -> str:
    figures = Figures(lambda: Standing(pending=1, oldest_s=1.0, last_s=1.0))
    figures.came("accepted")
    figures.handed_over(1.0)
    figures.prefect(reachable=True)
    return figures.exposed().decode()


def wrong(query: Query, exposed: dict[str, set[str]]) -> Iterator[str]:
    """What a query asks that nobody exposes."""
    labels = set(BY_PROMETHEUS)
    for name, matchers in SELECTOR.findall(query.expression):
        if name not in exposed:
            if name not in RECORDED:
                yield f"nobody exposes {name}"
            continue
        labels |= exposed[name]
        yield from (f"{name} has no label {one}" for one in MATCHER.findall(matchers) if one not in labels)
    groups = GROUPED.findall(query.expression)
    grouped = {label.strip() for group in groups for label in group.split(",") if label.strip()}
    yield from (f"grouped by {one}, which no figure has" for one in grouped - labels)
    left = grouped if "by (" in query.expression else labels
    yield from (f"the legend names {one}, which is not left" for one in query.told - left)


def on_the_board() -> Iterator[Query]:
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            legend = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            yield Query(target["expr"], legend)
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            yield Query(f"sum by ({label}) ({metric})", frozenset({label}))
    yield from (Query(one["expr"], frozenset()) for one in BOARD["annotations"]["list"])


def in_the_alerts() -> Iterator[Query]:
    for rule in RULES:
        told = "".join(rule.get("annotations", {}).values())
        yield Query(rule["expr"], frozenset(re.findall(r"\$labels\.(\w+)", told)))


@pytest.mark.parametrize("query", [*on_the_board(), *in_the_alerts()], ids=lambda query: query.expression)
def test_every_figure_is_exposed_with_its_labels(query: Query, exposed: dict[str, set[str]]) -> None:
    if "slipway:errors:share5m" in query.expression:  # recorded by model
        query = query._replace(expression=query.expression + " by (model) slipway_errors_total")
    assert list(wrong(query, exposed)) == []


@pytest.mark.parametrize(
    ("expression", "told", "because"),
    [
        ("slipway_request_second_count", (), "nobody exposes slipway_request_second_count"),
        ('slipway_in_flight{version="1"}', (), "slipway_in_flight has no label version"),
        ("sum by (engine) (slipway_in_flight)", (), "grouped by engine, which no figure has"),
        ("sum by (model) (slipway_swaps_total)", ("outcome",), "the legend names outcome, which is not left"),
        ("slipway:unheard", (), "nobody exposes slipway:unheard"),
    ],
)
def test_a_figure_that_is_not_there_is_found(
    expression: str, told: tuple[str, ...], because: str, exposed: dict[str, set[str]]
) -> None:
    assert list(wrong(Query(expression, frozenset(told)), exposed)) == [because]


def test_every_figure_of_the_receiver_and_of_drift_is_on_the_board(exposed: dict[str, set[str]]) -> None:
    shown = {name for query in on_the_board() for name, _ in SELECTOR.findall(query.expression)}
    wanted = {name for name in exposed if re.match(r"slipway_(webhook|input)_", name)}
    parts = {name for name in wanted if name.endswith(("_created", "_count", "_sum"))}
    assert wanted - parts - shown == set()


def test_an_alert_names_only_phases_that_there_are() -> None:
    asked = [text for rule in RULES for text in re.findall(r'phase=~?"([^"]+)"', rule["expr"])]
    named = {phase for text in asked for phase in text.split("|")}
    assert named
    assert named <= {str(phase) for phase in Phase}


def test_an_alert_counts_the_causes_that_are_the_servers_own() -> None:
    """Those that are answered with 500 and above."""
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "slipway" / "serving").rglob("*.py"))
    own = set(re.findall(r'(?:RefusedError\(|_failed\(request, model, start, )5\d\d, "([^"]+)"', source))
    assert own >= {"engine", "overload"}
    counted = {text for rule in RULES for text in re.findall(r'cause=~"([^"]+)"', rule["expr"])}
    assert [set(text.split("|")) for text in counted] == [own]


def test_every_panel_has_a_place_of_its_own() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_the_board_finds_the_data_source_and_grafana_the_board() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/slipway.yaml").read_text())["providers"]
    grafana = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())["services"]["grafana"]

    (chosen,) = [one for one in BOARD["templating"]["list"] if one["type"] == "datasource"]
    assert chosen["current"]["value"] == source["uid"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (GRAFANA / "dashboards" / home.name).is_file()


def test_every_job_that_an_alert_watches_is_scraped() -> None:
    jobs = {one["job_name"] for one in SCRAPES}
    assert {job for rule in RULES for job in re.findall(r'job="(\w+)"', rule["expr"])} <= jobs


def test_every_address_that_is_scraped_is_a_service_of_the_compose_file() -> None:
    services = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())["services"]
    targets = [target for job in SCRAPES for one in job.get("static_configs", ()) for target in one["targets"]]
    hosts = {target.partition(":")[0] for target in targets} - {"localhost"}
    assert hosts <= set(services)
    # A server's port is told to it by its command; the API's path is Prefect's own.
    for target in set(targets) - {"localhost:9090"}:
        host, _, port = target.partition(":")
        asked = "gateway" if host == "worker" else host
        assert port in re.findall(r"\d{4,5}", " ".join(map(str, services[asked]["command"]))), target


def test_servers_that_people_add_are_read_from_a_file_that_is_there() -> None:
    (file,) = next(one for one in SCRAPES if one["job_name"] == "serving")["file_sd_configs"][0]["files"]
    assert yaml.safe_load((PROMETHEUS / Path(file).name).read_text()) == []


def test_every_tested_alert_is_one_that_there_is() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    tested = {case["alertname"] for test in tests for case in test["alert_rule_test"]}
    assert tested <= {rule.get("alert") for rule in RULES}
    assert {"SlipwayErrors", "SlipwaySlow", "SlipwayInputDrift", "SlipwayDeliveriesWait"} <= tested
