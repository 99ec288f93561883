"""Spans and log records that other producers write to Kafka, taken in as a request over OTLP is.

An OpenTelemetry Collector's Kafka exporter, or any producer of OTLP protobuf, writes to ``otlp_spans.foreign`` and
``otlp_logs.foreign``, with any key or none and any number of traces in a message. This stage checks and redacts what is
in them and cuts it into one chunk per partition, so that on ``otlp_spans`` there is no difference any more.

What cannot be used is refused and counted. Its bytes are not copied into a dead letter, which would carry what was never
redacted into topics and tables that hold redacted data only; the letter names the place where they stand.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from collector.ingest import Ingest
from collector.settings import CollectorSettings
from stream.errors import Permanent
from stream.records import HEADER_TENANT, TOPIC_FOREIGN_LOGS, TOPIC_FOREIGN_SPANS
from stream.stage import Batch, Record, Reject, Result


class ForeignStage:
    """See the module.

    Delivery: once, as far as the runtime commits outputs and offsets together. Durable counters are those of the
    collector, under the group ``intake``, and ``records_undecodable``.

    Parameters
    ----------
    settings
        Limits and redaction policy, the same as for the receivers.
    partitions
        Partition count of ``otlp_spans`` and ``otlp_logs``.

    Raises
    ------
    ConfigError
        The redaction policy cannot be used.
    """

    name = "intake"
    topics: tuple[str, ...] = (TOPIC_FOREIGN_SPANS, TOPIC_FOREIGN_LOGS)

    def __init__(self, settings: CollectorSettings, partitions: int) -> None:
        self._ingest = Ingest(settings, partitions=partitions)

    def assign(self, partition: int, state: Mapping[str, bytes]) -> None:
        """See :meth:`stream.stage.Stage.assign`; there is no state."""

    def revoke(self, partition: int) -> None:
        """See :meth:`stream.stage.Stage.revoke`."""

    def process(self, batch: Batch) -> Result:
        """See :meth:`stream.stage.Stage.process`."""
        result = Result()
        for record in batch.records:
            self._take(record, result)
        return result

    def _take(self, record: Record, result: Result) -> None:
        tenant = record.header(HEADER_TENANT) or "default"
        take = self._ingest.traces if record.topic == TOPIC_FOREIGN_SPANS else self._ingest.logs
        try:
            found = take(record.value, tenant)
        except Permanent as error:
            result.count("records_undecodable")
            bare = msgspec.structs.replace(record, value=b"", key=b"", headers=())
            result.rejects.append(
                Reject(bare, error.reason, "no OTLP protobuf; the bytes stay where they are")
            )
            return
        result.outputs += found.outputs
        for name, by in found.counters.items():
            result.count(name, by)
