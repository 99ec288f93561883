"""The sampler on real parts: telemetry of the OpenTelemetry SDK, and the SQLite log through a kill."""

from __future__ import annotations

from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from scorers.sampler import SamplerStage
from scorers.sampling.settings import SamplingSettings
from stream.records import TOPIC_LOGS, TOPIC_SAMPLED, TOPIC_SPANS
from stream.sqlite_log import SqliteLog
from stream.stage import Batch, Output


def _telemetry() -> tuple[bytes, bytes, list[bytes]]:
    """Ten traces of two spans each, with a content event per call, as the SDK encodes them."""
    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
    tracers, loggers = TracerProvider(), LoggerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    tracer, logger = tracers.get_tracer("app"), loggers.get_logger("genai")
    ids = []
    for number in range(10):
        with tracer.start_as_current_span("invoke_agent") as root:
            ids.append(root.get_span_context().trace_id.to_bytes(16, "big"))
            with tracer.start_as_current_span("chat", attributes={"gen_ai.request.model": "m"}):
                logger.emit(
                    LogRecord(event_name="gen_ai.user.message", body={"content": f"question {number}"})
                )
    return (
        encode_spans(spans.get_finished_spans()).SerializeToString(),
        encode_logs(logs.get_finished_logs()).SerializeToString(),
        ids,
    )


def test_sdk_telemetry_comes_out_whole_with_its_content(rig, runtime):
    spans, logs, ids = _telemetry()
    run = runtime()
    run.write(TOPIC_LOGS, 0, logs)
    run.write(TOPIC_SPANS, 1, spans)
    kept = run.run()
    assert {item.trace_id for item in kept} == set(ids)
    for item in kept:
        by_name = {span.name: span for span in item.spans}
        assert set(by_name) == {"invoke_agent", "chat"}
        [event] = by_name["chat"].events
        body = {pair.key: pair.value for pair in event.attributes}["event.body"]
        assert body.kvlist_value.values[0].value.string_value == f"question {ids.index(item.trace_id)}"


def test_sqlite_log_survives_a_kill_after_every_batch(tmp_path):
    spans, logs, ids = _telemetry()
    path = tmp_path / "log.sqlite"
    log = SqliteLog(path)
    for topic, payload in ((TOPIC_LOGS, logs), (TOPIC_SPANS, spans), (TOPIC_SPANS, spans)):
        output = Output(topic, payload, b"", (("tenant", b"t"),))
        log.append([output], group="collector", counters={}).result()
    log.close()
    for later in (0, 1, 8, 9, 20):
        log = SqliteLog(path)
        stage = SamplerStage(SamplingSettings())
        consumer = log.consumer(stage.name, stage.topics)
        stage.assign(0, consumer.saved_state(0))
        records = consumer.poll(100, 0.0)
        newest = max((record.timestamp_ns for record in records), default=0)
        consumer.commit(records, stage.process(Batch(records, newest)))
        if later:
            now = log_time(log) + later * 1_000_000_000
            consumer.commit([], stage.process(Batch([], now)))
        consumer.close()
        log.close()
    log = SqliteLog(path)
    reader = log.consumer("reader", (TOPIC_SAMPLED,))
    assert sorted(record.key for record in reader.poll(100, 0.0)) == sorted(ids)
    ledger = log.counters()["sampler"]
    assert (ledger["spans_in"], ledger["spans_kept"], ledger["spans_duplicate"]) == (40, 20, 20)
    assert (ledger["spans_pending"], ledger["logs_joined"]) == (0, 10)
    reader.close()
    log.close()


def log_time(log: SqliteLog) -> int:
    """The timestamp of the newest span record."""
    probe = log.consumer("probe", (TOPIC_SPANS,))
    newest = max(record.timestamp_ns for record in probe.poll(100, 0.0))
    probe.close()
    return newest
