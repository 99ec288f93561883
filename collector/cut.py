"""Cut an accepted request into log records: one trace's spans to one partition, none above the size limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from collector.partition import partition
from stream.stage import Headers, Output


class Item(NamedTuple):
    """A span or log record and the groups it stands in."""

    message: Any
    scope_group: Any
    resource_group: Any


class Shape(NamedTuple):
    """What traces and logs call the same things."""

    topic: str
    data: Any  # TracesData or LogsData
    groups: str  # resource_spans or resource_logs
    scopes: str  # scope_spans or scope_logs
    items: str  # spans or log_records


def cut(
    items: Sequence[Item],
    shape: Shape,
    *,
    headers: Headers,
    partitions: int,
    max_bytes: int,
    whole: Any = None,
) -> Iterator[Output]:
    """Yield records that together hold ``items`` with their resources and scopes, in order.

    The key is the trace id if all items of a record are of one trace, else empty. With several partitions each record
    names its partition.

    Parameters
    ----------
    partitions
        Partition count of the topic; 1 leaves the choice (there is none) to the log.
    max_bytes
        Largest record; one item that is larger makes a record of its own.
    whole
        The request, if ``items`` is all that is in it: it needs no taking apart when it fits into one record.
    """
    if whole is not None and partitions == 1 and items:
        # An export request and TracesData (LogsData) are the same bytes: one repeated field with number 1.
        value = whole.SerializeToString()
        if len(value) <= max_bytes:
            yield _output(value, items, shape, headers, None)
            return
    bins: dict[int | None, list[Item]] = {}
    if partitions == 1:
        bins[None] = list(items)
    else:
        chosen: dict[bytes, int] = {}
        for item in items:
            trace_id = item.message.trace_id
            if (number := chosen.get(trace_id)) is None:
                number = chosen[trace_id] = partition(trace_id, partitions)
            bins.setdefault(number, []).append(item)
    for number, members in bins.items():
        for chunk in _chunks(members, max_bytes):
            yield _output(_assemble(chunk, shape), chunk, shape, headers, number)


def _output(
    value: bytes, items: Sequence[Item], shape: Shape, headers: Headers, number: int | None
) -> Output:
    trace_ids = {item.message.trace_id for item in items}
    key = trace_ids.pop() if len(trace_ids) == 1 else b""
    return Output(topic=shape.topic, value=value, key=key, headers=headers, partition=number)


def _chunks(items: list[Item], max_bytes: int) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    size = 0
    resource: Any = None
    scope: Any = None
    for item in items:
        new_resource = item.resource_group is not resource
        new_scope = item.scope_group is not scope
        own = item.message.ByteSize() + 8
        shared = (_envelope(item.resource_group, "resource") if new_resource else 0) + (
            _envelope(item.scope_group, "scope") if new_scope else 0
        )
        if chunk and size + own + shared > max_bytes:
            yield chunk
            chunk, size = [], 0
            shared = _envelope(item.resource_group, "resource") + _envelope(item.scope_group, "scope")
        resource, scope = item.resource_group, item.scope_group
        chunk.append(item)
        size += own + shared
    if chunk:
        yield chunk


def _envelope(group: Any, field: str) -> int:
    """Return the bytes that a resource or scope adds to a record, lengths and tags included."""
    return int(getattr(group, field).ByteSize()) + len(group.schema_url.encode()) + 24


def _assemble(chunk: list[Item], shape: Shape) -> bytes:
    data = shape.data()
    resource: Any = None
    scope: Any = None
    groups = scopes = members = None
    for item in chunk:
        if item.resource_group is not resource:
            resource, scope = item.resource_group, None
            groups = getattr(data, shape.groups).add(schema_url=resource.schema_url)
            if resource.HasField("resource"):
                groups.resource.CopyFrom(resource.resource)
        if item.scope_group is not scope:
            scope = item.scope_group
            scopes = getattr(groups, shape.scopes).add(schema_url=scope.schema_url)
            if scope.HasField("scope"):
                scopes.scope.CopyFrom(scope.scope)
            members = getattr(scopes, shape.items)
        assert members is not None
        members.append(item.message)
    return bytes(data.SerializeToString())
