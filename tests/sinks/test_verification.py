"""Verification: the pure state machine, and the counts it rests on from a real ClickHouse engine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.alerts_settings import VerifySettings
from sinks.rollback.traffic import SqlTraffic
from sinks.rollback.verification import Watch
from sinks.store import Store

SECOND = 10**9
START = 1_700_000_000 * SECOND
SETTINGS = VerifySettings(settle=10, hold=30, deadline=300, telemetry_lag=10, min_incumbent_traffic=20)


def run(
    spans: list[tuple[float, str]], until: float, settings: VerifySettings = SETTINGS, every: float = 5
) -> Watch:
    """Watch a list of (seconds after the call, arm) with a look every few seconds; spans arrive ``telemetry_lag`` late."""
    watch = Watch.start(START, settings)
    at = 0.0
    while at < until and watch.state != "verified":
        at += every
        now = START + int(at * SECOND)
        since, end = watch.window(now, settings)
        counted = [arm for when, arm in spans if since <= START + when * SECOND < end]
        watch = watch.look(now, counted.count("v18"), counted.count("v17"), settings)
    return watch


def steady(arm: str, rate: float, start: float, end: float) -> list[tuple[float, str]]:
    return [(start + n / rate, arm) for n in range(int((end - start) * rate))]


def test_no_candidate_after_the_grace_is_verified() -> None:
    watch = run(steady("v17", 5, -100, 400) + steady("v18", 5, -100, 9), 300)
    assert watch.state == "verified"
    assert watch.candidate == 0
    assert watch.incumbent >= 20


def test_it_is_not_verified_before_the_hold_has_passed() -> None:
    spans = steady("v17", 50, -100, 400)
    assert run(spans, 45).state == "verifying"
    assert run(spans, 50).state == "verified"


def test_in_flight_requests_within_the_grace_do_not_count() -> None:
    assert run([*steady("v17", 5, 0, 100), (9.9, "v18")], 50).state == "verified"
    assert run([*steady("v17", 5, 0, 100), (10.1, "v18")], 50).state == "verifying"


def test_a_slow_propagation_is_verified_within_the_deadline() -> None:
    watch = run(steady("v17", 5, 0, 400) + steady("v18", 1, 0, 120), 300)
    assert watch.state == "verified"


def test_a_candidate_that_stays_is_failed_at_the_deadline_and_not_before() -> None:
    spans = steady("v17", 5, 0, 400) + steady("v18", 1, 0, 400)
    assert run(spans, 305).state == "verifying"
    assert run(spans, 310).state == "failed"


def test_no_traffic_at_all_is_unknown_and_never_verified() -> None:
    assert run([], 305).state == "verifying"
    assert run([], 310).state == "unknown"


def test_too_little_incumbent_traffic_proves_nothing() -> None:
    assert run([(float(n), "v17") for n in range(11, 30)], 310).state == "unknown"


def test_low_traffic_is_verified_once_enough_has_come() -> None:
    """One request every ten seconds: a fixed window of 30 s would never see 20 of them."""
    assert run(steady("v17", 0.1, 0, 400), 300).state == "verified"


def test_unreadable_telemetry_is_unknown() -> None:
    watch = Watch.start(START, SETTINGS)
    for at in range(0, 315, 5):
        watch = watch.look(START + at * SECOND, None, 0, SETTINGS)
    assert watch.state == "unknown"
    assert "could not be read" in watch.describe()


def test_failed_becomes_verified_when_traffic_falls_later() -> None:
    spans = steady("v17", 5, 0, 1000) + steady("v18", 1, 0, 400)
    assert run(spans, 310).state == "failed"
    assert run(spans, 600).state == "verified"


def test_unknown_becomes_failed_when_the_candidate_comes_back() -> None:
    spans = steady("v17", 5, 400, 500) + steady("v18", 5, 400, 500)
    assert run(spans, 395).state == "unknown"
    assert run(spans, 450).state == "failed"


def test_a_small_share_may_be_allowed() -> None:
    loose = SETTINGS.model_copy(update={"max_share": 0.02})
    spans = steady("v17", 10, 0, 400) + steady("v18", 0.1, 0, 400)
    assert run(spans, 100, loose).state == "verified"
    assert run(spans, 310).state == "failed"


@given(
    st.lists(st.tuples(st.floats(0, 400), st.sampled_from(["v17", "v18"])), max_size=200),
    st.floats(1, 20),
)
def test_verified_always_means_a_clean_stretch_with_traffic(
    spans: list[tuple[float, str]], every: float
) -> None:
    watch = run(spans, 600, every=every)
    if watch.state == "verified":
        since = (watch.clean_since - START) / SECOND
        assert since >= SETTINGS.settle
        inside = [arm for when, arm in spans if since <= when < since + SETTINGS.hold]
        assert "v18" not in inside
        assert (
            len([arm for when, arm in spans if when >= since and arm == "v17"])
            >= SETTINGS.min_incumbent_traffic
        )


def test_a_deadline_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(ValueError, match="deadline"):
        VerifySettings(deadline=40, hold=30, telemetry_lag=10)


def test_traffic_is_counted_in_the_real_table(store: Store) -> None:
    start = time.time_ns() - 3600 * SECOND
    rows: list[tuple[int, str, str, str, dict[str, str], dict[str, str]]] = []

    def span(
        at: float, trace: str, arm: dict[str, str], tenant: str = "default", route: str = "/chat"
    ) -> None:
        when = start + int(at * SECOND)
        rows.append(
            (when - SECOND, trace, "root" + trace, tenant, {"http.route": route}, {"service.name": "app"})
        )
        rows.append((when, trace, "call" + trace, tenant, arm, {"service.name": "app"}))

    span(1, "a", {"gen_ai.prompt.version": "v17"})
    span(2, "b", {"traceloop.prompt.version": "v17"})
    span(3, "c", {"llm.prompt_template.version": "v18"})
    span(4, "d", {"langfuse.observation.prompt.version": "v17"})
    span(5, "e", {"driftgate.prompt_version": "it's \\ odd"})
    span(6, "f", {})
    span(7, "g", {"gen_ai.prompt.version": "v17"}, route="/other")
    span(8, "h", {"gen_ai.prompt.version": "v18"}, tenant="acme")
    span(0, "early", {"gen_ai.prompt.version": "v18"})
    span(50, "late", {"gen_ai.prompt.version": "v18"})
    rows.append(rows[1])  # delivered twice
    names = ("Timestamp", "TraceId", "SpanId", "Tenant", "SpanAttributes", "ResourceAttributes")
    columns: dict[str, Any] = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns["IngestedAt"] = [time.time_ns()] * len(rows)
    store.insert("otel_traces", columns, "token")

    def query(sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        return [list(row.values()) for row in store.query(sql, parameters)]

    traffic = SqlTraffic(query)
    window = (start + SECOND, start + 50 * SECOND)
    assert traffic.traffic("default", {"route": "/chat"}, "prompt_version", *window) == {
        "v17": 3,
        "v18": 1,
        "it's \\ odd": 1,
    }
    # The service stands on every span and yet is no route here: the root names a better one.
    assert traffic.traffic("default", {"route": "app"}, "prompt_version", *window) == {}
    assert traffic.traffic("default", {}, "prompt_version", *window)["v17"] == 4
    assert traffic.traffic("acme", {"route": "/chat"}, "prompt_version", *window) == {"v18": 1}
    assert traffic.traffic("default", {"route": "/chat", "service": "x"}, "prompt_version", *window) == {}
    assert traffic.traffic("default", {"route": "' OR 1=1 --"}, "prompt_version", *window) == {}
    other = SqlTraffic(query, attributes={"build": ("gen_ai.prompt.version",)})
    assert other.traffic("default", {"route": "/other"}, "build", *window) == {"v17": 1}


def test_a_table_name_is_a_name() -> None:
    with pytest.raises(ValueError, match="not a table"):
        SqlTraffic(lambda sql, parameters: [], table="x; DROP TABLE y")
