"""Cut an accepted request into log records: one trace's spans to one partition, none above the size limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from collector.partition import partition
from collector.wire import Wire, may_cut
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
    wire: Wire,
    items: Sequence[int],
    trace_ids: Sequence[bytes],
    shape: Shape,
    *,
    headers: Headers,
    partitions: int,
    max_bytes: int,
) -> Iterator[Output]:
    """Yield records that together hold ``items`` of ``wire`` with their resources and scopes, in order.

    The key is the trace id if all items of a record are of one trace, else empty. With several partitions each record
    names its partition.

    Parameters
    ----------
    items, trace_ids
        Numbers of the spans or log records, ascending, and the trace id of each.
    partitions
        Partition count of the topic; 1 leaves the choice (there is none) to the log.
    max_bytes
        Largest record; see :meth:`collector.wire.Wire.chunks` for what may be larger.
    """
    bins: dict[int | None, list[int]] = {}
    trace_of = dict(zip(items, trace_ids, strict=True))
    if partitions == 1:
        bins[None] = list(items)
    else:
        chosen: dict[bytes, int] = {}
        for item, trace_id in trace_of.items():
            if (number := chosen.get(trace_id)) is None:
                number = chosen[trace_id] = partition(trace_id, partitions)
            bins.setdefault(number, []).append(item)
    for where, members in bins.items():
        for chunk in wire.chunks(members, max_bytes):
            yield record(wire.assemble(chunk), {trace_of[item] for item in chunk}, shape, headers, where)


def record(
    value: bytes, trace_ids: AbstractSet[bytes], shape: Shape, headers: Headers, number: int | None
) -> Output:
    """Return the record of spans or log records of ``trace_ids``."""
    key = next(iter(trace_ids)) if len(trace_ids) == 1 else b""
    return Output(topic=shape.topic, value=value, key=key, headers=headers, partition=number)


def chunks(items: list[Item], max_bytes: int) -> Iterator[list[Item]]:
    """Yield ``items`` in pieces that take at most ``max_bytes`` as a record; the same may be larger as in ``Wire.chunks``."""
    chunk: list[Item] = []
    size = owned = 0
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
            both = _envelope(item.resource_group, "resource") + _envelope(item.scope_group, "scope")
            if may_cut(both - shared, owned, max_bytes):
                yield chunk
                chunk, size, owned = [], 0, 0
                shared = both
        resource, scope = item.resource_group, item.scope_group
        chunk.append(item)
        size += own + shared
        owned += own
    if chunk:
        yield chunk


def _envelope(group: Any, field: str) -> int:
    """Return the bytes that a resource or scope adds to a record, lengths and tags included."""
    return int(getattr(group, field).ByteSize()) + len(group.schema_url.encode()) + 24


def assemble(chunk: list[Item], shape: Shape) -> bytes:
    """Return the record of ``chunk``, with the resources and scopes of its items."""
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
