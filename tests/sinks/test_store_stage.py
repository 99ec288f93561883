from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status, TracesData

from sinks.store import Store
from sinks.store_settings import StoreSettings
from sinks.store_stage import StoreStage
from stream.errors import Permanent, Unavailable
from stream.records import (
    CohortWindow,
    Evaluator,
    Evidence,
    Heartbeat,
    ScoreRecord,
    Verdict,
    WindowEvidence,
)
from stream.stage import Batch, Record, Result
from stream.transaction import dead_letter

NOW = time.time_ns() // 10**9 * 10**9


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def span(number: int, **more: Any) -> Span:
    fields: dict[str, Any] = {
        "trace_id": (number // 5 + 1).to_bytes(16, "big"),
        "span_id": (number + 1).to_bytes(8, "big"),
        "name": "chat",
        "kind": Span.SPAN_KIND_CLIENT,
        "start_time_unix_nano": NOW + number,
        "end_time_unix_nano": NOW + number + 1_000,
    }
    return Span(**(fields | more))


def traces(*spans: Span, service: str = "support") -> bytes:
    group = ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])
    group.resource.attributes.append(text("service.name", service))
    group.scope_spans[0].scope.name = "sdk"
    group.scope_spans[0].scope.version = "1.2"
    return TracesData(resource_spans=[group]).SerializeToString()


def record(topic: str, offset: int, value: bytes, **headers: str) -> Record:
    pairs = tuple((name.replace("_", "-"), text.encode()) for name, text in headers.items())
    return Record(topic, 0, offset, value, b"", pairs, NOW)


def batch(*records: Record) -> Batch:
    return Batch(records, NOW)


def score(number: int) -> ScoreRecord:
    return ScoreRecord(
        score_id=f"s{number}",
        tenant="t",
        time_unix_nano=NOW + number,
        trace_id=f"{number:032x}",
        span_id=f"{number:016x}",
        unit_id="u",
        rubric="groundedness",
        evaluator=Evaluator(id="judge", kind="judge", version="2", model="m", prompt_hash="h"),
        value=number / 10,
        probability=None,
        cohort={"route": "support", "prompt_version": "v18", "extra": "x"},
    )


class Recorder:
    """A store that keeps what it is given, and fails for as long as it is told to."""

    def __init__(self, down: int = 0, refuses: str = "") -> None:
        self.inserts: list[tuple[str, dict[str, list[Any]], str]] = []
        self.down = down
        self.refuses = refuses

    def insert(self, table: str, rows: Mapping[str, Sequence[Any]], token: str) -> int:
        if self.down:
            self.down -= 1
            raise Unavailable("network", "the server is down")
        columns = {name: list(values) for name, values in rows.items()}
        if self.refuses and any(self.refuses in values for values in columns.values()):
            raise Permanent("bad_rows")
        self.inserts.append((table, columns, token))
        return len(next(iter(columns.values())))


def test_a_span_is_stored_as_the_collectors_exporter_stores_it(store: Store) -> None:
    attributes = [
        text("gen_ai.request.model", "m"),
        KeyValue(key="i", value=AnyValue(int_value=-(2**63))),
        KeyValue(key="b", value=AnyValue(bool_value=True)),
        KeyValue(key="f", value=AnyValue(double_value=0.25)),
        KeyValue(key="whole", value=AnyValue(double_value=3.0)),
        KeyValue(key="raw", value=AnyValue(bytes_value=b"\xff\x00")),
        KeyValue(key="none", value=AnyValue()),
        KeyValue(
            key="list",
            value=AnyValue(
                array_value=ArrayValue(
                    values=[
                        AnyValue(string_value="a"),
                        AnyValue(kvlist_value=KeyValueList(values=[text("k", "v")])),
                    ]
                )
            ),
        ),
    ]
    full = span(
        7,
        parent_span_id=b"\x00" * 7 + b"\x09",
        trace_state="ot=th:8",
        attributes=attributes,
        status=Status(code=Status.STATUS_CODE_ERROR, message="boom"),
        events=[Span.Event(name="gen_ai.choice", time_unix_nano=NOW, attributes=[text("a", "b")])],
        links=[
            Span.Link(
                trace_id=b"\x01" * 16, span_id=b"\x02" * 8, trace_state="s", attributes=[text("l", "m")]
            )
        ],
    )
    result = StoreStage(store, StoreSettings()).process(
        batch(record("otlp_spans", 0, traces(full), tenant="acme", redaction_policy="3"))
    )
    assert result == Result(counters={"spans_in": 1, "spans_stored": 1, "rows.otel_traces": 1})
    rows = store.query("SELECT *, toUnixTimestamp64Nano(Timestamp) AS ns FROM otel_traces")
    assert len(rows) == 1
    row = rows[0]
    assert row.pop("SpanAttributes") == {
        "gen_ai.request.model": "m",
        "i": str(-(2**63)),
        "b": "true",
        "f": "0.25",
        "whole": "3",
        "raw": "/wA=",
        "none": "",
        "list": '["a",{"k":"v"}]',
    }
    wanted = {
        "ns": NOW + 7,
        "TraceId": f"{2:032x}",
        "SpanId": f"{8:016x}",
        "ParentSpanId": f"{9:016x}",
        "TraceState": "ot=th:8",
        "SpanName": "chat",
        "SpanKind": "Client",
        "ServiceName": "support",
        "ResourceAttributes": {"service.name": "support"},
        "ScopeName": "sdk",
        "ScopeVersion": "1.2",
        "Duration": 1000,
        "StatusCode": "Error",
        "StatusMessage": "boom",
        "Events.Name": ["gen_ai.choice"],
        "Events.Attributes": [{"a": "b"}],
        "Links.TraceId": ["01" * 16],
        "Links.SpanId": ["02" * 8],
        "Links.TraceState": ["s"],
        "Links.Attributes": [{"l": "m"}],
        "Tenant": "acme",
        "RedactionPolicy": "3",
    }
    assert {name: row[name] for name in wanted} == wanted


def test_odd_spans_are_stored_not_refused(store: Store) -> None:
    odd = [
        span(0, start_time_unix_nano=0, end_time_unix_nano=0, parent_span_id=b"\x00" * 8),
        span(1, start_time_unix_nano=2**64 - 1, end_time_unix_nano=5),
        span(2, kind=99, status=Status(code=77), trace_id=b"", span_id=b""),
        span(3, name="\x00weird\n\t'\\", attributes=[text("", ""), text("same", "a"), text("same", "b")]),
    ]
    result = StoreStage(store, StoreSettings()).process(batch(record("otlp_spans", 0, traces(*odd))))
    assert result.counters["spans_stored"] == 4
    rows = store.query(
        "SELECT SpanName, SpanKind, StatusCode, Duration, ParentSpanId, SpanAttributes FROM otel_traces"
    )
    assert len(rows) == 4
    assert {row["SpanName"] for row in rows} == {"chat", "\x00weird\n\t'\\"}
    assert {row["ParentSpanId"] for row in rows} == {""}
    assert {"": "", "same": "b"} in [row["SpanAttributes"] for row in rows]
    assert any(row["SpanKind"] == "Unspecified" and row["StatusCode"] == "Unset" for row in rows)


def test_a_batch_processed_again_changes_nothing(store: Store) -> None:
    stage = StoreStage(store, StoreSettings())
    records = [
        record("otlp_spans", index, traces(*(span(index * 10 + n) for n in range(10)))) for index in range(5)
    ]
    for _ in range(2):
        assert stage.process(batch(*records)).counters["spans_stored"] == 50
    # After a crash the same records come in another cut, and a client's retry is a record of its own.
    stage.process(batch(*records[:2]))
    stage.process(batch(*records[2:], record("otlp_spans", 5, records[0].value)))
    assert store.query("SELECT count() AS n, uniqExact(SpanId) AS ids FROM otel_traces") == [
        {"n": 50, "ids": 50}
    ]


def test_offsets_that_begin_again_do_not_hide_new_rows(store: Store) -> None:
    stage = StoreStage(store, StoreSettings())
    stage.process(batch(record("otlp_spans", 0, traces(span(0)))))
    stage.process(batch(record("otlp_spans", 0, traces(span(50)))))  # a new log folder, the old store
    assert store.query("SELECT count() AS n FROM otel_traces") == [{"n": 2}]


def test_sampling_decisions(store: Store) -> None:
    root = span(0)
    child = span(1, parent_span_id=root.span_id, status=Status(code=2), end_time_unix_nano=NOW + 9_000)
    stage = StoreStage(store, StoreSettings())
    result = stage.process(
        batch(
            record(
                "traces.sampled",
                0,
                traces(child, root),
                tenant="t",
                lane="triage",
                policy="errors",
                probability="0.25",
            ),
            record(
                "traces.sampled", 1, traces(span(2)), tenant="t", lane="uniform", probability="", late="1"
            ),
            record(
                "traces.sampled",
                2,
                traces(child, root),
                tenant="t",
                lane="triage",
                policy="errors",
                probability="0.25",
            ),
        )
    )
    assert result.counters == {"rows.sampled_traces": 3}
    rows = store.query(
        "SELECT trace_id, lane, policy, probability, late, spans, errors, duration_ns, service, root_name "
        "FROM sampled_traces ORDER BY late"
    )
    assert rows == [
        {
            "trace_id": f"{1:032x}",
            "lane": "triage",
            "policy": "errors",
            "probability": 0.25,
            "late": False,
            "spans": 2,
            "errors": 1,
            "duration_ns": 9_000,
            "service": "support",
            "root_name": "chat",
        },
        {
            "trace_id": f"{1:032x}",
            "lane": "uniform",
            "policy": "",
            "probability": None,
            "late": True,
            "spans": 1,
            "errors": 0,
            "duration_ns": 1_000,
            "service": "support",
            "root_name": "chat",
        },
    ]


def test_scores_windows_and_verdicts(store: Store) -> None:
    window = CohortWindow(
        view="route",
        cohort="route=support",
        attributes={"route": "support"},
        rubric="groundedness",
        window_seconds=900,
        end_unix_nano=NOW,
        n=10,
        n_eff=8.5,
        mean=0.5,
        p5=0.25,
        p50=0.5,
        p95=1.0,
        levels={"0.5": 10},
        version=5,
    )
    verdict = Verdict(
        verdict_id="v1",
        kind="canary",
        time_unix_nano=NOW,
        rollout="support",
        rubric="groundedness",
        incumbent="v17",
        candidate="v18",
        state="regressed",
        severity="page",
        action="rollback",
        evidence=Evidence(e_value=1e9, worst_trace_ids=["a", "b"], windows=[WindowEvidence(seconds=900)]),
    )
    corrected = msgspec.structs.replace(window, mean=0.75, version=9)
    result = StoreStage(store, StoreSettings()).process(
        batch(
            record("scores", 0, msgspec.json.encode(score(5))),
            record("scores", 1, msgspec.json.encode(Heartbeat(time_unix_nano=NOW))),
            record("cohort_windows", 0, msgspec.json.encode(corrected)),
            record("cohort_windows", 1, msgspec.json.encode(window)),
            record("verdicts", 0, msgspec.json.encode(verdict)),
        )
    )
    assert result.counters == {
        "heartbeats": 1,
        "rows.score_log": 2,
        "rows.scores": 1,
        "scores_stored": 1,
        "rows.cohort_windows": 2,
        "rows.verdicts": 1,
    }
    assert store.query(
        "SELECT score_id, tenant, value, probability, evaluator, judge_model, route, prompt_version, cohort['extra'] AS x "
        "FROM scores"
    ) == [
        {
            "score_id": "s5",
            "tenant": "t",
            "value": 0.5,
            "probability": None,
            "evaluator": "judge/2/m/h",
            "judge_model": "m",
            "route": "support",
            "prompt_version": "v18",
            "x": "x",
        }
    ]
    assert store.query(
        "SELECT view, cohort, attributes, mean, n_eff, p5, p50, p95, levels FROM cohort_means"
    ) == [
        {
            "view": "route",
            "cohort": "route=support",
            "attributes": {"route": "support"},
            "mean": 0.75,
            "n_eff": 8.5,
            "p5": 0.25,
            "p50": 0.5,
            "p95": 1.0,
            "levels": {"0.5": 10},
        }
    ]
    row = store.query("SELECT state, e_value, worst_trace_ids, evidence FROM verdicts_latest")[0]
    assert json.loads(row.pop("evidence"))["windows"] == [{"seconds": 900}]
    assert row == {"state": "regressed", "e_value": 1e9, "worst_trace_ids": ["a", "b"]}


def test_what_cannot_be_decoded_is_rejected_and_the_rest_is_stored(store: Store) -> None:
    bad = [
        record("otlp_spans", 1, b"\xff\xff\xff"),
        record("traces.sampled", 0, traces()),
        record("scores", 0, b"{not json"),
        record("scores", 1, b'{"type":"score","score_id":5}'),
        record("scores", 2, b"\xff"),
        record("scores", 3, b'{"type":"score","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        record("cohort_windows", 0, b"[]"),
        record("verdicts", 0, b"null"),
    ]
    result = StoreStage(store, StoreSettings()).process(batch(record("otlp_spans", 0, traces(span(0))), *bad))
    assert [reject.record for reject in result.rejects] == bad
    assert {reject.reason for reject in result.rejects} == {"undecodable", "no_spans"}
    assert result.counters["spans_stored"] == 1
    assert result.counters["rejected.undecodable"] == 7


def test_dead_letters_keep_their_bytes_and_never_make_new_ones(store: Store) -> None:
    original = record("scores", 41, b"\xff\x00 not json", tenant="t")
    reject = StoreStage(store, StoreSettings()).process(batch(original)).rejects[0]
    letter = dead_letter("scorer", reject)
    junk = Record(
        "dead_letters", 0, 8, b"", headers=(("original-offset", b"-5"), ("x", b"\xff")), timestamp_ns=NOW
    )
    result = StoreStage(store, StoreSettings()).process(
        batch(Record("dead_letters", 0, 7, letter.value, letter.key, letter.headers, NOW), junk)
    )
    assert result == Result(counters={"rows.dead_letters": 2})
    rows = store.query(
        "SELECT tenant, stage, reason, topic, partition, offset, hex(value) AS value FROM dead_letters ORDER BY offset"
    )
    assert rows[1] == {
        "tenant": "t",
        "stage": "scorer",
        "reason": "undecodable",
        "topic": "scores",
        "partition": 0,
        "offset": 41,
        "value": (b"\xff\x00 not json").hex().upper(),
    }
    assert rows[0]["offset"] == 8


def test_a_dead_letter_that_does_not_fit_is_counted_not_rejected() -> None:
    stage = StoreStage(Recorder(refuses="poison"), StoreSettings())
    result = stage.process(
        batch(record("dead_letters", 0, b"x", stage="poison"), record("dead_letters", 1, b"y"))
    )
    assert result.rejects == []
    assert result.counters == {"rejected.bad_rows": 1, "dead_letters_lost": 1, "rows.dead_letters": 1}


def test_a_record_whose_rows_do_not_fit_does_not_take_others_with_it() -> None:
    recorder = Recorder(refuses="poison")
    stage = StoreStage(recorder, StoreSettings())
    records = [
        record("otlp_spans", n, traces(span(n, name="poison" if n == 3 else "chat"))) for n in range(6)
    ]
    result = stage.process(batch(*records))
    assert [reject.record.offset for reject in result.rejects] == [3]
    assert result.counters["spans_in"] == 6
    assert result.counters["spans_stored"] == 5
    assert result.counters["spans_rejected"] == 1


def test_a_record_that_does_not_fit_is_found_in_few_inserts() -> None:
    """One insert for each of its neighbours would fill the table with parts, which the engine then refuses."""
    recorder = Recorder(refuses="poison")
    stage = StoreStage(recorder, StoreSettings())
    records = [
        record("otlp_spans", n, traces(span(n, name="poison" if n == 300 else "chat"))) for n in range(1000)
    ]
    result = stage.process(batch(*records))
    assert [reject.record.offset for reject in result.rejects] == [300]
    assert result.counters["spans_stored"] == 999
    assert len(recorder.inserts) <= 10


def test_what_the_drift_stage_reads_is_kept_as_it_was(store: Store) -> None:
    """Given scores, one of them twice, a heartbeat and garbage, some delivered again, I expect each record once, byte for

    byte, with its place."""
    values = [
        msgspec.json.encode(score(5)),
        msgspec.json.encode(Heartbeat(time_unix_nano=NOW)),
        b"\xff{",
        b"",
    ]
    records = [record("scores", place, value) for place, value in enumerate([*values, values[0]])]
    untimed = msgspec.structs.replace(record("scores", 9, values[1]), timestamp_ns=0)
    stage = StoreStage(store, StoreSettings())
    stage.process(batch(*records[:3]))
    stage.process(batch(*records, untimed))
    rows = store.query(
        "SELECT partition, offset, toUnixTimestamp64Nano(log_time) AS at, timed, hex(value) AS value FROM score_log FINAL "
        "ORDER BY partition, offset"
    )
    expected = [
        {
            "partition": 0,
            "offset": one.offset,
            "at": one.timestamp_ns,
            "timed": True,
            "value": one.value.hex().upper(),
        }
        for one in records
    ]
    assert rows[:-1] == expected
    assert (rows[-1]["offset"], rows[-1]["timed"]) == (9, False)
    assert store.query("SELECT count() AS n FROM scores") == [{"n": 1}]


def test_while_the_store_is_down_the_whole_batch_waits() -> None:
    recorder = Recorder(down=2)
    stage = StoreStage(recorder, StoreSettings())
    work = batch(record("scores", 0, msgspec.json.encode(score(1))), record("scores", 1, b"junk"))
    for _ in range(2):
        with pytest.raises(Unavailable):
            stage.process(work)
    result = stage.process(work)
    assert result.counters["scores_stored"] == 1
    assert len(result.rejects) == 1


def test_inserts_are_cut_by_rows_and_named_by_their_records() -> None:
    recorder = Recorder()
    stage = StoreStage(recorder, StoreSettings(insert_max_rows=100))
    records = [record("otlp_spans", n, traces(*(span(n * 60 + i) for i in range(60)))) for n in range(5)]
    other = msgspec.structs.replace(records[0], partition=3)
    stage.process(batch(*records, other))
    tokens = [token for _, _, token in recorder.inserts]
    assert [len(columns["SpanId"]) for _, columns, _ in recorder.inserts] == [120, 120, 60, 60]
    assert tokens == [
        "otlp_spans:0:0-1",
        "otlp_spans:0:2-3",
        "otlp_spans:0:4-4",
        "otlp_spans:3:0-0",
    ]
    again = Recorder()
    StoreStage(again, StoreSettings(insert_max_rows=100)).process(batch(*records, other))
    assert [token for _, _, token in again.inserts] == tokens


def test_spans_need_not_be_stored() -> None:
    recorder = Recorder()
    stage = StoreStage(recorder, StoreSettings(spans="none"))
    result = stage.process(
        batch(record("otlp_spans", 0, traces(span(0), span(1))), record("otlp_spans", 1, b"\xff"))
    )
    assert recorder.inserts == []
    assert result.counters == {"spans_in": 2, "spans_not_stored": 2, "rejected.undecodable": 1}


def test_an_empty_batch_is_nothing() -> None:
    assert StoreStage(Recorder(), StoreSettings()).process(Batch([], NOW)) == Result()
