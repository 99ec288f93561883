"""Where the spans of a serialized request begin and end, without a message object for any of them.

Only for bytes that protobuf itself has just written: fields stand in the order of their numbers, lengths are as short as
they can be, and there is nothing unknown among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

_FIRST = 0x0A  # field 1 of a request (ResourceSpans), of ResourceSpans (resource), of ScopeSpans (scope)
_SECOND = 0x12  # field 2 of ResourceSpans (scope_spans), of ScopeSpans (spans)
_ENVELOPE = 6  # tag and length, at most
# A cut repeats a resource and a scope. Large ones are repeated behind a quarter of their bytes: else a request of one large
# resource and many spans would become as many copies of the resource.
_QUARTER = 4


def resource(group: int) -> int:
    """Return what the parts of resource ``group`` are called in :attr:`Wire.parts`."""
    return -1 - 2 * group


def may_cut(repeated: int, owned: int, max_bytes: int) -> bool:
    """Whether a message of ``owned`` bytes of items may end, when the next one repeats so many bytes of resource and scope."""
    return repeated <= max(max_bytes // _QUARTER, _QUARTER * owned)


def scope(number: int) -> int:
    """Return what the parts of scope ``number`` (of all scopes) are called in :attr:`Wire.parts`."""
    return -2 - 2 * number


class Frame(NamedTuple):
    """The bytes of a group before and behind the repeated field that fills it."""

    head: bytes
    tail: bytes


class Wire:
    """An export request, ``TracesData`` or ``LogsData``, taken apart down to spans or log records.

    Parameters
    ----------
    data
        The serialized message.

    Attributes
    ----------
    ends
        Where each part ends, ascending; the parts together are ``data``.
    parts
        What each part is: a span or log record by its number, or a :func:`resource` or :func:`scope`; these have one part
        before what they hold, and may have one behind.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ends: list[int] = []
        self.parts: list[int] = []
        self._starts: list[int] = []  # of the spans, their tags and lengths included
        self._stops: list[int] = []
        self._resources: list[Frame] = []
        self._scopes: list[Frame] = []  # all, in order
        self._group_of: list[int] = []  # by scope
        self._scope_of: list[int] = []  # by span
        position, group = 0, 0
        while position < len(data):
            start, position = _field(data, position)
            self._group(group, start, position)
            group += 1

    def _group(self, group: int, start: int, stop: int) -> None:
        data, position = self.data, start
        first = last = -1
        while position < stop:
            inner, behind = _field(data, position)
            if data[position] == _SECOND:
                if first < 0:
                    first = position
                    self._part(position, resource(group))
                self._group_of.append(group)
                self._scope(len(self._scopes), inner, behind)
                last = behind
            position = behind
        if first < 0:
            first = last = stop
        if not self.ends or self.ends[-1] < stop:
            self._part(stop, resource(group))
        self._resources.append(Frame(data[start:first], data[last:stop]))

    def _scope(self, number: int, start: int, stop: int) -> None:
        data, position = self.data, start
        ends, parts, starts, stops, scope_of = (
            self.ends,
            self.parts,
            self._starts,
            self._stops,
            self._scope_of,
        )
        first = last = -1
        while position < stop:
            # The hot loop: most fields are spans with a length of one or two bytes.
            length = data[position + 1]
            if length < 0x80:
                behind = position + 2 + length
            elif (second := data[position + 2]) < 0x80:
                behind = position + 3 + (length & 0x7F | second << 7)
            else:
                _, behind = _field(data, position)
            if data[position] == _SECOND:
                if first < 0:
                    first = position
                    self._part(position, scope(number))
                parts.append(len(starts))
                ends.append(behind)
                starts.append(position)
                stops.append(behind)
                scope_of.append(number)
                last = behind
            position = behind
        if first < 0:
            first = last = stop
        if ends[-1] < stop:
            self._part(stop, scope(number))
        self._scopes.append(Frame(data[start:first], data[last:stop]))

    def _part(self, end: int, part: int) -> None:
        self.ends.append(end)
        self.parts.append(part)

    def chunks(self, items: Iterable[int], max_bytes: int) -> Iterator[list[int]]:
        """Yield ``items`` in pieces that take at most ``max_bytes`` as a message.

        Larger may be single items, and what has a resource and scope of more than a quarter of that.
        """
        chunk: list[int] = []
        size = owned = 0
        group = number = -1
        for item in items:
            own = self._stops[item] - self._starts[item]
            needed = own
            if self._scope_of[item] != number:
                needed += self._envelopes(item, group)
            if chunk and size + needed > max_bytes:
                whole = own + self._envelopes(item, -1)
                if may_cut(whole - needed, owned, max_bytes):
                    yield chunk
                    chunk, size, owned = [], 0, 0
                    needed = whole
            number = self._scope_of[item]
            group = self._group_of[number]
            chunk.append(item)
            size += needed
            owned += own
        if chunk:
            yield chunk

    def _envelopes(self, item: int, group: int) -> int:
        """Return the bytes, or a few more, that the scope of ``item`` adds to a message, and its resource if not ``group``."""
        number = self._scope_of[item]
        size = sum(map(len, self._scopes[number])) + _ENVELOPE
        if self._group_of[number] != group:
            size += sum(map(len, self._resources[self._group_of[number]])) + _ENVELOPE
        return size

    def assemble(self, items: Iterable[int]) -> bytes:
        """Return a message that holds ``items``, which are in order, with their scopes and resources."""
        out: list[bytes] = []
        scopes: list[bytes] = []
        members: list[bytes] = []
        group = number = -1
        for item in items:
            if self._scope_of[item] != number:
                if members:
                    scopes.append(_framed(_SECOND, self._scopes[number], members))
                    members = []
                number = self._scope_of[item]
                if self._group_of[number] != group:
                    if scopes:
                        out.append(_framed(_FIRST, self._resources[group], scopes))
                        scopes = []
                    group = self._group_of[number]
            members.append(self.data[self._starts[item] : self._stops[item]])
        if members:
            scopes.append(_framed(_SECOND, self._scopes[number], members))
            out.append(_framed(_FIRST, self._resources[group], scopes))
        return b"".join(out)


def _framed(tag: int, frame: Frame, members: list[bytes]) -> bytes:
    body = b"".join((frame.head, *members, frame.tail))
    return b"".join((bytes((tag,)), _length(len(body)), body))


def _length(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(data: bytes, position: int) -> tuple[int, int]:
    """Return where the content of the field at ``position`` starts and ends."""
    position += 1
    length = shift = 0
    while (byte := data[position]) & 0x80:
        length |= (byte & 0x7F) << shift
        shift += 7
        position += 1
    length |= byte << shift
    return position + 1, position + 1 + length
