"""Collects the facts of decided traces and sends them, many in one record, with the decisions they belong to.

Delivery: the record is part of the result that holds the decision, so a trace is told about once, as it is decided once; a
trace whose decision was forgotten and that is decided anew is recognised by its id where it is counted.
"""

from __future__ import annotations

import msgspec

from scorers.sampling.facts import MARK_BYTES, FactReader
from scorers.sampling.operations_settings import OperationsSettings
from scorers.sampling.trace import Trace
from stream.records import HEADER_TENANT, TOPIC_SCORES, OperationsRecord, TraceFacts
from stream.stage import Output, Result

_encode = msgspec.json.Encoder().encode


class Operations:
    """Facts of the traces decided in one batch, by tenant and cohort."""

    def __init__(self, settings: OperationsSettings) -> None:
        self._enabled = settings.enabled
        self._most = settings.max_traces
        self._reader = FactReader(settings)
        self._facts: dict[tuple[str, tuple[tuple[str, str], ...]], list[TraceFacts]] = {}

    def suspects(self, record: bytes) -> bool:
        """Whether a trace of the payload ``record`` may hold a judge's own call: one search instead of one per span."""
        return self._enabled and MARK_BYTES in record

    def take(self, trace: Trace, result: Result) -> None:
        """Read the facts of a trace at its first decision."""
        if not self._enabled:
            return
        result.count("operations_seen")
        found = self._reader.read(trace)
        if isinstance(found, str):
            result.count(f"operations_skipped.{found}")
            return
        cohort, facts = found
        self._facts.setdefault((trace.tenant, tuple(cohort.items())), []).append(facts)

    def send(self, result: Result) -> None:
        """Add the records of what was taken since the last call."""
        for (tenant, cohort), facts in self._facts.items():
            facts.sort(key=lambda one: (one.time_unix_nano, one.trace_id))
            attributes = dict(sorted(cohort))
            key = f"{tenant}/{attributes.get('route', '')}".encode("utf-8", "surrogatepass")
            header = (HEADER_TENANT, tenant.encode("utf-8", "surrogatepass"))
            for first in range(0, len(facts), self._most):
                part = facts[first : first + self._most]
                record = OperationsRecord(tenant=tenant, cohort=attributes, traces=part)
                result.outputs.append(Output(TOPIC_SCORES, _encode(record), key, (header,)))
                result.count("operations_sent", len(part))
        self._facts.clear()
