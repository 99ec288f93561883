"""What becomes durable at once when a stage commits a batch, whoever keeps the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from stream.records import TOPIC_DEAD_LETTERS
from stream.stage import Output, Record, Reject, Result

# What a dead letter has after the headers of the original record, in this order.
LETTER_HEADERS = ("stage", "reason", "error", "original-topic", "original-partition", "original-offset")
HEADER_CUT = "cut-from"  # bytes of the value before it was cut


class Transaction(msgspec.Struct):
    """Outputs, state, ledger and offsets of one consumer group; all of it or nothing."""

    group: str
    outputs: list[Output]
    state: Mapping[tuple[int, str], bytes | None] = {}
    counters: Mapping[str, int] = {}
    offsets: Mapping[tuple[str, int], int] = {}

    @property
    def size_bytes(self) -> int:
        """Roughly how many bytes it writes."""
        return sum(len(output.value) + len(output.key) + 64 for output in self.outputs)


def dead_letter(group: str, reject: Reject) -> Output:
    """Return the dead letter of ``reject``: the original bytes and key, and headers that say why and where from."""
    record = reject.record
    values = (
        group,
        reject.reason,
        reject.error[:500],
        record.topic,
        str(record.partition),
        str(record.offset),
    )
    headers = (
        *record.headers,
        *((name, text.encode("utf-8", "replace")) for name, text in zip(LETTER_HEADERS, values, strict=True)),
    )
    return Output(TOPIC_DEAD_LETTERS, record.value, record.key, headers)


def shortened(letter: Output, limit: int) -> Output:
    """Return ``letter`` cut to about ``limit`` bytes, with a header that says so; its place still names the original.

    A record may have become larger than what can be written: other producers compress, and our headers come on top.
    """
    own = letter.headers[-len(LETTER_HEADERS) :]
    original = letter.headers[: -len(LETTER_HEADERS)]
    note = (HEADER_CUT, str(len(letter.value)).encode())
    if sum(len(name) + len(value) for name, value in original) > limit // 4:
        original = ()
    key = letter.key if len(letter.key) <= limit // 4 else b""
    used = len(key) + sum(len(name) + len(value) + 16 for name, value in (*original, note, *own))
    return Output(
        letter.topic, letter.value[: max(0, limit - used)], key, (*original, note, *own), letter.partition
    )


def of_result(group: str, records: Sequence[Record], result: Result) -> Transaction:
    """Return what a stage's ``result`` for ``records`` writes.

    Where the stage does not name an offset to resume from, everything it was given is done.
    """
    offsets: dict[tuple[str, int], int] = {}
    for record in records:
        place = (record.topic, record.partition)
        offsets[place] = max(offsets.get(place, 0), record.offset + 1)
    offsets.update(result.commit or {})
    counters = dict(result.counters)
    if result.rejects:
        counters["rejects"] = counters.get("rejects", 0) + len(result.rejects)
    return Transaction(
        group=group,
        outputs=[*result.outputs, *(dead_letter(group, reject) for reject in result.rejects)],
        state=result.state,
        counters=counters,
        offsets=offsets,
    )
