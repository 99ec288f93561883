"""Quarantined items on Kafka: listed and decrypted from the topic."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner
from harness import PATIENCE_S
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from collector.ingest import Ingest
from collector.settings import CollectorSettings
from driftgate.cli import cli
from stream.kafka.log import KafkaLog
from stream.kafka.settings import KafkaSettings


def test_items_come_back_from_the_topic(make_url: Callable[..., str], tmp_path: Path) -> None:
    url, file, runner = make_url(), tmp_path / "driftgate.yaml", CliRunner()
    file.write_text(f"log: {url}\n")
    key = tmp_path / "key.pem"
    public = runner.invoke(cli, ["quarantine", "keygen", str(key)]).output.split("public_key: ")[1].split()[0]
    runner.invoke(cli, ["topics", "create", "-c", str(file)], catch_exceptions=False)
    assert runner.invoke(cli, ["quarantine", "list", "-c", str(file)]).output == "nothing is quarantined\n"

    ingest = Ingest(
        CollectorSettings.model_validate({"max_string_bytes": 1024, "quarantine": {"public_key": public}}),
        partitions=2,
    )
    log = KafkaLog(KafkaSettings.from_url(url))
    try:
        for number in range(1, 6):
            request = ExportTraceServiceRequest()
            span = (
                request.resource_spans.add()
                .scope_spans.add()
                .spans.add(trace_id=bytes([number]) * 16, span_id=b"s" * 8)
            )
            span.name = f"name {number}" + "x" * 2000
            ingested = ingest.traces(request)
            log.append(ingested.outputs, group="collector", counters=ingested.counters).result(PATIENCE_S)
        assert log.counters()["collector"]["spans_quarantined"] == 5
    finally:
        log.close()

    listed = runner.invoke(cli, ["quarantine", "list", "--json", "-c", str(file)], catch_exceptions=False)
    ids = [json.loads(line)["id"] for line in listed.output.splitlines()]
    assert len(set(ids)) == 5
    opened = runner.invoke(
        cli, ["quarantine", "decrypt", "--key", f"file:{key}", "-c", str(file)], catch_exceptions=False
    )
    names = sorted(
        json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"][:6]
        for line in opened.output.splitlines()
    )
    assert names == [f"name {number}" for number in range(1, 6)]
