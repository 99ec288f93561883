"""What becomes durable at once when a stage commits a batch, whoever keeps the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from stream.records import TOPIC_DEAD_LETTERS
from stream.stage import Output, Record, Reject, Result


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
    headers = (
        *record.headers,
        ("stage", group.encode()),
        ("reason", reject.reason.encode()),
        ("error", reject.error[:500].encode("utf-8", "replace")),
        ("original-topic", record.topic.encode()),
        ("original-partition", str(record.partition).encode()),
        ("original-offset", str(record.offset).encode()),
    )
    return Output(TOPIC_DEAD_LETTERS, record.value, record.key, headers)


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
