"""Turn records of the log into columns of the store's tables.

Values are stored as the OpenTelemetry Collector's ClickHouse exporter stores them: attribute values as text (numbers and
booleans in their JSON form, arrays and maps as JSON), span kinds and status codes by the names ``Server``, ``Error``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
import orjson
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from stream.errors import Permanent
from stream.records import (
    HEADER_LANE,
    HEADER_LATE,
    HEADER_POLICY,
    HEADER_POLICY_VERSION,
    HEADER_PROBABILITY,
    HEADER_TENANT,
    CohortWindow,
    Heartbeat,
    OperationsRecord,
    ScoreRecord,
    Verdict,
)
from stream.spans import MAX_ATTRIBUTES, any_value
from stream.stage import Record

_KINDS = ("Unspecified", "Internal", "Server", "Client", "Producer", "Consumer")
_STATUS = ("Unset", "Ok", "Error")
_ERROR = 2
_MAX_EVENTS = 10_000

_TYPES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OPERATIONS = msgspec.json.Decoder(OperationsRecord)
_SCORES = msgspec.json.Decoder(ScoreRecord)
_HEARTBEATS = msgspec.json.Decoder(Heartbeat)
_WINDOWS = msgspec.json.Decoder(CohortWindow)
_VERDICTS = msgspec.json.Decoder(Verdict)

_COHORT = ("route", "prompt_name", "prompt_version", "model", "user_cohort", "service", "environment")

Row = dict[str, Any]


def parse_traces(record: Record) -> TracesData:
    """Return the spans of a record; raises :class:`stream.errors.Permanent` if it is not ``TracesData``."""
    try:
        return TracesData.FromString(record.value)
    except DecodeError as error:
        raise Permanent("undecodable", "not an OTLP TracesData message") from error


def span_rows(record: Record) -> list[Row]:
    """Return the rows of ``otel_traces`` in a record of ``otlp_spans``."""
    ours = {
        "Tenant": record.header(HEADER_TENANT, "default"),
        "RedactionPolicy": record.header(HEADER_POLICY_VERSION),
        "IngestedAt": record.timestamp_ns,
    }
    rows: list[Row] = []
    for group in parse_traces(record).resource_spans:
        resource = text_map(group.resource.attributes)
        for scoped in group.scope_spans:
            around = {
                "ServiceName": resource.get("service.name", ""),
                "ResourceAttributes": resource,
                "ScopeName": scoped.scope.name,
                "ScopeVersion": scoped.scope.version,
                **ours,
            }
            rows.extend(_span_row(span, around) for span in scoped.spans)
    return rows


def _span_row(span: Span, around: Row) -> Row:
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    events = span.events[:_MAX_EVENTS] if span.events else ()
    links = span.links[:_MAX_EVENTS] if span.links else ()
    return {
        "Timestamp": start,
        "TraceId": span.trace_id.hex(),
        "SpanId": span.span_id.hex(),
        "ParentSpanId": span.parent_span_id.hex() if any(span.parent_span_id) else "",
        "TraceState": span.trace_state,
        "SpanName": span.name,
        "SpanKind": _KINDS[span.kind] if 0 <= span.kind < len(_KINDS) else "Unspecified",
        "SpanAttributes": text_map(span.attributes),
        "Duration": max(end - start, 0),
        "StatusCode": _STATUS[span.status.code] if 0 <= span.status.code < len(_STATUS) else "Unset",
        "StatusMessage": span.status.message,
        "Events.Timestamp": [event.time_unix_nano for event in events],
        "Events.Name": [event.name for event in events],
        "Events.Attributes": [text_map(event.attributes) for event in events],
        "Links.TraceId": [link.trace_id.hex() for link in links],
        "Links.SpanId": [link.span_id.hex() for link in links],
        "Links.TraceState": [link.trace_state for link in links],
        "Links.Attributes": [text_map(link.attributes) for link in links],
        **around,
    }


def text_map(pairs: Iterable[KeyValue]) -> dict[str, str]:
    """Return an attribute list as text by key; of a repeated key the last value wins, at most 20,000 are read."""
    found: dict[str, str] = {}
    for count, pair in enumerate(pairs):
        if count >= MAX_ATTRIBUTES:
            break
        found[pair.key] = _text(pair.value)
    return found


def _text(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind == "int_value":
        return str(value.int_value)
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind == "double_value":
        number = value.double_value
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode("ascii")
    if kind is None:
        return ""
    # Integers beyond 64 bits do not occur in OTLP; NaN and infinity become null.
    return orjson.dumps(any_value(value)).decode("utf-8")


def sampled_rows(record: Record) -> list[Row]:
    """Return the row of ``sampled_traces`` for a record of ``traces.sampled``."""
    ids: list[bytes] = []
    errors = 0
    trace_id = record.key
    start, end = 2**64, 0
    root: Span | None = None
    service = ""
    for group in parse_traces(record).resource_spans:
        name = next((_text(p.value) for p in group.resource.attributes if p.key == "service.name"), "")
        for scoped in group.scope_spans:
            for span in scoped.spans:
                ids.append(span.span_id)
                trace_id = trace_id or span.trace_id
                errors += span.status.code == _ERROR
                start = min(start, span.start_time_unix_nano)
                end = max(end, span.end_time_unix_nano)
                if root is None or (any(root.parent_span_id) and not any(span.parent_span_id)):
                    root, service = span, name
    if root is None:
        raise Permanent("no_spans", "a sampled trace without spans")
    return [
        {
            "time": start,
            "tenant": record.header(HEADER_TENANT, "default"),
            "trace_id": trace_id.hex(),
            "lane": record.header(HEADER_LANE, "uniform"),
            "policy": record.header(HEADER_POLICY),
            "probability": _probability(record.header(HEADER_PROBABILITY)),
            "late": record.header(HEADER_LATE) == "1",
            "spans": len(ids),
            "errors": errors,
            "duration_ns": max(end - start, 0),
            "service": service,
            "root_name": root.name,
            "chunk_id": hashlib.blake2b(b"".join(sorted(ids)), digest_size=16).hexdigest(),
            "ingested_at": record.timestamp_ns,
        }
    ]


def _probability(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 < value <= 1.0 else None


def score_rows(record: Record) -> list[Row]:
    """Return the row of ``scores`` for a record of ``scores``; none for a heartbeat."""
    kind = bytes(_decode(_TYPES, record).get("type", b""))
    if kind == b'"heartbeat"':
        _decode(_HEARTBEATS, record)
        return []
    score = _decode(_SCORES, record)
    cohort = score.cohort
    row: Row = {
        "time": score.time_unix_nano,
        "tenant": score.tenant,
        "rubric": score.rubric,
        "score_id": score.score_id,
        "trace_id": score.trace_id,
        "span_id": score.span_id,
        "unit_id": score.unit_id,
        "status": score.status,
        "value": score.value,
        "label": score.label,
        "explanation": score.explanation,
        "reason": score.reason,
        "evaluator": score.evaluator.identity,
        "evaluator_kind": score.evaluator.kind,
        "judge_model": score.evaluator.model,
        "cost_usd": score.cost_usd,
        "input_tokens": max(score.input_tokens, 0),
        "output_tokens": max(score.output_tokens, 0),
        "lane": score.lane,
        "policy": score.policy,
        "anchor": score.anchor,
        "reference": score.reference,
        "probability": score.probability,
        "cohort": cohort,
        "route": cohort.get("route", ""),
        "prompt_name": cohort.get("prompt_name", ""),
        "prompt_version": cohort.get("prompt_version", ""),
        "model": cohort.get("model", ""),
        "user_cohort": cohort.get("user_cohort", ""),
        "service": cohort.get("service", ""),
        "environment": cohort.get("environment", ""),
        "ingested_at": record.timestamp_ns,
    }
    return [row]


def log_rows(record: Record, timed: bool) -> list[Row]:
    """Return the row of ``score_log`` for any record of ``scores``; never fails, whatever the record holds.

    ``timed`` says whether the log gave the record's time.
    """
    return [
        {
            "partition": record.partition,
            "offset": record.offset,
            "log_time": record.timestamp_ns,
            "timed": timed,
            "value": record.value,
        }
    ]


def operation_rows(record: Record) -> list[Row]:
    """Return the rows of ``operations`` in an operations record of ``scores``."""
    found = _decode(_OPERATIONS, record)
    cohort = found.cohort
    around = {
        "tenant": found.tenant,
        **{name: cohort.get(name, "") for name in _COHORT},
        "ingested_at": record.timestamp_ns,
    }
    return [
        {
            "time": facts.time_unix_nano,
            "trace_id": facts.trace_id,
            "unit_id": facts.unit_id or facts.trace_id,
            "flags": facts.flags,
            "latency_s": facts.latency_s,
            "first_token_s": facts.first_token_s,
            "input_tokens": _natural(facts.input_tokens),
            "output_tokens": _natural(facts.output_tokens),
            "cached_tokens": _natural(facts.cached_tokens),
            "cost_usd": facts.cost_usd,
            "tool_calls": min(max(facts.tool_calls, 0), 2**32 - 1),
            "tool_failures": min(max(facts.tool_failures, 0), 2**32 - 1),
            "cache_hit": facts.cache_hit,
            **around,
        }
        for facts in found.traces
    ]


def _natural(value: int | None) -> int | None:
    return None if value is None else min(max(value, 0), 2**63 - 1)


def window_rows(record: Record) -> list[Row]:
    """Return the row of ``cohort_windows`` for a record of ``cohort_windows``."""
    window = _decode(_WINDOWS, record)
    return [
        {
            "end_time": window.end_unix_nano,
            "tenant": window.tenant,
            "view": window.view,
            "cohort": window.cohort,
            "attributes": window.attributes,
            "rubric": window.rubric,
            "evaluator": window.evaluator,
            "window_seconds": window.window_seconds,
            "n": window.n,
            "n_eff": window.n_eff,
            "mean": window.mean,
            "standard_error": window.standard_error,
            "pass_rate": window.pass_rate,
            "worst_decile_mean": window.worst_decile_mean,
            "p5": window.p5,
            "p50": window.p50,
            "p95": window.p95,
            "weight": window.weight,
            "levels": window.levels,
            "version": window.version,
            "ingested_at": record.timestamp_ns,
        }
    ]


def verdict_rows(record: Record) -> list[Row]:
    """Return the row of ``verdicts`` for a record of ``verdicts``."""
    verdict = _decode(_VERDICTS, record)
    evidence = verdict.evidence
    return [
        {
            "time": verdict.time_unix_nano,
            "tenant": verdict.tenant,
            "verdict_id": verdict.verdict_id,
            "kind": verdict.kind,
            "rollout": verdict.rollout,
            "route": verdict.route,
            "prompt_name": verdict.prompt_name,
            "rubric": verdict.rubric,
            "evaluator": verdict.evaluator,
            "arm": verdict.arm,
            "incumbent": verdict.incumbent,
            "candidate": verdict.candidate,
            "state": verdict.state,
            "previous_state": verdict.previous_state or "",
            "severity": verdict.severity,
            "action": verdict.action,
            "attribution": verdict.attribution,
            "reason": verdict.reason,
            "e_value": evidence.e_value,
            "e_threshold": evidence.e_threshold,
            "sr_value": evidence.sr_value,
            "sr_threshold": evidence.sr_threshold,
            "mean_difference": evidence.mean_difference,
            "interval_low": evidence.interval_low,
            "interval_high": evidence.interval_high,
            "pairs": evidence.pairs,
            "candidate_units": evidence.candidate_units,
            "incumbent_units": evidence.incumbent_units,
            "worst_trace_ids": evidence.worst_trace_ids,
            "evidence": msgspec.json.encode(evidence).decode("utf-8"),
            "record": record.value,
            "ingested_at": record.timestamp_ns,
        }
    ]


def dead_letter_rows(record: Record) -> list[Row]:
    """Return the row of ``dead_letters``; never fails, whatever the record holds."""
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    return [
        {
            "time": record.timestamp_ns,
            "tenant": headers.pop("tenant", "default"),
            "stage": headers.pop("stage", ""),
            "reason": headers.pop("reason", ""),
            "error": headers.pop("error", ""),
            "topic": headers.pop("original-topic", record.topic),
            "partition": _integer(headers.pop("original-partition", ""), record.partition, 2**31 - 1),
            "offset": _integer(headers.pop("original-offset", ""), record.offset, 2**63 - 1),
            "key": record.key,
            "value": record.value,
            "headers": headers,
        }
    ]


def _integer(text: str, default: int, limit: int) -> int:
    try:
        value = int(text)
    except ValueError:
        return default
    return value if 0 <= value <= limit else default


def _decode(decoder: msgspec.json.Decoder[Any], record: Record) -> Any:
    try:
        return decoder.decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec names the field that does not fit, never its value.
        raise Permanent("undecodable", f"not a record of {record.topic}: {str(error)[:200]}") from error
