"""OTLP/JSON to protobuf messages.

Differences to protobuf's own JSON, by the OTLP specification: trace and span ids are hex (either case) instead of base64;
unknown fields are ignored; enums are numbers.
"""

from __future__ import annotations

import base64
from typing import Any

import orjson
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from stream.errors import Permanent

_IDS = ("traceId", "spanId", "parentSpanId")


def traces(body: bytes) -> Any:
    """Return the request.

    Raises
    ------
    Permanent
        ``undecodable``: not JSON, not UTF-8, nested too deep, or a field of the wrong type.
    """
    document = _load(body)
    for group in _objects(document, "resourceSpans"):
        for scope in _objects(group, "scopeSpans"):
            for span in _objects(scope, "spans"):
                _hex_to_base64(span)
                for link in _objects(span, "links"):
                    _hex_to_base64(link)
    return _parse(document, ExportTraceServiceRequest())


def logs(body: bytes) -> Any:
    """Return the request; raises as :func:`traces` does."""
    document = _load(body)
    for group in _objects(document, "resourceLogs"):
        for scope in _objects(group, "scopeLogs"):
            for record in _objects(scope, "logRecords"):
                _hex_to_base64(record)
    return _parse(document, ExportLogsServiceRequest())


def _load(body: bytes) -> Any:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # Only the position is told: the message of the parser may quote the body.
        raise Permanent("undecodable", f"the body is no valid JSON (at character {error.pos})") from error
    if not isinstance(document, dict):
        raise Permanent("undecodable", "the body must be a JSON object")
    return document


def _objects(parent: Any, name: str) -> list[Any]:
    children = parent.get(name) if isinstance(parent, dict) else None
    return [child for child in children if isinstance(child, dict)] if isinstance(children, list) else []


def _hex_to_base64(message: dict[str, Any]) -> None:
    for name in _IDS:
        text = message.get(name)
        if not isinstance(text, str):
            continue
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            raw = b"?"  # of no id's length, so this span alone is refused
        message[name] = base64.b64encode(raw).decode()


def _parse(document: Any, message: Any) -> Any:
    try:
        return json_format.ParseDict(document, message, ignore_unknown_fields=True)
    except (json_format.ParseError, RecursionError, ValueError, TypeError, AttributeError) as error:
        raise Permanent(
            "undecodable",
            "the body does not follow OTLP/JSON: a field has the wrong type or is nested too deep",
        ) from error
