"""Every query of the dashboards and of the alert rules: SQL runs in the real engine on our tables, PromQL is parsed and
asks for metrics that the administration port really has."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from deployed import ROOT

from driftgate.metrics import render
from driftgate.runtime.stalls import Stall
from driftgate.runtime.status import StageStatus, Status
from sinks.store import Store
from sinks.store_settings import StoreSettings

FOLDER = ROOT / "deploy/grafana"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
SECOND = 10**9
NOW = time.time_ns() // SECOND * SECOND
# Of Prometheus' client library, or made by Prometheus itself.
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "up"}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [p for p in dashboard["panels"] if p["type"] != "row"]


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def statements(dashboard: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (where, what kind, SQL) of panels, variables and annotations."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            if "rawSql" in target:
                yield panel["title"], target["queryType"], target["rawSql"]
    for variable in dashboard["templating"]["list"]:
        if isinstance(variable["query"], str):
            yield f"${variable['name']}", "table", variable["query"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], "table", annotation["target"]["rawSql"]


def expand(sql: str) -> str:
    """Do what the data source's plug-in does: macros and variables."""
    first, last = (NOW - 3600 * SECOND) // SECOND, NOW // SECOND + 60
    sql = re.sub(
        r"\$__timeFilter\(([\w.]+)\)", rf"( \1 >= toDateTime({first}) AND \1 <= toDateTime({last}) )", sql
    )
    for name, value in {"$rubric": "groundedness", "$view": "route", "$window": "900"}.items():
        sql = sql.replace(name, value)
    assert "$" not in sql, sql
    return sql


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Return a store in which everything happened a minute ago."""
    opened = Store.open(StoreSettings(), tmp_path_factory.mktemp("store") / "store")
    opened.migrate()
    ago = [NOW - 60 * SECOND]
    one: dict[str, Any] = {"tenant": ["default"]}
    # Two tenants, and in one of them two evaluators and two routes: each is a line of its own.
    three = {"tenant": ["default", "default", "other"], "rubric": ["groundedness"] * 3}
    cohort = three | {
        "view": ["route"] * 3,
        "cohort": ["route=/a"] * 3,
        "evaluator": ["judge/1", "judge/2", "judge/1"],
        "window_seconds": [900] * 3,
    }
    rows: dict[str, dict[str, list[Any]]] = {
        "otel_traces": {
            "Timestamp": [ago[0] - 3 * SECOND], "Duration": [SECOND], "TraceId": ["t"], "SpanId": ["s"],
            "ServiceName": ["app"], "SpanName": ["chat"], "Tenant": ["default"], "IngestedAt": ago,
        },
        "sampled_traces": one | {
            "time": ago, "ingested_at": ago, "trace_id": ["t"], "lane": ["uniform"], "policy": ["all"], "spans": [3],
        },
        "scores": {
            "time": ago * 2, "ingested_at": ago * 2, "score_id": ["a", "b"], "rubric": ["groundedness"] * 2,
            "status": ["scored", "failed"], "reason": ["", "timeout"], "value": [0.5, None], "cost_usd": [0.25, 0.0],
            "evaluator": ["judge/m"] * 2, "evaluator_kind": ["judge"] * 2, "input_tokens": [10, 0],
            "tenant": ["default"] * 2, "trace_id": ["t"] * 2, "span_id": ["s"] * 2,
        },
        "cohort_windows": cohort | {
            "end_time": ago * 3, "ingested_at": ago * 3, "mean": [0.5, 0.6, 0.7], "n": [3] * 3, "version": [1] * 3,
        },
        "verdicts": three | {
            "time": ago * 3, "ingested_at": ago * 3, "verdict_id": ["v", "w", "x"], "kind": ["canary"] * 3,
            "rollout": ["r"] * 3, "route": ["/a", "/b", "/a"], "candidate": ["v2"] * 3, "e_value": [10.0] * 3,
        },
        "dead_letters": {
            "time": ago, "tenant": ["default"], "stage": ["sampler"], "reason": ["undecodable"], "error": ["DecodeError"],
            "topic": ["otlp_spans"], "partition": [1], "offset": [2], "value": [b"xyz"],
        },
    }  # fmt: skip
    for table, columns in rows.items():
        opened.insert(table, columns, f"{table}-1")
    opened.upsert_rows(
        "incidents",
        [{"incident_id": "i", "state": "firing", "version": 1, "opened_at": ago[0], "updated_at": ago[0]}],
    )
    opened.upsert_rows(
        "rollbacks",
        [{"rollback_id": "b", "incident_id": "i", "requested_at": ago[0], "called_at": ago[0], "version": 1}],
    )
    yield opened
    opened.close()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_statement_runs_and_finds_what_happened(path: Path, store: Store) -> None:
    dashboard = load(path)
    found = list(statements(dashboard))
    assert len(found) >= 10
    for where, kind, sql in found:
        rows = store.query(expand(sql))
        assert rows, where
        if kind == "timeseries":
            columns = list(rows[0])
            assert columns[0] == "time", where
            numbers = [name for name in columns if isinstance(rows[0][name], (int, float))]
            assert numbers, where
            assert set(columns) - set(numbers) <= {"time", "metric"}, where
            assert [row["time"] for row in rows] == sorted(row["time"] for row in rows), where
            lines = [(row["time"], row.get("metric")) for row in rows]
            assert len(set(lines)) == len(lines), where


def test_the_operations_dashboard_says_what_happened(store: Store) -> None:
    answers = {
        where: store.query(expand(sql))
        for where, _, sql in statements(load(FOLDER / "dashboards/driftgate-operations.json"))
    }
    assert answers["Dead letters in this time"] == [{"records": 1}]
    assert answers["Judge cost in this time"] == [{"usd": 0.25}]
    assert answers["Spans stored in this time"] == [{"spans": 1}]
    (delay,) = answers["From the end of a span to the log"]
    assert delay["median"] == pytest.approx(2.0)
    (kept,) = answers["Kept and stored"]
    assert (kept["stored"], kept["kept"]) == (1, 3)
    (spend,) = answers["Spend, by judge and rubric"]
    assert (spend["usd"], spend["tokens_in"], spend["scores"], spend["failed"]) == (0.25, 10, 2, 1)
    (why,) = answers["Why scores were skipped or failed"]
    assert (why["reason"], why["scores"]) == ("timeout", 1)
    assert {row["metric"] for row in answers["Scores, by status"]} == {"scored", "failed"}
    (letter,) = answers["The latest dead letters"]
    assert (letter["stage"], letter["offset"], letter["bytes"]) == ("sampler", 2, 3)


def test_every_measure_of_a_cohort_can_be_chosen(store: Store) -> None:
    store.insert(
        "cohort_windows",
        {
            "tenant": ["default"], "view": ["route"], "cohort": ["route=/a"], "rubric": ["latency_s"], "window_seconds": [900],
            "end_time": [NOW - 60 * SECOND], "ingested_at": [NOW - 60 * SECOND], "mean": [12.0], "n": [1], "version": [1],
        },
        "cohort_windows-2",
    )  # fmt: skip
    dashboard = load(FOLDER / "dashboards/driftgate-quality.json")
    asked = {where: sql for where, _, sql in statements(dashboard)}
    assert {row["rubric"] for row in store.query(asked["$rubric"])} == {"groundedness", "latency_s"}


def expressions() -> Iterator[tuple[str, str]]:
    for path in DASHBOARDS:
        for panel in panels(load(path)):
            for target in panel["targets"]:
                if "expr" in target:
                    yield f"{path.stem}: {panel['title']}", target["expr"].replace("$process", ".*")
    for group in yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"rules: {rule['alert']}", rule["expr"]


def selectors(node: Any) -> Iterator[Any]:
    """Yield every vector selector in a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


def exposed() -> dict[str, set[tuple[str, str]]]:
    """Return metric -> labels with their values, as the administration port renders them."""
    text = render(
        Status(
            version="",
            ready=True,
            time_unix_nano=0,
            stages=[StageStatus("sampler", "waiting", "", 1, 1, 1)],
            ledger={"sampler": {"spans_in": 1}},
            receivers={
                "spans_received": 1,
                "requests_refused.overloaded": 1,
                "residual_finds.EMAIL.span.attribute": 1,
            },
            stalled=[Stall("drift", "scores", 3, 7, 900.0)],
        )
    ).decode()
    found: dict[str, set[tuple[str, str]]] = {name: set() for name in PROCESS}
    for line in text.splitlines():
        if match := re.match(r"(\w+)(?:\{(.*)\})? ", line):
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
    return found


def test_every_expression_parses_and_asks_for_a_metric_that_is_there() -> None:
    metrics = exposed()
    found = list(expressions())
    assert len(found) >= 14
    for where, text in found:
        asked = list(selectors(promql_parser.parse(text)))
        assert asked, where
        for selector in asked:
            assert selector.name in metrics, (where, selector.name)
            for matcher in selector.matchers.matchers:
                own = {label for label, _ in metrics[selector.name]} | {"job", "process", "instance"}
                assert matcher.name in own, (where, matcher.name)
    names = {s.name for _, text in found for s in selectors(promql_parser.parse(text))}
    assert {
        "driftgate_stage_lag",
        "driftgate_ledger_total",
        "driftgate_receiver",
        "driftgate_stage_up",
    } <= names


def test_every_rule_is_explained() -> None:
    page = (ROOT / "docs/deploy.md").read_text()
    (group,) = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
    told = re.findall(r"^\| `(Driftgate\w+)` \|", page, re.MULTILINE)
    assert told == [rule["alert"] for rule in group["rules"]]


def test_names_of_the_collectors_counters_are_the_ones_asked_for() -> None:
    values = {value for label, value in exposed()["driftgate_receiver"] if label == "name"}
    for _, text in expressions():
        for selector in selectors(promql_parser.parse(text)):
            for matcher in selector.matchers.matchers:
                if selector.name == "driftgate_receiver" and matcher.name == "name":
                    assert any(re.fullmatch(matcher.value, value) for value in values), matcher.value


def test_dashboards_use_data_sources_that_are_provisioned() -> None:
    sources = [
        source
        for path in (FOLDER / "provisioning/datasources").glob("*.yaml")
        for source in yaml.safe_load(path.read_text())["datasources"]
    ]
    known = {(source["type"], source["uid"]) for source in sources}
    uids = []
    for path in DASHBOARDS:
        dashboard = load(path)
        uids.append(dashboard["uid"])
        titles = [panel["title"] for panel in dashboard["panels"]]
        assert len(set(titles)) == len(titles)
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(titles)
        for panel in panels(dashboard):
            for target in panel["targets"]:
                assert (target["datasource"]["type"], target["datasource"]["uid"]) in known
        for variable in dashboard["templating"]["list"]:
            assert (variable["datasource"]["type"], variable["datasource"]["uid"]) in known
    assert len(set(uids)) == len(uids) >= 2
