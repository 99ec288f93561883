"""What the sampler makes of received spans and log records: whole traces, with the GenAI log events on their spans."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from scorers.sampler import SamplerStage
from stream.records import TOPIC_SAMPLED
from stream.stage import Output
from stream.testing import MemoryLog, drive


def joined(outputs: Sequence[Output]) -> list[TracesData]:
    """Return the kept traces."""
    log = MemoryLog()
    log.append(outputs, group="collector")
    stage = SamplerStage()
    drive(stage, log)
    log.clock.advance(3600)
    drive(stage, log, ticks=1)
    return [TracesData.FromString(record.value) for record in log.records.get((TOPIC_SAMPLED, 0), [])]
