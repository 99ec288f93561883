"""The partition of a key is the one Kafka's Java client chooses."""

from __future__ import annotations

import pytest

from collector.partition import murmur2, partition


# The vectors of org.apache.kafka.common.utils.UtilsTest.
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF
    assert partition(key, 7) == (expected & 0x7FFFFFFF) % 7
