"""Native blocks as clients of a given protocol revision expect them.

The embedded engine writes Native without a revision. clickhouse-go (and with it Grafana) sends its revision and then
expects block information before each block, and since revision 54454 one byte per column that says "no custom
serialization". Where a column ends is only known by walking through it, so that is what happens here. Formats:
ClickHouse's ``NativeReader``, and the serializations of each data type.
"""

from __future__ import annotations

import re

import msgspec

from sinks.clickhouse.exceptions import QueryError

_WITH_BLOCK_INFO = 51903
_WITH_CUSTOM_SERIALIZATION = 54454
_BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"  # field 1: no overflows; field 2: bucket -1; end
_MAX_DEPTH = 64

_SIZES = {
    "UInt8": 1, "Int8": 1, "Bool": 1, "Enum8": 1, "Nothing": 1,
    "UInt16": 2, "Int16": 2, "Date": 2, "Enum16": 2, "BFloat16": 2,
    "UInt32": 4, "Int32": 4, "Float32": 4, "Date32": 4, "DateTime": 4, "Time": 4, "IPv4": 4, "Decimal32": 4,
    "UInt64": 8, "Int64": 8, "Float64": 8, "DateTime64": 8, "Time64": 8, "Decimal64": 8,
    "UInt128": 16, "Int128": 16, "UUID": 16, "IPv6": 16, "Decimal128": 16,
    "UInt256": 32, "Int256": 32, "Decimal256": 32,
}  # fmt: skip
_ALIASES = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Tuple(Float64, Float64))",
    "LineString": "Array(Tuple(Float64, Float64))",
    "Polygon": "Array(Array(Tuple(Float64, Float64)))",
    "MultiLineString": "Array(Array(Tuple(Float64, Float64)))",
    "MultiPolygon": "Array(Array(Array(Tuple(Float64, Float64))))",
}
_TOKEN = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|[(),]|[^(),'`]+")


class _Type(msgspec.Struct):
    name: str
    arguments: list[_Type] = []
    text: str = ""  # arguments as written, for those that are numbers


def with_revision(body: bytes, revision: int) -> bytes:
    """Return Native ``body`` (written without a revision) as a client of ``revision`` reads it.

    Raises
    ------
    QueryError
        A column's type is not understood (code 48); another format still works.
    """
    if revision < _WITH_BLOCK_INFO or not body:
        return body
    marker = b"\x00" if revision >= _WITH_CUSTOM_SERIALIZATION else b""
    view = memoryview(body)
    out: list[bytes | memoryview] = []
    position = 0
    try:
        while position < len(body):
            start = position
            columns, position = _varint(body, position)
            rows, position = _varint(body, position)
            out += [_BLOCK_INFO, view[start:position]]
            for _ in range(columns):
                start = position
                position = _skip_string(body, position)
                length, position = _varint(body, position)
                kind = parse_type(body[position : position + length].decode())
                position += length
                out += [view[start:position], marker]
                start = position
                if rows:
                    position += 8 * _prefixes(kind)
                    position = _skip(body, position, kind, rows, 0)
                out.append(view[start:position])
    except IndexError as error:
        raise QueryError(33, "The engine's answer is cut short", "CANNOT_READ_ALL_DATA", 500) from error
    if position != len(body):
        raise QueryError(33, "The engine's answer is cut short", "CANNOT_READ_ALL_DATA", 500)
    return b"".join(out)


def parse_type(text: str) -> _Type:
    """Parse a data type's name."""
    tokens = [token for token in _TOKEN.findall(text) if token.strip()]
    kind, rest = _parse(tokens, 0, 0)
    if rest != len(tokens):
        raise _unknown(text)
    return kind


def _parse(tokens: list[str], index: int, depth: int) -> tuple[_Type, int]:
    if depth > _MAX_DEPTH:
        raise _unknown("too deep")
    words: list[str] = []
    while index < len(tokens) and tokens[index] not in ("(", ")", ","):
        words.append(tokens[index])
        index += 1
    name = " ".join(words).strip()
    kind = _Type(
        name.rpartition(" ")[2] if " " in name and "=" not in name else name
    )  # "a UInt8" in named tuples
    if index < len(tokens) and tokens[index] == "(":
        arguments: list[_Type] = []
        index += 1
        while index < len(tokens) and tokens[index] != ")":
            if tokens[index] == ",":
                index += 1
                continue
            argument, index = _parse(tokens, index, depth + 1)
            arguments.append(argument)
        kind.arguments = arguments
        kind.text = arguments[0].name if arguments else ""
        index += 1
    if kind.name in _ALIASES:
        kind = parse_type(_ALIASES[kind.name])
    return kind, index


def _prefixes(kind: _Type) -> int:
    """Count the 8-byte version fields before a column's data; each LowCardinality has one."""
    if kind.name == "LowCardinality":
        return 1
    if kind.name in ("Array", "Nullable", "Map", "Tuple", "Nested", "SimpleAggregateFunction"):
        return sum(_prefixes(argument) for argument in kind.arguments)
    return 0


def _skip(body: bytes, position: int, kind: _Type, rows: int, depth: int) -> int:
    """Return where the values of a column end."""
    name = kind.name
    if size := _SIZES.get(name):
        return _within(body, position + size * rows)
    if name == "String":
        for _ in range(rows):
            position = _skip_string(body, position)
        return position
    if name == "FixedString":
        return _within(body, position + int(kind.text) * rows)
    if name == "Decimal":
        digits = int(kind.text)
        return _within(
            body, position + (4 if digits < 10 else 8 if digits < 19 else 16 if digits < 39 else 32) * rows
        )
    if name.startswith("Interval"):
        return _within(body, position + 8 * rows)
    if name == "Nullable":
        return _skip(body, position + rows, kind.arguments[0], rows, depth + 1)
    if name in ("Array", "Map", "Nested"):
        items = _u64(body, position + 8 * (rows - 1)) if rows else 0
        position = _within(body, position + 8 * rows)
        if not items:
            return position
        for argument in kind.arguments:
            position = _skip(body, position, argument, items, depth + 1)
        return position
    if name == "Tuple":
        for argument in kind.arguments:
            position = _skip(body, position, argument, rows, depth + 1)
        return position
    if name == "SimpleAggregateFunction":
        return _skip(body, position, kind.arguments[-1], rows, depth + 1)
    if name == "LowCardinality":
        return _skip_low_cardinality(body, position, kind.arguments[0], rows, depth)
    raise _unknown(name)


def _skip_low_cardinality(body: bytes, position: int, inner: _Type, rows: int, depth: int) -> int:
    flags = _u64(body, position)
    width = 1 << (flags & 0xFF)
    position += 8
    if flags & 0x200:  # additional keys
        keys = _u64(body, position)
        dictionary = inner.arguments[0] if inner.name == "Nullable" else inner
        position = _skip(body, position + 8, dictionary, keys, depth + 1)
    count = _u64(body, position)
    if count != rows:
        raise IndexError
    return _within(body, position + 8 + width * rows)


def _varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _skip_string(body: bytes, position: int) -> int:
    length = body[position]
    position += 1
    if length >= 0x80:
        length, position = _varint(body, position - 1)
    return _within(body, position + length)


def _u64(body: bytes, position: int) -> int:
    _within(body, position + 8)
    return int.from_bytes(body[position : position + 8], "little")


def _within(body: bytes, position: int) -> int:
    if position > len(body):
        raise IndexError
    return position


def _unknown(name: str) -> QueryError:
    return QueryError(
        48,
        f"Type {name[:64]} cannot be sent to this client: ask for another format, or cast it",
        "NOT_IMPLEMENTED",
    )
