"""Records that made a stage raise: each becomes one dead letter, and is passed over from then on.

Which they are is saved with the stage's state, in the transaction that writes the dead letter. The committed offset
cannot say it: a stage that still needs earlier records (the sampler) keeps its offset before the record at fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from stream.stage import Record, Reject, Result

STATE = "runtime/poison"

Place = tuple[str, int]


class Poison:
    """What one worker knows of the records at fault in its partitions."""

    def __init__(self) -> None:
        self._known: dict[Place, set[int]] = {}
        self._passed: dict[Place, int] = {}  # offset after the last that was left out of a batch

    def restore(self, partition: int, state: Mapping[str, bytes]) -> dict[str, bytes]:
        """Take what is ours out of the state saved for ``partition``; return the rest, the stage's own."""
        self.forget(partition)
        rest = dict(state)
        if raw := rest.pop(STATE, b""):
            for topic, offsets in msgspec.json.decode(raw, type=dict[str, list[int]]).items():
                self._known[topic, partition] = set(offsets)
        return rest

    def forget(self, partition: int) -> None:
        """Let go of ``partition``."""
        for place in [place for place in (*self._known, *self._passed) if place[1] == partition]:
            self._known.pop(place, None)
            self._passed.pop(place, None)

    def note(self, record: Record, error: str) -> Result:
        """Return what makes ``record`` a dead letter; ``error`` names what the stage raised."""
        self._known.setdefault((record.topic, record.partition), set()).add(record.offset)
        return Result(
            rejects=[Reject(record, "stage_error", error)],
            counters={"poisoned": 1},
            state={(record.partition, STATE): self._state(record.partition)},
        )

    def without(self, records: Sequence[Record]) -> list[Record]:
        """Return ``records`` without those at fault."""
        kept = []
        for record in records:
            place = (record.topic, record.partition)
            if record.offset in self._known.get(place, ()):
                self._passed[place] = record.offset + 1
            else:
                kept.append(record)
        return kept

    def settle(self, records: Sequence[Record], result: Result) -> None:
        """Let the offsets that ``result`` commits move over records at fault, and forget those that are behind them."""
        if not self._known:
            return
        offsets: dict[Place, int] = {}
        for record in records:
            place = (record.topic, record.partition)
            offsets[place] = max(offsets.get(place, 0), record.offset + 1)
        if result.commit is None:
            for place, at in self._passed.items():
                offsets[place] = max(offsets.get(place, 0), at)
        offsets.update(result.commit or {})
        self._passed.clear()
        for place, at in offsets.items():
            known = self._known.get(place)
            if not known:
                continue
            while at in known:
                at += 1
            offsets[place] = at
            if min(known) < at:
                self._known[place] = {offset for offset in known if offset >= at}
                if not self._known[place]:
                    del self._known[place]
                result.state[place[1], STATE] = self._state(place[1])
        result.commit = offsets

    def _state(self, partition: int) -> bytes | None:
        found = {
            topic: sorted(offsets) for (topic, number), offsets in self._known.items() if number == partition
        }
        return msgspec.json.encode(found) if found else None
