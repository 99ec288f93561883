"""Verdicts as they were published, from the log or the store."""

from __future__ import annotations

import base64
import contextlib
import heapq
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from operator import itemgetter

import msgspec

from driftgate.config import Config
from driftgate.store_access import Pages, StoreReader, store_reader
from stream.errors import DriftgateError, StartError
from stream.kafka.settings import SCHEME as KAFKA
from stream.records import TOPIC_VERDICTS, Verdict
from stream.stage import Record

_ID = re.compile(r"[0-9a-f]{4,32}")
_decode = msgspec.json.Decoder(Verdict).decode


class Recorded(msgspec.Struct, frozen=True):
    """One verdict of the past. ``log_time`` is when the log took it (Unix nanoseconds), 0 if it did not say."""

    raw: bytes
    log_time: int

    @property
    def verdict(self) -> Verdict:
        """The record, decoded."""
        return _decode(self.raw)


def in_log(config: Config) -> Iterator[Recorded]:
    """Yield the verdicts that the log still holds, oldest first per partition; what is none has its dead letters."""
    for record in _log_records(config):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            _decode(record.value)
            yield Recorded(record.value, record.timestamp_ns)


def _log_records(config: Config) -> Iterator[Record]:
    if not config.log.url.startswith(KAFKA):
        from stream.sqlite_reading import inspect, read_topic

        with inspect(config.log_path) as reader:
            yield from read_topic(reader, TOPIC_VERDICTS)
        return
    from stream.kafka.consumer import to_record
    from stream.kafka.scan import scan
    from stream.kafka.topics import Topics

    topic = config.log.kafka.topic(TOPIC_VERDICTS)
    count = len(Topics(config.log.kafka).partitions().get(topic, ()))
    for message in scan(config.log.kafka, [(topic, number) for number in range(count)], settled=False):
        yield to_record(message, TOPIC_VERDICTS)


_COLUMNS = "base64Encode(record) AS bytes, toUnixTimestamp64Nano(ingested_at) AS at"


def in_store(
    store: StoreReader, where: str, order: str = "time, verdict_id", limit: int = 100_000
) -> list[Recorded]:
    """Return the verdicts of the store for which the SQL condition ``where`` holds."""
    rows = store.rows(
        f"SELECT {_COLUMNS} FROM verdicts WHERE record != '' AND ({where}) ORDER BY {order} LIMIT {limit}"  # noqa: S608
    )
    return [Recorded(base64.b64decode(row["bytes"]), int(row["at"])) for row in rows]


def all_in_store(store: StoreReader) -> Iterator[Recorded]:
    """Yield all verdicts of the store, oldest first."""
    pages, after, last = Pages(20_000), 0, ""
    while pages.more:
        where = f"(toUnixTimestamp64Nano(time), verdict_id) > (toInt64({after}), '{last}')"
        found = pages.next(partial(in_store, store, where, "time, verdict_id"))
        yield from found
        if not found:
            return
        after, last = found[-1].verdict.time_unix_nano, found[-1].verdict.verdict_id


def latest(config: Config, limit: int, wanted: Callable[[Verdict], bool]) -> list[Recorded]:
    """Return the latest ``limit`` verdicts that are ``wanted``, latest first, of the store or, where there is none, the log.

    Raises
    ------
    StartError
        Neither can be read.
    """
    try:
        with store_reader(config) as store:
            return _newest(_paged(store), limit, wanted)
    except StartError as error:
        trouble = error
    found = ((item.verdict, item) for item in in_log(config))
    kept = ((one.time_unix_nano, one.verdict_id, item) for one, item in found if wanted(one))
    try:
        return [item for _, _, item in heapq.nlargest(limit, kept, key=itemgetter(0, 1))]
    except StartError as error:
        raise StartError(f"neither store nor log can be read: {trouble}; {error}") from error


def _newest(items: Iterator[Recorded], limit: int, wanted: Callable[[Verdict], bool]) -> list[Recorded]:
    return list(islice((item for item in items if wanted(item.verdict)), limit))


def _paged(store: StoreReader) -> Iterator[Recorded]:
    """Yield all verdicts of the store, latest first."""
    pages, where = Pages(5_000), "1"
    while pages.more:
        found = pages.next(partial(in_store, store, where, "time DESC, verdict_id DESC"))
        yield from found
        if not found:
            return
        last = found[-1].verdict
        where = f"(toUnixTimestamp64Nano(time), verdict_id) < (toInt64({last.time_unix_nano}), '{last.verdict_id}')"


def checked_id(text: str) -> str:
    """Return ``text`` if it can be a verdict's id or the beginning of one.

    Raises
    ------
    DriftgateError
        It cannot.
    """
    if not _ID.fullmatch(text):
        raise DriftgateError(
            "a verdict id is 32 hex digits, of which at least the first 4 are given; see `driftgate verdicts`"
        )
    return text


def one(found: list[Recorded], verdict_id: str) -> Recorded | None:
    """Return the one verdict whose id begins with ``verdict_id``, if it is among ``found``.

    Raises
    ------
    DriftgateError
        Several do.
    """
    by_id = {
        item.verdict.verdict_id: item for item in found if item.verdict.verdict_id.startswith(verdict_id)
    }
    if len(by_id) > 1:
        raise DriftgateError(f"several verdicts begin with {verdict_id}: " + ", ".join(sorted(by_id)[:5]))
    return next(iter(by_id.values()), None)
