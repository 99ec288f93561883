"""Native blocks with a protocol revision: the same columns, found at the same places."""

from __future__ import annotations

import pytest

from sinks.clickhouse.exceptions import QueryError
from sinks.clickhouse.native import with_revision
from sinks.store import Store

INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
COLUMNS = [
    "toUInt8(number)",
    "toInt128(number)",
    "number = 1",
    "toString(number * 1000000)",
    "repeat('x', number * 100)",
    "toFixedString('abc', 7)",
    "toDecimal64(number, 2)",
    "toDecimal256(number, 30)",
    "CAST(number AS Decimal(5, 1))",
    "toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0')",
    "toIPv4('1.2.3.4')",
    "toIPv6('::1')",
    "toDate('2026-01-01')",
    "toDate32('1950-01-01')",
    "toDateTime('2026-01-01 00:00:00')",
    "toDateTime64('2026-01-01 00:00:00', 9, 'UTC')",
    "CAST('b' AS Enum8('a' = 1, 'b, (c)' = 2, 'b' = 3))",
    "CAST('b' AS Enum16('it''s' = 1, 'b' = 300))",
    "toIntervalDay(number)",
    "toNullable(toString(number))",
    "NULL",
    "toLowCardinality(toString(number))",
    "toLowCardinality(if(number = 1, NULL, 'x'))",
    "CAST(toString(number) AS LowCardinality(Nullable(String)))",
    "range(number)",
    "arrayMap(x -> range(x), range(number))",
    "[toLowCardinality('a'), 'b']",
    "emptyArrayString()",
    "map('k', number, 'l', 2)",
    "CAST(map('k', 'v') AS Map(LowCardinality(String), String))",
    "CAST(map('k', [map('a', 'b')]) AS Map(String, Array(Map(LowCardinality(String), String))))",
    "(number, 'a', [NULL, 1])",
    "CAST((1, 'a') AS Tuple(first UInt8, `second name` String))",
    "(number + 0.5, 1.0)::Point",
    "[(0.0, 1.0)]::Ring",
    "CAST(number AS SimpleAggregateFunction(max, UInt64))",
    "true",
    "toFloat32(number)",
]


def native(store: Store, sql: str) -> bytes:
    assert store.embedded is not None
    handle = store.embedded.handle()
    try:
        return bytes(handle.query(sql, "Native").bytes())
    finally:
        handle.close()


def test_every_column_ends_where_the_next_begins(store: Store) -> None:
    named = [f"{column} AS c{index:02}" for index, column in enumerate(COLUMNS)]
    alone = [native(store, f"SELECT {column} FROM numbers(4)") for column in named]
    answer = with_revision(native(store, f"SELECT {', '.join(named)} FROM numbers(4)"), 54460)
    # A block of one column is: 1 column, 4 rows, name, type, data. The type's length tells where the new byte goes.
    expected = INFO + bytes([len(COLUMNS), 4])
    for index, block in enumerate(alone):
        assert block[:6] == b"\x01\x04\x03" + f"c{index:02}".encode()
        assert block[6] < 0x80
        data = 7 + block[6]
        expected += block[2:data] + b"\x00" + block[data:]
    assert answer == expected


def test_older_clients_get_block_information_only(store: Store) -> None:
    body = native(store, "SELECT number, toString(number) FROM numbers(3)")
    assert with_revision(body, 54405) == INFO + body
    assert with_revision(body, 0) == body
    assert with_revision(b"", 54460) == b""


def test_many_blocks(store: Store) -> None:
    body = native(
        store,
        "SELECT number, toLowCardinality(toString(number % 7)) FROM numbers(1000) SETTINGS max_block_size = 64",
    )
    assert with_revision(body, 54405).count(INFO) == 16


def test_types_nobody_can_walk_are_refused_with_a_way_out(store: Store) -> None:
    for column in ("sumState(number)", "number::Dynamic", "number::Variant(UInt64, String)"):
        body = native(store, f"SELECT {column} FROM numbers(3) SETTINGS allow_experimental_dynamic_type = 1")
        with pytest.raises(QueryError, match="ask for another format"):
            with_revision(body, 54460)


def test_a_truncated_answer_is_an_error(store: Store) -> None:
    body = native(store, "SELECT number, toString(number) FROM numbers(3)")
    for cut in (1, 5, 20, len(body) - 1):
        with pytest.raises(QueryError):
            with_revision(body[:cut], 54460)
