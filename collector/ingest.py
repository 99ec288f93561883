"""From an OTLP request to log records: decode, check, redact, cut. Pure logic, no sockets.

What comes out is redacted in every place (:mod:`collector.places`). A span or log record that is malformed, too large or
cannot be scanned is refused alone, with a reason; the rest of the request is accepted. The books balance per request:
received = published + refused + quarantined for spans, received = published + refused + ignored for logs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from collector.cut import Item, Shape, cut
from collector.places import KnownKeys, Places
from collector.redaction.engine import Engine
from collector.redaction.report import RedactionReport
from collector.settings import CollectorSettings
from stream.errors import Permanent
from stream.records import HEADER_POLICY_VERSION, HEADER_TENANT, TOPIC_LOGS, TOPIC_SPANS
from stream.stage import Headers, Output

# Ledger group of the counters.
GROUP = "collector"

_SPANS = Shape(TOPIC_SPANS, TracesData, "resource_spans", "scope_spans", "spans")
_LOGS = Shape(TOPIC_LOGS, LogsData, "resource_logs", "scope_logs", "log_records")

_NO_TRACE = bytes(16)
_NO_SPAN = bytes(8)

_SENTENCES = {
    "bad_trace_id": "trace_id must be 16 bytes, not all zero",
    "bad_span_id": "span_id must be 8 bytes, not all zero",
    "bad_parent_span_id": "parent_span_id must be empty or 8 bytes",
    "bad_link": "a link needs a trace_id of 16 bytes and a span_id of 8 bytes",
    "too_large": "larger than max_span_bytes",
    "string_too_long": "a string is longer than max_string_bytes",
    "too_deep": "an attribute is nested deeper than max_attribute_depth",
    "too_many_spans": "beyond max_spans_per_request; send smaller batches",
    "too_many_candidates": "a string has more candidates for redaction than max_candidates",
    "unstable": "it could not be redacted",
    "scan_failed": "it could not be scanned",
}
# Log events that describe model calls, by the conventions in use.
_GENAI_EVENTS = ("gen_ai.", "openinference.", "traceloop.", "llm.")


class Ingested(msgspec.Struct, frozen=True):
    """What became of one request.

    ``received = accepted + sum(refused)``. ``messages`` has one sentence per reason of refusal, for the sender.
    ``counters`` go to the durable ledger together with ``outputs``.
    """

    outputs: list[Output]
    received: int
    accepted: int
    refused: dict[str, int]
    messages: list[str]
    redactions: dict[str, int]
    report: RedactionReport
    counters: dict[str, int]

    @property
    def rejected(self) -> int:
        """Spans or log records that were refused."""
        return sum(self.refused.values())

    @property
    def message(self) -> str:
        """What the sender is told; empty if nothing was refused."""
        return (
            f"{self.rejected} of {self.received} refused: " + "; ".join(self.messages) if self.refused else ""
        )


class Ingest:
    """Decodes, checks, redacts and cuts requests. Safe to call from several threads.

    Parameters
    ----------
    settings
        Limits and redaction policy.
    partitions
        Partition count of the topics ``otlp_spans`` and ``otlp_logs``.
    engine
        The redaction engine; made from ``settings.redaction`` if not given.

    Raises
    ------
    ConfigError
        The redaction policy cannot be used.
    """

    def __init__(
        self, settings: CollectorSettings | None = None, *, partitions: int = 1, engine: Engine | None = None
    ) -> None:
        self._settings = settings or CollectorSettings()
        self._partitions = partitions
        self.engine = engine or Engine(self._settings.redaction)
        self._known_keys = KnownKeys()

    def traces(self, payload: bytes | ExportTraceServiceRequest, tenant: str = "default") -> Ingested:
        """Take in one trace export request. A given message is changed in place.

        Raises
        ------
        Permanent
            ``undecodable``: the bytes are no such request.
        """
        request = self._decode(payload, ExportTraceServiceRequest)
        return self._ingest(
            request, _size(payload), _SPANS, tenant, Places.span, _check_span, lambda span: True
        )

    def logs(self, payload: bytes | ExportLogsServiceRequest, tenant: str = "default") -> Ingested:
        """Take in one logs export request. Records that are neither about a model call nor of a trace are ignored.

        Raises
        ------
        Permanent
            ``undecodable``: the bytes are no such request.
        """
        request = self._decode(payload, ExportLogsServiceRequest)
        return self._ingest(request, _size(payload), _LOGS, tenant, Places.log, _check_log, _is_wanted)

    def _decode(self, payload: Any, kind: Any) -> Any:
        if isinstance(payload, kind):
            request = payload
        else:
            try:
                request = kind.FromString(payload)
            except DecodeError as error:
                raise Permanent(
                    "undecodable",
                    f"the body is no valid {kind.DESCRIPTOR.name}: malformed protobuf, text that is not UTF-8, or "
                    "nesting of more than 100 levels",
                ) from error
        # Nobody can say what is in a field that is not known; what cannot be scanned must not pass.
        request.DiscardUnknownFields()
        return request

    def _ingest(
        self,
        request: Any,
        size: int,
        shape: Shape,
        tenant: str,
        gather: Callable[[Places, Any], int],
        check: Callable[[Any], str],
        wanted: Callable[[Any], bool],
    ) -> Ingested:
        settings = self._settings
        places = Places(
            max_depth=settings.max_attribute_depth,
            max_string_bytes=settings.max_string_bytes,
            known_keys=self._known_keys,
        )
        may_be_large = size > settings.max_span_bytes
        refused: dict[str, int] = {}
        kept: list[tuple[Item, tuple[int, int, int]]] = []
        received = ignored = 0
        for group, scope_group, messages in _scopes(request, shape):
            owners: tuple[int, int] | None = None
            for message in messages:
                received += 1
                if received > settings.max_spans_per_request:
                    reason = "too_many_spans"
                elif not wanted(message):
                    ignored += 1
                    continue
                elif may_be_large and message.ByteSize() > settings.max_span_bytes:
                    reason = "too_large"
                else:
                    reason = check(message)
                if reason:
                    refused[reason] = refused.get(reason, 0) + 1
                    continue
                if owners is None:
                    owners = (places.resource(group), places.scope(scope_group))
                kept.append((Item(message, scope_group, group), (*owners, gather(places, message))))
        written = places.write(self.engine.redact_batch(places.texts, places.hints, tenant=tenant))
        report = RedactionReport()
        for owner, place, entities in written:
            if owner not in places.reasons:
                report.add(place, entities)
        accepted = [item for item, _ in kept]
        if places.reasons:
            accepted = []
            for item, owners_of_item in kept:
                reason = next(
                    (places.reasons[owner] for owner in owners_of_item if owner in places.reasons), ""
                )
                if reason:
                    refused[reason] = refused.get(reason, 0) + 1
                else:
                    accepted.append(item)
        headers: Headers = (
            (HEADER_TENANT, tenant.encode()),
            (HEADER_POLICY_VERSION, self.engine.policy_version.encode()),
        )
        outputs = list(
            cut(
                accepted,
                shape,
                headers=headers,
                partitions=self._partitions,
                max_bytes=settings.max_record_bytes,
                whole=request if len(accepted) == received else None,
            )
        )
        return Ingested(
            outputs=outputs,
            received=received,
            accepted=len(accepted) + ignored,
            refused=refused,
            messages=[
                f"{count} {_SENTENCES.get(reason, reason)}" for reason, count in sorted(refused.items())
            ],
            redactions=report.entities,
            report=report,
            counters=_counters(shape, received, len(accepted), ignored, refused, report),
        )


def _size(payload: Any) -> int:
    """Return the bytes of a request, or more: to measure a message is to walk through all of it."""
    return len(payload) if isinstance(payload, bytes) else int(payload.ByteSize())


def _scopes(request: Any, shape: Shape) -> Iterator[tuple[Any, Any, Any]]:
    for group in getattr(request, shape.groups):
        for scope_group in getattr(group, shape.scopes):
            yield group, scope_group, getattr(scope_group, shape.items)


def _counters(
    shape: Shape,
    received: int,
    published: int,
    ignored: int,
    refused: dict[str, int],
    report: RedactionReport,
) -> dict[str, int]:
    noun = "spans" if shape is _SPANS else "logs"
    return {
        f"{noun}_received": received,
        f"{noun}_published": published,
        f"{noun}_refused": sum(refused.values()),
        f"{noun}_quarantined" if shape is _SPANS else "logs_ignored": ignored,
        **{f"{noun}_refused.{reason}": count for reason, count in refused.items()},
        **{f"redactions.{entity}": count for entity, count in report.entities.items()},
    }


def _check_span(span: Any) -> str:
    """Return why ``span`` is refused, or an empty string."""
    if len(span.trace_id) != 16 or span.trace_id == _NO_TRACE:
        return "bad_trace_id"
    if len(span.span_id) != 8 or span.span_id == _NO_SPAN:
        return "bad_span_id"
    if len(span.parent_span_id) not in (0, 8):
        return "bad_parent_span_id"
    links = span.links
    if links and any(len(link.trace_id) != 16 or len(link.span_id) != 8 for link in links):
        return "bad_link"
    return ""


def _check_log(record: Any) -> str:
    """Return why ``record`` is refused, or an empty string; unlike spans, log records need no ids."""
    if len(record.trace_id) not in (0, 16):
        return "bad_trace_id"
    if len(record.span_id) not in (0, 8):
        return "bad_span_id"
    return ""


def _is_wanted(record: Any) -> bool:
    """Whether a log record can be joined to a trace or is about a model call."""
    if record.trace_id.strip(b"\0"):
        return True
    if record.event_name.startswith(_GENAI_EVENTS):
        return True
    for attribute in record.attributes:
        if attribute.key.startswith(_GENAI_EVENTS):
            return True
        if attribute.key == "event.name" and attribute.value.string_value.startswith(_GENAI_EVENTS):
            return True
    return False
