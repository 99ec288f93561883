"""Spans of producers that are not ours: any key, many traces in a message, personal data in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Producer
from harness import wait_until
from kafka_fleet import Fleet, Tail, span_ids
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from traces import request, trace

from driftgate.ledger import balance, spans_published
from stream.kafka.log import KafkaLog
from stream.kafka.topics import Topics, wanted

_MAIL = "ada.lovelace" + "@" + "analytical-engines.example"


def message(*spans: list) -> bytes:
    """Return what the OpenTelemetry Collector's Kafka exporter writes: ``otlp_proto``."""
    made = TracesData()
    for some in spans:
        made.resource_spans.extend(request(some).resource_spans)
    return made.SerializeToString()


def test_foreign_spans_are_redacted_and_each_trace_is_whole_however_it_was_scattered(
    make_url: Callable[..., str], tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, make_url(transaction_timeout="5s"))
    Topics(fleet.settings).create(wanted(fleet.settings))
    log = KafkaLog(fleet.settings)
    traces = [trace(n, question=f"My address is {_MAIL}, is it on file?") for n in range(20)]
    topic = fleet.settings.topic("otlp_spans.foreign")
    producer = Producer({"bootstrap.servers": fleet.settings.brokers})
    # Without a key, many traces in one message, and the rest of each trace in a message on the other partition.
    producer.produce(topic, message(*(spans[1:] for spans in traces)), partition=0)
    producer.produce(topic, b"\xff not protobuf, and " + _MAIL.encode(), partition=0)
    producer.produce(topic, message(*(spans[:1] for spans in traces)), partition=1)
    assert producer.flush(10) == 0
    kept = Tail(fleet.settings, "traces.sampled")
    published = Tail(fleet.settings, "otlp_spans")
    letters = Tail(fleet.settings, "dead_letters")
    try:
        for stage in ("intake", "intake", "sampler", "sampler"):
            fleet.start("worker", stage)
        # What comes after its trace was decided follows in a message of its own.
        wait_until(
            lambda: sum(len([*span_ids(m.value())]) for m in kept.read()) >= 3 * len(traces),
            lambda: f"every span; {fleet.said()}",
            90,
        )
        wait_until(letters.read, "the dead letter")
        wait_until(
            # What came and was decided within one batch never counts as pending at all.
            lambda: log.counters()["sampler"].get("spans_pending", 0) == 0,
            lambda: f"nothing pending; {log.counters()} {fleet.said()}",
            30,
        )
        found = Counter(span for m in kept.messages for span in span_ids(m.value()))
        assert found == Counter((s.trace_id.hex(), s.span_id.hex()) for spans in traces for s in spans)
        written = [*published.read(), *kept.messages, *letters.messages]
        assert not any(_MAIL.encode() in m.value() for m in written)
        assert any(b"[EMAIL]" in m.value() for m in kept.messages)
        (letter,) = letters.messages
        headers = dict(letter.headers())
        assert (letter.value(), headers["reason"], headers["stage"]) == (b"", b"undecodable", b"intake")
        assert (headers["original-topic"], headers["original-partition"]) == (b"otlp_spans.foreign", b"0")
        ledger = log.counters()
        assert ledger["intake"]["spans_received"] == ledger["sampler"]["spans_in"] == 3 * len(traces)
        assert spans_published(ledger) == 3 * len(traces)
        lines = {line.name: line for line in balance(ledger, {})}
        assert lines["foreign spans received"].balanced
        assert lines["spans sampled"].balanced
    finally:
        fleet.stop()
        for tail in (kept, published, letters):
            tail.close()
        log.close()
