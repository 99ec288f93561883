from __future__ import annotations

import datetime as dt
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sinks.store import MAX_TIME_NS, MIN_TIME_NS, Store
from sinks.store_migrations import migrations, split_statements
from sinks.store_settings import StoreRetention, StoreSettings
from stream.errors import Permanent, StartError, Unavailable

NOW = time.time_ns() // 10**9 * 10**9


def scores(count: int, *, first: int = 0, value: float = 0.5) -> dict[str, list[Any]]:
    return {
        "time": [NOW + index for index in range(count)],
        "tenant": ["t"] * count,
        "rubric": ["groundedness"] * count,
        "score_id": [f"s{first + index}" for index in range(count)],
        "trace_id": [f"{first + index:032x}" for index in range(count)],
        "status": ["scored"] * count,
        "value": [value] * count,
        "cohort": [{"route": "support", "prompt_version": "v18"}] * count,
        "ingested_at": [NOW] * count,
    }


def raw_count(store: Store, table: str) -> int:
    return int(store.query(f"SELECT count() AS n FROM {table} SETTINGS final = 0")[0]["n"])


def count(store: Store, table: str) -> int:
    return int(store.query(f"SELECT count() AS n FROM {table}")[0]["n"])


def spans(times: list[int]) -> dict[str, list[Any]]:
    return {
        "Timestamp": times,
        "TraceId": [f"{index:032x}" for index in range(len(times))],
        "SpanId": [f"{index:016x}" for index in range(len(times))],
        "Events.Timestamp": [[when, when] for when in times],
        "Events.Name": [["a", "b"]] * len(times),
        "Events.Attributes": [[{}, {}]] * len(times),
        "IngestedAt": [NOW] * len(times),
    }


def test_migrate_again_changes_nothing(store: Store) -> None:
    store.insert("scores", scores(3), "a")
    assert store.migrate() == migrations()[-1].version
    assert count(store, "scores") == 3
    assert len(store.query("SELECT version FROM schema_migrations")) == len(migrations())


def test_migrations_resume_after_a_step_that_stopped_in_the_middle(tmp_path: Path) -> None:
    opened = Store.open(StoreSettings(), tmp_path / "store")
    assert opened.embedded is not None
    opened.embedded.client.command(migrations()[0].statements[0])  # no entry in schema_migrations
    assert opened.migrate() == migrations()[-1].version
    assert count(opened, "sampled_traces") == 0
    opened.close()


def test_a_newer_schema_is_refused(store: Store) -> None:
    assert store.embedded is not None
    store.embedded.client.command("INSERT INTO schema_migrations (version, name) SELECT 9999, 'future'")
    with pytest.raises(StartError, match=r"newer driftgate.*9999.*upgrade"):
        store.migrate()


def test_a_table_that_vanished_is_noticed_at_start(store: Store) -> None:
    assert store.embedded is not None
    store.embedded.client.command("DROP TABLE verdicts")
    with pytest.raises(StartError, match=r"damaged: table verdicts is gone"):
        store.migrate()


def test_statements_are_cut_at_line_ends_only() -> None:
    text = "-- one; two\nSELECT ';' AS a;\n\nSELECT 1\n  , 2;\n"
    assert split_statements(text) == ("SELECT ';' AS a", "SELECT 1\n  , 2")


def test_every_insert_table_collapses_rows_and_drops_none_for_a_token(store: Store) -> None:
    rows = store.query(
        "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree' "
        "AND name != 'schema_migrations'"
    )
    assert len(rows) == 11
    for row in rows:
        assert row["engine_full"].startswith("ReplacingMergeTree"), row["name"]
        assert "deduplication_window" not in row["engine_full"], row["name"]


def test_otel_traces_begins_with_the_columns_of_the_collectors_exporter(store: Store) -> None:
    rows = store.query(
        "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = 'otel_traces' "
        "ORDER BY position"
    )
    text_map = "Map(LowCardinality(String), String)"
    assert [(row["name"], row["type"]) for row in rows][:22] == [
        ("Timestamp", "DateTime64(9)"),
        ("TraceId", "String"),
        ("SpanId", "String"),
        ("ParentSpanId", "String"),
        ("TraceState", "String"),
        ("SpanName", "LowCardinality(String)"),
        ("SpanKind", "LowCardinality(String)"),
        ("ServiceName", "LowCardinality(String)"),
        ("ResourceAttributes", text_map),
        ("ScopeName", "String"),
        ("ScopeVersion", "String"),
        ("SpanAttributes", text_map),
        ("Duration", "UInt64"),
        ("StatusCode", "LowCardinality(String)"),
        ("StatusMessage", "String"),
        ("Events.Timestamp", "Array(DateTime64(9))"),
        ("Events.Name", "Array(LowCardinality(String))"),
        ("Events.Attributes", f"Array({text_map})"),
        ("Links.TraceId", "Array(String)"),
        ("Links.SpanId", "Array(String)"),
        ("Links.TraceState", "Array(String)"),
        ("Links.Attributes", f"Array({text_map})"),
    ]


def test_the_same_insert_again_is_there_once_and_is_never_dropped(store: Store) -> None:
    assert store.insert("scores", scores(5), "scores:0:0-4") == 5
    assert store.insert("scores", scores(5), "scores:0:0-4") == 5
    assert count(store, "scores") == 5
    # Both arrived: a token that a killed process had noted must not make the engine drop what never came.
    assert raw_count(store, "scores") == 10


def test_rows_redelivered_in_another_cut_collapse_when_read(store: Store) -> None:
    store.insert("scores", scores(5), "scores:0:0-4")
    store.insert("scores", scores(7), "scores:0:0-6")
    assert raw_count(store, "scores") == 12
    assert count(store, "scores") == 7
    assert store.query("SELECT sum(value) AS total FROM scores_latest") == [{"total": 3.5}]


def test_spans_with_one_id_of_two_tenants_stay_two(store: Store) -> None:
    for tenant in ("a", "b", "a"):
        columns = spans([NOW]) | {"Tenant": [tenant]}
        store.insert("otel_traces", columns, f"{tenant}{len(columns)}")
    assert count(store, "otel_traces") == 2


def test_the_trace_lookup_is_filled_once_though_spans_come_twice(store: Store) -> None:
    columns = spans([NOW, NOW + 5 * 10**9]) | {"TraceId": ["f" * 32] * 2}
    for token in ("one", "one", "two"):
        store.insert("otel_traces", columns, token)
    rows = store.query(
        "SELECT toUnixTimestamp(min(Start)) AS a, toUnixTimestamp(max(End)) AS b, count() AS n "
        "FROM otel_traces_trace_id_ts WHERE TraceId = {id:String}",
        {"id": "f" * 32},
    )
    assert rows == [{"a": NOW // 10**9, "b": NOW // 10**9 + 5, "n": 1}]


def test_times_outside_the_calendar_become_its_nearest_end(store: Store) -> None:
    times = [0, 1, -1, MIN_TIME_NS - 1, -(2**63) - 5, MAX_TIME_NS, 2**64 - 1, 10**30]
    store.insert("otel_traces", spans(times), "t")
    rows = store.query(
        "SELECT toUnixTimestamp64Nano(Timestamp) AS t, arrayMap(x -> toUnixTimestamp64Nano(x), Events.Timestamp) AS e "
        "FROM otel_traces ORDER BY SpanId"
    )
    nearest = [min(max(time, MIN_TIME_NS), MAX_TIME_NS) for time in times]
    assert rows == [{"t": time, "e": [time, time]} for time in nearest]


def test_a_sender_with_a_broken_clock_makes_one_partition(store: Store) -> None:
    day = 86_400 * 10**9
    store.insert("otel_traces", spans([NOW, *(index * day for index in range(500))]), "t")
    rows = store.query(
        "SELECT uniqExact(partition_id) AS n FROM system.parts WHERE active AND table = 'otel_traces' "
        "AND database = currentDatabase()"
    )
    assert rows == [{"n": 2}]
    assert count(store, "otel_traces") == 501


def test_rows_that_do_not_fit_are_permanent(store: Store) -> None:
    for columns in (
        {"score_id": [None], "time": [NOW]},
        {"score_id": ["a"], "time": [NOW], "value": ["much"]},
        {"score_id": ["a"], "time": [NOW], "no_such_column": [1]},
        {"score_id": ["a\ud800"], "time": [NOW]},
        {"score_id": ["a"], "time": [NOW], "input_tokens": [-1]},
    ):
        with pytest.raises(Permanent, match="bad_rows"):
            store.insert("scores", columns, "t")
    assert raw_count(store, "scores") == 0


def test_a_full_disk_is_unavailable_and_the_insert_can_be_repeated(store: Store) -> None:
    assert store.embedded is not None
    client = store.embedded.client
    client.command(
        "ALTER TABLE scores MODIFY SETTING min_free_disk_bytes_to_perform_insert = 1000000000000000"
    )
    with pytest.raises(Unavailable) as caught:
        store.insert("scores", scores(5), "t")
    assert caught.value.reason == "disk_full"
    client.command("ALTER TABLE scores MODIFY SETTING min_free_disk_bytes_to_perform_insert = 0")
    store.insert("scores", scores(5), "t")
    assert raw_count(store, "scores") == 5


def test_a_closed_store_is_unavailable(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        store.insert("scores", scores(1), "t")
    with pytest.raises(Unavailable, match="closed"):
        store.query("SELECT 1")


def test_a_wrong_query_is_permanent_and_a_slow_one_transient(tmp_path: Path) -> None:
    opened = Store.open(StoreSettings(query_timeout=5), tmp_path / "store")
    try:
        with pytest.raises(Permanent, match="bad_query"):
            opened.query("SELECT nothing FROM nowhere")
        with pytest.raises(Unavailable, match="timeout"):
            opened.query("SELECT sum(sipHash64(number)) AS s FROM numbers(1000000000000)")
    finally:
        opened.close()


def test_query_binds_parameters(store: Store) -> None:
    text = "it's \\ a\ttab\nline"
    assert store.query("SELECT {a:String} AS a, {b:UInt8} AS b", {"a": text, "b": 7}) == [{"a": text, "b": 7}]


def test_upsert_keeps_the_highest_version(store: Store) -> None:
    row = {
        "incident_id": "i",
        "tenant": "t",
        "state": "firing",
        "opened_at": NOW,
        "updated_at": NOW,
        "version": 1,
    }
    store.upsert_rows("incidents", [row | {"resolved_at": 0, "summary": "bad \ud800 text"}])
    store.upsert_rows("incidents", [row | {"state": "resolved", "resolved_at": NOW, "version": 3}])
    store.upsert_rows("incidents", [row | {"version": 2}])
    rows = store.query("SELECT state, resolved_at, version FROM incidents")
    seconds = NOW // 10**9
    assert rows == [
        {
            "state": "resolved",
            "resolved_at": dt.datetime.fromtimestamp(seconds, dt.UTC).replace(tzinfo=None),
            "version": 3,
        }
    ]
    assert store.query("SELECT count() AS n FROM incidents_open") == [{"n": 0}]


def test_upsert_reads_zero_as_not_yet(store: Store) -> None:
    store.upsert_rows(
        "rollbacks",
        [{"rollback_id": "r", "requested_at": NOW, "called_at": 0, "previous_state": None, "version": 1}],
    )
    assert store.query("SELECT called_at, previous_state, attempts FROM rollbacks") == [
        {"called_at": None, "previous_state": "", "attempts": 0}
    ]
    with pytest.raises(Permanent, match="no column 'surprise'"):
        store.upsert_rows("rollbacks", [{"rollback_id": "r", "surprise": 1}])


def test_retention_follows_the_settings(tmp_path: Path) -> None:
    def ttl(opened: Store) -> str:
        rows = opened.query(
            "SELECT engine_full FROM system.tables WHERE name = 'scores' AND database = currentDatabase()"
        )
        return str(rows[0]["engine_full"])

    folder = tmp_path / "store"
    for seconds in (86_400, 3_600, 0):
        opened = Store.open(StoreSettings(retention=StoreRetention(scores=seconds)), folder)
        opened.migrate()
        text = ttl(opened)
        opened.close()
        if seconds:
            assert f"TTL toDateTime(ingested_at) + toIntervalSecond({seconds})" in text
        else:
            assert "TTL" not in text


def test_inserts_and_queries_from_many_threads(store: Store) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(5):
                store.insert("scores", scores(20, first=number * 1000 + step * 20), f"{number}-{step}")
                assert store.query("SELECT {n:UInt8} AS n", {"n": number}) == [{"n": number}]
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert raw_count(store, "scores") == 6 * 5 * 20


def test_no_insert_leaves_a_file_behind_outside_the_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "not-writable"
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))  # does not exist: using it would fail
    store.insert("scores", scores(3), "t")
    assert count(store, "scores") == 3
