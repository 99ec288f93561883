"""Driftgate's processes on a real broker, and Kafka clients that are not ours."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import Consumer, Producer
from harness import answer_spans, free_port, kill
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from stream.kafka.settings import KafkaSettings

_SAMPLING = {
    "completion": {"after_root": "300ms", "idle": "2s"},
    "uniform": {"ratio": 1.0},
}


class Fleet:
    """Processes of one installation."""

    def __init__(self, folder: Path, url: str, **sections: Any) -> None:
        self.settings = KafkaSettings.from_url(url)
        self.port = free_port()
        self.path = folder / "driftgate.yaml"
        document = {
            "data": str(folder / "data"),
            "log": url,
            "collector": {"grpc": {"port": self.port}, "http": {"enabled": False}},
            "sampling": _SAMPLING,
            "web": {"enabled": False},
            **sections,
        }
        self.path.write_text(yaml.safe_dump(document))
        self._output = folder / "output.log"
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one process."""
        with self._output.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "driftgate", *arguments, "-c", str(self.path)],
                stdout=output,
                stderr=output,
            )
        self.children.append(child)
        return child

    def said(self) -> str:
        """Return the end of what they said."""
        return self._output.read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End them all."""
        for child in self.children:
            kill(child)


class Tail:
    """A plain Kafka client, as anybody would write it: reads a topic from the beginning."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.brokers,
                "group.id": f"{settings.prefix}plain-{topic}",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        self._consumer.subscribe([settings.topic(topic)])
        self.messages: list[Any] = []

    def read(self) -> list[Any]:
        """Return everything that has come so far."""
        self.messages += [message for message in self._consumer.consume(500, 0.2) if not message.error()]
        return self.messages

    def close(self) -> None:
        """Close the client."""
        self._consumer.close()


class ForeignProducer:
    """Somebody else's exporter: ``otlp_proto`` without a key, several traces in a message, any partition."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic = settings.topic("otlp_spans.foreign")
        self._producer = Producer(
            {
                "bootstrap.servers": settings.brokers,
                "enable.idempotence": True,
                "message.timeout.ms": 10_000,
                "linger.ms": 0,
            }
        )
        self.acknowledged: set[tuple[str, str]] = set()

    def send(self, request: ExportTraceServiceRequest, stop: threading.Event) -> bool:
        """Produce ``request`` until the brokers say that they have it, or ``stop`` is set."""
        value = TracesData(resource_spans=request.resource_spans).SerializeToString()
        while not stop.is_set():
            errors: list[Any] = []
            self._producer.produce(self._topic, value, on_delivery=lambda error, _, e=errors: e.append(error))
            self._producer.flush(30)
            if errors == [None]:
                self.acknowledged.update(answer_spans(request))
                return True
        return False


def span_ids(value: bytes) -> list[tuple[str, str]]:
    """Decode with OpenTelemetry's own classes."""
    return [
        (span.trace_id.hex(), span.span_id.hex())
        for resource in TracesData.FromString(value).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
