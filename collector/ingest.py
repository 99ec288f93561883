"""From an OTLP request to log records: decode, check, redact, cut. Pure logic, no sockets.

What comes out is redacted in every place (:mod:`collector.places`). A span or log record that is malformed, too large or
cannot be scanned is refused alone, with a reason; the rest of the request is accepted. The books balance per request:
received = published + refused + quarantined, and for logs + ignored.
"""

from __future__ import annotations

import string
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from collector.cardinality import Cardinality
from collector.cut import Item, Shape, cut, record
from collector.places import KnownKeys, Places
from collector.quarantine import REASONS, Quarantine
from collector.redaction.engine import Engine
from collector.redaction.report import RedactionReport
from collector.removal import Removal
from collector.settings import CollectorSettings
from collector.wire import Wire
from collector.wire import resource as wire_resource
from collector.wire import scope as wire_scope
from stream.errors import Permanent
from stream.records import HEADER_POLICY_VERSION, HEADER_TENANT, TOPIC_LOGS, TOPIC_SPANS
from stream.stage import Headers, Output

# Ledger group of the counters.
GROUP = "collector"

_SPANS = Shape(TOPIC_SPANS, TracesData, "resource_spans", "scope_spans", "spans")
_LOGS = Shape(TOPIC_LOGS, LogsData, "resource_logs", "scope_logs", "log_records")

# A span or log record that passed the checks: its number among all received, its trace id, itself, its scope group and its
# resource group, and the numbers of these two. A plain tuple: one is made per span.
_Kept = tuple[int, bytes, Any, Any, Any, int, int]

# With less nesting allowed, what is counted on the wire does not tell enough.
_SHALLOWEST = 2
# On the wire, an event name of so many bytes seems to begin with the character of that number, and gates look for edges.
_LIKE_TEXT = frozenset((string.ascii_letters + string.digits + "_#.,+/-").encode())
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
    "scan_timeout": "scanning the request took longer than max_scan_time; send smaller batches",
}
# Log events that describe model calls, by the conventions in use.
_GENAI_EVENTS = ("gen_ai.", "openinference.", "traceloop.", "llm.")


class Ingested(msgspec.Struct, frozen=True):
    """What became of one request.

    ``received = accepted + sum(refused) + sum(quarantined)``. ``messages`` has one sentence per reason, for the sender.
    ``counters`` go to the durable ledger together with ``outputs``.
    """

    outputs: list[Output]
    received: int
    accepted: int
    refused: dict[str, int]
    quarantined: dict[str, int]
    messages: list[str]
    redactions: dict[str, int]
    report: RedactionReport
    counters: dict[str, int]

    @property
    def rejected(self) -> int:
        """Spans or log records that were not accepted: refused or quarantined."""
        return sum(self.refused.values()) + sum(self.quarantined.values())

    @property
    def message(self) -> str:
        """What the sender is told; empty if everything was accepted."""
        if not self.rejected:
            return ""
        return f"{self.rejected} of {self.received} refused: " + "; ".join(self.messages)


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
    clock
        Seconds that only ever grow, for ``max_scan_time`` and for values that are forgotten.

    Raises
    ------
    ConfigError
        The redaction policy cannot be used.
    """

    def __init__(
        self,
        settings: CollectorSettings | None = None,
        *,
        partitions: int = 1,
        engine: Engine | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings or CollectorSettings()
        self._partitions = partitions
        self.engine = engine or Engine(self._settings.redaction)
        self._clock = clock
        redaction = self._settings.redaction
        self._quarantine = Quarantine(self._settings.quarantine, clock) if self._settings.quarantine else None
        self._removal = Removal(redaction.paths)
        self._removals = {
            name: Removal((*own.paths, *redaction.paths)) for name, own in redaction.tenants.items()
        }
        self._cardinality = Cardinality(self._settings.limits_by_tenant(), clock)
        self._known_keys = KnownKeys()
        self._known_keys_of_tenants = {name: KnownKeys() for name in redaction.tenants}

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

    def _known_keys_of(self, tenant: str) -> KnownKeys:
        # A key that is clean under one policy, or in one place, may not be so elsewhere.
        if self.engine.operators.paths(tenant):
            return KnownKeys()
        return self._known_keys_of_tenants.get(tenant, self._known_keys)

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
        check: Callable[[Any, bytes], str],
        wanted: Callable[[Any], bool],
    ) -> Ingested:
        settings = self._settings
        report = RedactionReport()
        removal = self._removals.get(tenant, self._removal)
        may_be_large = size > settings.max_span_bytes
        refused: dict[str, int] = {}
        failed: dict[str, list[Item]] = {}
        kept: list[_Kept] = []
        received = ignored = 0
        scopes = -1
        empty = False  # a resource or a scope without anything in it
        for number, group in enumerate(getattr(request, shape.groups)):
            scope_groups = getattr(group, shape.scopes)
            empty = empty or not scope_groups
            pruned = not removal
            for scope_group in scope_groups:
                scopes += 1
                messages = getattr(scope_group, shape.items)
                empty = empty or not messages
                first = len(kept)
                for message in messages:
                    received += 1
                    trace_id = message.trace_id
                    if received > settings.max_spans_per_request:
                        reason = "too_many_spans"
                    elif not wanted(message):
                        ignored += 1
                        continue
                    elif may_be_large and message.ByteSize() > settings.max_span_bytes:
                        reason = "too_large"
                    else:
                        reason = check(message, trace_id)
                    if not reason:
                        kept.append((received - 1, trace_id, message, scope_group, group, scopes, number))
                        continue
                    refused[reason] = refused.get(reason, 0) + 1
                    if reason in REASONS:
                        failed.setdefault(reason, []).append(Item(message, scope_group, group))
                if removal and len(kept) > first:
                    removal.scope(scope_group, report)
                    for one in kept[first:]:
                        removal.item(one[2], report)
                    if not pruned:
                        removal.resource(group, report)
                        pruned = True
        data = request.SerializeToString()
        written, reasons = self._redact(data, kept, received, shape, tenant, gather, report)
        accepted = kept
        if reasons:
            accepted = []
            for one in kept:
                if reason := next((reasons[each] for each in _names(one) if each in reasons), ""):
                    refused[reason] = refused.get(reason, 0) + 1
                    failed.setdefault(reason, []).append(Item(*one[2:5]))
                else:
                    accepted.append(one)
        policy_version = self.engine.policy_version_of(tenant)
        folded = self._cardinality.fold(tenant, (Item(*one[2:5]) for one in accepted))
        headers: Headers = (
            (HEADER_TENANT, tenant.encode()),
            (HEADER_POLICY_VERSION, policy_version.encode()),
        )
        if written or folded:
            data = request.SerializeToString()
        trace_ids = [one[1] for one in accepted]
        outputs: list[Output] = []
        if (
            accepted
            and len(accepted) == received
            and not empty
            and self._partitions == 1
            and len(data) <= settings.max_record_bytes
        ):
            # An export request and TracesData (LogsData) are the same bytes: one repeated field with number 1.
            outputs.append(record(data, set(trace_ids), shape, headers, None))
        elif accepted:
            outputs += cut(
                Wire(data),
                [one[0] for one in accepted],
                trace_ids,
                shape,
                headers=headers,
                partitions=self._partitions,
                max_bytes=settings.max_record_bytes,
            )
        quarantined = self._seal(failed, shape, tenant, policy_version, outputs)
        for reason, count in quarantined.items():
            refused[reason] -= count
            if not refused[reason]:
                del refused[reason]
        return Ingested(
            outputs=outputs,
            received=received,
            accepted=len(accepted) + ignored,
            refused=refused,
            quarantined=quarantined,
            messages=[
                f"{count} {_SENTENCES.get(reason, reason)}{kept}"
                for counts, kept in ((refused, ""), (quarantined, " (kept encrypted)"))
                for reason, count in sorted(counts.items())
            ],
            redactions=report.entities,
            report=report,
            counters=_counters(shape, received, len(accepted), ignored, refused, quarantined, report)
            | {f"folded.{key}": count for key, count in folded.items()},
        )

    def _redact(
        self,
        data: bytes,
        kept: Sequence[_Kept],
        received: int,
        shape: Shape,
        tenant: str,
        gather: Callable[[Places, Any], int],
        report: RedactionReport,
    ) -> tuple[bool, dict[int, str]]:
        """Redact those of ``kept`` in which something may be found, with their resources and scopes.

        Returns
        -------
        tuple[bool, dict[int, str]]
            Whether anything was written, and for each part (:attr:`Wire.parts`) that could not be scanned the reason.
        """
        suspects = self._suspects(data, kept, received, shape)
        reasons: dict[int, str] = {}
        if not suspects:
            return False, reasons
        places = Places(
            max_depth=self._settings.max_attribute_depth,
            max_string_bytes=self._settings.max_string_bytes,
            known_keys=self._known_keys_of(tenant),
        )
        owners: dict[int, int] = {}
        for one in suspects.values():
            item, own_scope, own_resource = _names(one)
            if own_resource in suspects and own_resource not in owners:
                owners[own_resource] = places.resource(one[4])
            if own_scope in suspects and own_scope not in owners:
                owners[own_scope] = places.scope(one[3])
            if item in suspects and item not in owners:
                owners[item] = gather(places, one[2])
        deadline = self._clock() + self._settings.redaction.max_scan_time
        written = places.write(
            self.engine.redact_batch(
                places.texts,
                places.hints,
                tenant=tenant,
                path_of=places.path,
                expired=lambda: self._clock() > deadline,
            )
        )
        for owner, place, entities in written:
            if owner not in places.reasons:
                report.add(place, entities)
        if places.reasons:
            reasons = {
                part: places.reasons[owner] for part, owner in owners.items() if owner in places.reasons
            }
        return bool(written) or places.cleared, reasons

    def _suspects(self, data: bytes, kept: Sequence[_Kept], received: int, shape: Shape) -> dict[int, _Kept]:
        """Return the parts of ``data`` (:attr:`Wire.parts`) that must be walked through, each with one kept item in it."""
        settings = self._settings
        if settings.max_attribute_depth < _SHALLOWEST:
            return {name: one for one in kept for name in reversed(_names(one))}
        wire: Wire | None = None

        def taken_apart() -> Wire:
            nonlocal wire
            wire = wire or Wire(data)
            return wire

        found = self.engine.gates.suspects_on_wire(
            data,
            lambda: taken_apart().ends,
            # Two may nest for each that counts, and one more at either end.
            most_containers=(settings.max_attribute_depth - _SHALLOWEST) // 2,
        )
        names = {taken_apart().parts[part] for part in found}
        if len(data) > settings.max_string_bytes:
            begin = 0
            for end, name in zip(taken_apart().ends, taken_apart().parts, strict=True):
                if end - begin > settings.max_string_bytes:
                    names.add(name)
                begin = end
        if shape is _LOGS:
            names.update(one[0] for one in kept if len(one[2].event_name.encode()) in _LIKE_TEXT)
        if not names:
            return {}
        if min(names) >= 0 and len(kept) == received:
            return {name: kept[name] for name in sorted(names)}
        return {name: one for one in kept for name in reversed(_names(one)) if name in names}

    def _seal(
        self,
        failed: dict[str, list[Item]],
        shape: Shape,
        tenant: str,
        policy_version: str,
        outputs: list[Output],
    ) -> dict[str, int]:
        """Add the sealed records of what failed to ``outputs``; return how many items they hold, by reason."""
        quarantined: dict[str, int] = {}
        if self._quarantine is None:
            return quarantined
        for reason, items in failed.items():
            sealed, count = self._quarantine.seal(
                items, shape, reason=reason, tenant=tenant, policy_version=policy_version
            )
            outputs += sealed
            if count:
                quarantined[reason] = count
        return quarantined


def _size(payload: Any) -> int:
    """Return the bytes of a request, or more: to measure a message is to walk through all of it."""
    return len(payload) if isinstance(payload, bytes) else int(payload.ByteSize())


def _names(one: _Kept) -> tuple[int, int, int]:
    """Return what :class:`collector.wire.Wire` calls an item, its scope and its resource."""
    return one[0], wire_scope(one[5]), wire_resource(one[6])


def _counters(
    shape: Shape,
    received: int,
    published: int,
    ignored: int,
    refused: dict[str, int],
    quarantined: dict[str, int],
    report: RedactionReport,
) -> dict[str, int]:
    noun = "spans" if shape is _SPANS else "logs"
    return {
        f"{noun}_received": received,
        f"{noun}_published": published,
        f"{noun}_refused": sum(refused.values()),
        f"{noun}_quarantined": sum(quarantined.values()),
        **({} if shape is _SPANS else {"logs_ignored": ignored}),
        **{f"{noun}_refused.{reason}": count for reason, count in refused.items()},
        **{f"{noun}_quarantined.{reason}": count for reason, count in quarantined.items()},
        **{f"redactions.{entity}": count for entity, count in report.entities.items()},
        **{f"redacted.{place}.{entity}": count for (entity, place), count in report.places.items()},
    }


def _check_span(span: Any, trace_id: bytes) -> str:
    """Return why ``span`` is refused, or an empty string."""
    if len(trace_id) != 16 or trace_id == _NO_TRACE:
        return "bad_trace_id"
    span_id = span.span_id
    if len(span_id) != 8 or span_id == _NO_SPAN:
        return "bad_span_id"
    if len(span.parent_span_id) not in (0, 8):
        return "bad_parent_span_id"
    links = span.links
    if links and any(len(link.trace_id) != 16 or len(link.span_id) != 8 for link in links):
        return "bad_link"
    return ""


def _check_log(record: Any, trace_id: bytes) -> str:
    """Return why ``record`` is refused, or an empty string; unlike spans, log records need no ids."""
    if len(trace_id) not in (0, 16):
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
