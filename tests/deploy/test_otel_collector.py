"""The OpenTelemetry Collector's configurations, in a real Collector: validated, and run between real ends.

The Collector is built from the components that the files name, at the version that docs/deploy.md names."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from confluent_kafka import Consumer
from deploy_tools import tool
from deployed import ROOT
from harness import PATIENCE_S, free_port, kill, wait_until
from kafka_broker import Cluster
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from receiving import starting
from traces import request, trace

from collector.partition import partition
from stream.errors import Unavailable
from stream.kafka.log import KafkaLog
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import Topics, wanted
from stream.stage import Output

FOLDER = ROOT / "deploy/otel-collector"
FILES = sorted(FOLDER.glob("*.yaml"))
TOKEN = "tenant" + "-token-of-a-test"
EXAMPLE = {
    "DRIFTGATE_ENDPOINT": "127.0.0.1:4317",
    "DRIFTGATE_TOKEN": TOKEN,
    "KAFKA_BROKERS": "127.0.0.1:9092",
    "BACKEND_ENDPOINT": "127.0.0.1:4319",
}


def validate(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**EXAMPLE, "QUEUE_FOLDER": str(folder), "PATH": os.environ["PATH"]}
    return subprocess.run(
        [tool("otelcol"), "validate", "--config", str(path)], capture_output=True, text=True, env=environment
    )


class Collector:
    """One running Collector."""

    def __init__(self, name: str, folder: Path, **environment: str) -> None:
        self.port = free_port()
        self.output = folder / f"{name}.log"
        settings = {
            "LISTEN_GRPC_PORT": str(self.port),
            "LISTEN_HTTP_PORT": str(free_port()),
            "LISTEN_HEALTH_PORT": str(free_port()),
            **environment,
        }
        with self.output.open("wb") as output:
            self._child = subprocess.Popen(
                [tool("otelcol"), "--config", str(FOLDER / f"{name}.yaml")],
                env={**os.environ, **settings},
                stdout=output,
                stderr=output,
            )

    def send(self, message: ExportTraceServiceRequest) -> None:
        """Export like an application, waiting until the Collector listens."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            TraceServiceStub(channel).Export(message, timeout=30, wait_for_ready=True)  # type: ignore[no-untyped-call]

    def said(self) -> str:
        return self.output.read_text()[-2000:]

    def stop(self) -> None:
        kill(self._child)


@pytest.fixture
def collectors() -> Iterator[list[Collector]]:
    """Collectors put into this list end with the test."""
    started: list[Collector] = []
    yield started
    for collector in started:
        collector.stop()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_collector_accepts_it(path: Path, tmp_path: Path) -> None:
    done = validate(path, tmp_path)
    assert done.returncode == 0, done.stderr
    wrong = tmp_path / path.name
    wrong.write_text(path.read_text().replace("exporters:", "exporters:\n  otlp/x: {endpiont: a}", 1))
    assert "endpiont" in validate(wrong, tmp_path).stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_variable_is_explained_or_has_a_default(path: Path) -> None:
    text = path.read_text()
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    used = set(re.findall(r"\$\{env:(\w+)\}", text))
    assert used
    assert used <= set(re.findall(r"^#   (\w+) ", head, re.MULTILINE))
    assert not re.search(r"(?i)bearer [a-z0-9]", text)


def test_spans_are_forwarded_with_the_token_and_again_after_a_refusal(
    tmp_path: Path, collectors: list[Collector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTGATE_TEST_TENANT", TOKEN)
    with starting() as begin:
        running = begin(tenants=[{"name": "one", "token": "${env:DRIFTGATE_TEST_TENANT}"}], retry_after=0.2)
        running.log.error = Unavailable("log_down", retry_after=0.2)
        collector = Collector(
            "forward",
            tmp_path,
            DRIFTGATE_ENDPOINT=running.grpc,
            DRIFTGATE_TOKEN=TOKEN,
            DRIFTGATE_INSECURE="true",
            QUEUE_FOLDER=str(tmp_path / "queue"),
        )
        collectors.append(collector)
        sent = [span for number in range(20) for span in trace(f"forward-{number}")]
        collector.send(request(sent))
        assert running.log.entered.wait(PATIENCE_S), collector.said()  # refused once at least
        running.log.error = None
        wait_until(lambda: len(running.log.spans) == len(sent), f"all spans; {collector.said()}")
        assert {s.span_id for s in running.log.spans} == {s.span_id for s in sent}
        assert {dict(output.headers)["tenant"] for output in running.log.outputs} == {b"one"}


def test_spans_go_to_kafka_and_come_from_it(
    tmp_path: Path, kafka: Cluster, collectors: list[Collector]
) -> None:
    url = f"kafka://{kafka.bootstrap}/?prefix=otel.&partitions=4&replication=1&min_insync=1"
    settings = KafkaSettings.from_url(url)
    Topics(settings).create(wanted(settings))
    topic = {"KAFKA_BROKERS": kafka.bootstrap, "SPANS_TOPIC": settings.topic("otlp_spans")}
    with starting() as begin:
        backend = begin()
        writer = Collector("to-kafka", tmp_path, **topic)
        reader = Collector(
            "from-kafka", tmp_path, **topic, BACKEND_ENDPOINT=backend.grpc, BACKEND_INSECURE="true"
        )
        collectors += [writer, reader]
        # What driftgate's collector writes, in its transaction.
        log = KafkaLog(settings)
        ours = trace("ours")
        value = TracesData(resource_spans=request(ours).resource_spans).SerializeToString()
        log.append([Output("otlp_spans", value, ours[0].trace_id)], group="collector", counters={}).result(30)
        log.close()
        theirs = [span for number in range(12) for span in trace(f"theirs-{number}")]
        writer.send(request(theirs))
        expected = {span.span_id for span in (*ours, *theirs)}
        wait_until(
            lambda: {span.span_id for span in backend.log.spans} == expected,
            f"all spans at the backend; {reader.said()} {writer.said()}",
            60,
        )
    found = records(settings)
    assert len(found) == 13  # one record per trace
    for message in found:
        spans = [
            span
            for group in TracesData.FromString(message.value()).resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        (identity,) = {span.trace_id for span in spans}
        # This exporter hashes the hexadecimal form, driftgate's collector the bytes.
        key = identity if identity == ours[0].trace_id else identity.hex().encode()
        assert message.key() == key
        assert message.partition() == partition(key, 4)


def records(settings: KafkaSettings) -> list[Any]:
    """Return all records of the span topic, read by a plain client."""
    consumer = Consumer(
        {"bootstrap.servers": settings.brokers, "group.id": "otel.plain", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([settings.topic("otlp_spans")])
    found: list[Any] = []
    wait_until(
        lambda: found.extend(m for m in consumer.consume(500, 0.5) if not m.error()) or len(found) >= 13,
        "records",
        30,
    )
    found += [m for m in consumer.consume(500, 0.5) if not m.error()]
    consumer.close()
    return found
