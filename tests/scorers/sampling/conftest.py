"""A runtime in memory for the sampler: a log of two topics, what was committed and saved, and crashes at will."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from scorers.sampler import SamplerStage
from scorers.sampling.settings import SamplingSettings
from stream.records import TOPIC_LOGS, TOPIC_SAMPLED, TOPIC_SCORES, TOPIC_SPANS, OperationsRecord
from stream.stage import Batch, Output, Record, Reject, Result

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def trace_id(number: int) -> bytes:
    """A random-looking trace id that is the same in every run."""
    return hashlib.blake2b(b"trace %d" % number, digest_size=16).digest()


def span_id(number: int) -> bytes:
    """Span id ``number`` + 1."""
    return (number + 1).to_bytes(8, "big")


def span(trace: int | bytes, number: int, parent: int | None = None, **fields: Any) -> Span:
    """One span; without ``parent`` it is a root."""
    status = fields.pop("status", 0)
    attributes = fields.pop("attributes", {})
    made = Span(
        trace_id=trace_id(trace) if isinstance(trace, int) else trace,
        span_id=span_id(number),
        parent_span_id=b"" if parent is None else span_id(parent),
        **{
            "name": f"span {number}",
            "start_time_unix_nano": START,
            "end_time_unix_nano": START + SECOND,
            **fields,
        },
    )
    made.status.code = status
    for key, value in attributes.items():
        set_value(made.attributes.add(key=key).value, value)
    return made


def set_value(target: Any, value: Any) -> None:
    """Put a Python value into an AnyValue."""
    match value:
        case bool():
            target.bool_value = value
        case int():
            target.int_value = value
        case float():
            target.double_value = value
        case list():
            for item in value:
                set_value(target.array_value.values.add(), item)
        case _:
            target.string_value = value


def spans_payload(spans: Iterable[Span], resource: str = "shop", scope: str = "lib") -> bytes:
    """A TracesData of ``spans``."""
    data = TracesData()
    group = data.resource_spans.add(schema_url="https://schema/r")
    group.resource.attributes.add(key="service.name").value.string_value = resource
    scoped = group.scope_spans.add(schema_url="https://schema/s")
    scoped.scope.name = scope
    scoped.spans.extend(spans)
    return data.SerializeToString()


def logs_payload(logs: Iterable[dict[str, Any]]) -> bytes:
    """A LogsData; each log is a dict of trace (number), span (number or None), name, body, attributes."""
    data = LogsData()
    records = data.resource_logs.add().scope_logs.add().log_records
    for log in logs:
        made = records.add(time_unix_nano=log.get("time", START), event_name=log.get("name", "gen_ai.choice"))
        if log.get("trace") is not None:
            made.trace_id = trace_id(log["trace"])
        if log.get("span") is not None:
            made.span_id = span_id(log["span"])
        if "body" in log:
            set_value(made.body, log["body"])
        for key, value in log.get("attributes", {}).items():
            set_value(made.attributes.add(key=key).value, value)
    return data.SerializeToString()


class Kept:
    """One record on ``traces.sampled``, decoded."""

    def __init__(self, output: Output) -> None:
        headers = {key: value.decode() for key, value in output.headers}
        self.trace_id = output.key
        self.tenant = headers["tenant"]
        self.lane = headers["lane"]
        self.policy = headers["policy"]
        self.probability = float(headers["probability"]) if headers["probability"] else None
        self.late = headers.get("late") == "1"
        self.data = TracesData.FromString(output.value)
        self.size = len(output.value)
        self.spans = [
            span
            for group in self.data.resource_spans
            for scoped in group.scope_spans
            for span in scoped.spans
        ]

    @property
    def numbers(self) -> list[int]:
        """The numbers of its spans."""
        return sorted(int.from_bytes(item.span_id, "big") - 1 for item in self.spans)


class Runtime:
    """Plays the runtime: positions, and one transaction of outputs, state, ledger and offsets per batch."""

    def __init__(self, settings: SamplingSettings | dict[str, Any] | None = None) -> None:
        self.settings = (
            SamplingSettings.model_validate(settings or {})
            if not isinstance(settings, SamplingSettings)
            else settings
        )
        self.log: dict[str, list[Record]] = {TOPIC_SPANS: [], TOPIC_LOGS: []}
        self.committed: dict[str, int] = {}
        self.state: dict[str, bytes] = {}
        self.ledger: dict[str, int] = {}
        self.outputs: list[Output] = []
        self.told: list[OperationsRecord] = []
        self.rejects: list[Reject] = []
        self.goes_back = False  # whether a commit may name an earlier offset than the last
        self.restart()

    def restart(self) -> None:
        """Start with what is saved, as after a kill."""
        self.stage = SamplerStage(self.settings)
        self.stage.assign(0, dict(self.state))
        self.position = dict(self.committed)

    def write(self, topic: str, at: float, payload: bytes, tenant: str = "t") -> None:
        """Append a record with the timestamp START + ``at`` seconds."""
        place = self.log[topic]
        headers = (("tenant", tenant.encode()), ("redaction-policy", b"7"))
        place.append(Record(topic, 0, len(place), payload, b"", headers, START + int(at * SECOND)))

    def spans(self, at: float, *spans: Span, tenant: str = "t", **group: str) -> None:
        """Append a record of spans."""
        self.write(TOPIC_SPANS, at, spans_payload(spans, **group), tenant)

    def logs(self, at: float, *logs: dict[str, Any], tenant: str = "t") -> None:
        """Append a record of log records."""
        self.write(TOPIC_LOGS, at, logs_payload(logs), tenant)

    def take(self, counts: dict[str, int]) -> list[Record]:
        """The next records of each topic."""
        taken: list[Record] = []
        for topic, count in counts.items():
            at = self.position.get(topic, 0)
            found = self.log[topic][at : at + count]
            self.position[topic] = at + len(found)
            taken.extend(found)
        return taken

    def process(self, records: list[Record], now: float, *, lost: bool = False) -> Result:
        """Hand over a batch at START + ``now`` seconds; with ``lost`` the process is killed before the commit."""
        result = self.stage.process(Batch(records, START + int(now * SECOND)))
        if lost:
            self.restart()
            return result
        offsets = {record.topic: record.offset + 1 for record in records}
        offsets.update({topic: offset for (topic, _), offset in (result.commit or {}).items()})
        if not self.goes_back:
            assert all(offset >= self.committed.get(topic, 0) for topic, offset in offsets.items())
        self.committed.update(offsets)
        for (_, key), value in result.state.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        for name, by in result.counters.items():
            self.ledger[name] = self.ledger.get(name, 0) + by
        self.outputs.extend(output for output in result.outputs if output.topic == TOPIC_SAMPLED)
        for output in result.outputs:
            if output.topic == TOPIC_SCORES:
                self.told.append(msgspec.json.decode(output.value, type=OperationsRecord))
        self.rejects.extend(result.rejects)
        self.check_balance()
        return result

    def tick(self, now: float) -> Result:
        """Hand over an empty batch."""
        return self.process([], now)

    def run(self, until: float | None = None) -> list[Kept]:
        """Hand over everything written since, then let time pass, and return what came out of it."""
        before = len(self.outputs)
        now = until if until is not None else 10_000.0
        self.process(self.take({TOPIC_SPANS: 1_000_000, TOPIC_LOGS: 1_000_000}), now)
        self.tick(now)
        return [Kept(output) for output in self.outputs[before:]]

    def count(self, name: str) -> int:
        """Value of a durable counter."""
        return self.ledger.get(name, 0)

    def check_balance(self) -> None:
        """What came in is somewhere."""
        for what, places in (
            ("spans", ("kept", "dropped", "duplicate", "invalid", "pending", "lost")),
            ("logs", ("joined", "dropped", "pending", "lost")),
        ):
            parts = {place: self.count(f"{what}_{place}") for place in places}
            assert self.count(f"{what}_in") == sum(parts.values()), (what, self.ledger)
            assert min(parts.values()) >= 0, (what, self.ledger)


class Rig:
    """What tests of the sampler use."""

    Runtime = Runtime
    Kept = Kept
    SECOND = SECOND
    START = START
    span = staticmethod(span)
    span_id = staticmethod(span_id)
    trace_id = staticmethod(trace_id)
    spans_payload = staticmethod(spans_payload)
    logs_payload = staticmethod(logs_payload)


@pytest.fixture(scope="session")
def rig() -> type[Rig]:
    """Builders of telemetry, and the runtime."""
    return Rig


@pytest.fixture
def runtime() -> Callable[..., Runtime]:
    """Make a runtime with settings."""
    return Runtime
