"""Run the drift stage over a file of score records, as it would have run over the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from drift.partition import Partition
from drift.settings import DriftSettings
from stream.records import TOPIC_SCORES, TOPIC_VERDICTS, Verdict
from stream.stage import Record, Result

_SAVE_EVERY = 4096


class Replay:
    """One pass over score records and heartbeats, one JSON document per line.

    The order of the lines is the order of the log; the number of a line, from 0, is its offset. Afterwards ``counters``
    holds the ledger, among it what was excluded or rejected and why.
    """

    def __init__(self, settings: DriftSettings) -> None:
        self._partition = Partition(settings, {})
        self.counters: dict[str, int] = {}

    def run(self, lines: Iterable[bytes]) -> Iterator[Verdict]:
        """Yield every verdict as soon as it is due. Empty lines are skipped; bad ones are counted."""
        for offset, line in enumerate(lines):
            if not line.strip():
                continue
            result = Result(counters=self.counters)
            self._partition.apply(Record(topic=TOPIC_SCORES, partition=0, offset=offset, value=line), result)
            if offset % _SAVE_EVERY == _SAVE_EVERY - 1:
                self._partition.save()  # what is kept only to be saved does not pile up
            for output in result.outputs:
                if output.topic == TOPIC_VERDICTS:
                    yield msgspec.json.decode(output.value, type=Verdict)


def replay(lines: Iterable[bytes], settings: DriftSettings) -> Iterator[Verdict]:
    """Yield the verdicts that ``settings`` give over JSONL score records; see :class:`Replay`."""
    return Replay(settings).run(lines)
