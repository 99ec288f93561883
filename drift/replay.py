"""Run the drift stage over records it has seen before, as it ran over the log."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from drift.partition import Partition
from drift.settings import DriftSettings
from stream.errors import Permanent
from stream.records import TOPIC_SCORES, TOPIC_VERDICTS, Verdict
from stream.stage import Record, Result

_SAVE_EVERY = 4096
_AT_ONCE = 500
_decode = msgspec.json.Decoder(Verdict).decode


class Replayed(msgspec.Struct, frozen=True):
    """A verdict, and its bytes as the stage writes them to the log."""

    verdict: Verdict
    raw: bytes


class Replay:
    """One pass over records of the topic ``scores``, of one partition or several, each of which is on its own.

    Afterwards ``counters`` holds the ledger, among it what was excluded or rejected and why.
    """

    def __init__(self, settings: DriftSettings) -> None:
        self._settings = settings
        self._partitions: dict[int, Partition] = {}
        self._applied = 0
        self.counters: dict[str, int] = {}

    def apply(self, records: Sequence[Record]) -> tuple[list[Replayed], dict[str, int]]:
        """Take records of one partition; return the verdicts that became due, and what was counted."""
        result = Result()
        if records:
            number = records[0].partition
            partition = self._partitions.get(number)
            if partition is None:
                partition = self._partitions[number] = Partition(self._settings, {}, number)
            partition.apply(records, result)
        self._applied += len(records)
        if self._applied >= _SAVE_EVERY:
            self._applied = 0
            for one in self._partitions.values():
                one.save()  # what is kept only to be saved does not pile up
        for name, by in result.counters.items():
            self.counters[name] = self.counters.get(name, 0) + by
        verdicts = [
            Replayed(_decode(output.value), output.value)
            for output in result.outputs
            if output.topic == TOPIC_VERDICTS
        ]
        return verdicts, result.counters

    def records(self, records: Iterable[Record]) -> Iterator[Replayed]:
        """Yield every verdict soon after it is due; those of one partition in its order."""
        waiting: dict[int, list[Record]] = {}
        taken = 0
        for record in records:
            waiting.setdefault(record.partition, []).append(record)
            taken += 1
            if taken == _AT_ONCE:
                for some in waiting.values():
                    yield from self.apply(some)[0]
                waiting.clear()
                taken = 0
        for some in waiting.values():
            yield from self.apply(some)[0]

    def run(self, lines: Iterable[bytes]) -> Iterator[Verdict]:
        """Yield the verdicts over lines of a file; see :func:`read_lines`."""
        for found in self.records(read_lines(lines)):
            yield found.verdict


def replay(lines: Iterable[bytes], settings: DriftSettings) -> Iterator[Verdict]:
    """Yield the verdicts that ``settings`` give over JSONL score records; see :class:`Replay`."""
    return Replay(settings).run(lines)


class _Line(msgspec.Struct):
    """A record with its place in the log; either ``record`` or, where that is not JSON, ``base64``."""

    partition: int
    offset: int
    log_time_unix_nano: int
    record: msgspec.Raw = msgspec.Raw(b"")
    base64: str = ""


_lines = msgspec.json.Decoder(_Line)
_any = msgspec.json.Decoder(msgspec.Raw)


def write_line(record: Record) -> bytes:
    """Return ``record`` as one line that :func:`read_lines` turns into the same record, byte for byte."""
    place = f'{{"partition":{record.partition},"offset":{record.offset},"log_time_unix_nano":{record.timestamp_ns},'
    value = record.value
    if value[:1] == b"{" and b"\n" not in value and b"\r" not in value and _is_json(value):
        return place.encode() + b'"record":' + value + b"}\n"
    return place.encode() + b'"base64":"' + base64.b64encode(value) + b'"}\n'


def read_lines(lines: Iterable[bytes]) -> Iterator[Record]:
    """Yield the records of a file, one per line.

    A line is what :func:`write_line` made, or a score record or heartbeat alone: then the number of the line, from 0, is its
    offset. Empty lines are skipped.
    """
    for number, line in enumerate(lines):
        text = line.strip()
        if not text:
            continue
        if text.startswith(b'{"partition":'):
            try:
                item = _lines.decode(text)
                value = base64.b64decode(item.base64, validate=True) if item.base64 else bytes(item.record)
            except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error):
                pass  # a broken line is a record like any other that cannot be read: it is counted as such
            else:
                yield Record(
                    TOPIC_SCORES, item.partition, item.offset, value, timestamp_ns=item.log_time_unix_nano
                )
                continue
        yield Record(TOPIC_SCORES, 0, number, line.rstrip(b"\r\n"))


def _is_json(value: bytes) -> bool:
    try:
        return bytes(_any.decode(value)) == value
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def differences(recorded: bytes, replayed: bytes) -> list[str]:
    """Return one line per field in which two verdict records differ; none where they are equal to the byte.

    Raises
    ------
    stream.errors.Permanent
        The recorded bytes are no JSON object.
    """
    if recorded == replayed:
        return []
    try:
        left, right = (msgspec.json.decode(raw, type=dict[str, object]) for raw in (recorded, replayed))
    except msgspec.DecodeError as error:
        raise Permanent("undecodable", "the recorded verdict is not a JSON object") from error
    found = list(_compare("", left, right))
    return found or ["the same values, written differently"]


def _compare(path: str, left: object, right: object) -> Iterator[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted({*left, *right}):
            yield from _compare(f"{path}.{key}" if path else key, left.get(key), right.get(key))
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for place, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from _compare(f"{path}[{place}]", one, other)
    elif left != right or type(left) is not type(right):
        yield f"{path}: recorded {left!r}, replayed {right!r}"
