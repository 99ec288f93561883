"""Dead letters: records no stage could use, read back from the log and sent to where they came from.

Replay is one transaction: the original record and the note that this letter was replayed. So a letter goes back once,
whoever asks how often, unless it is asked for again (``again``). What goes back says in its headers which letter
it was and how often it has been replayed; where it fails again, the new dead letter has these headers too, and after
:data:`MAX_REPLAYS` rounds it is refused likewise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from stream.errors import Permanent
from stream.records import (
    HEADER_POLICY_VERSION,
    TOPIC_LOGS,
    TOPIC_SAMPLED,
    TOPIC_SCORES,
    TOPIC_SPANS,
    TOPIC_VERDICTS,
    TOPIC_WINDOWS,
)
from stream.stage import Headers, Output, Record
from stream.transaction import HEADER_CUT, LETTER_HEADERS

GROUP = "replay"
HEADER_REPLAYED = "replayed-letter"
HEADER_REPLAYS = "replays"
MAX_REPLAYS = 3
MISSING = "there is no such letter (any more)"
_TOPICS = (TOPIC_SPANS, TOPIC_LOGS, TOPIC_SAMPLED, TOPIC_SCORES, TOPIC_WINDOWS, TOPIC_VERDICTS)


class Letter(msgspec.Struct, frozen=True):
    """One dead letter. ``id`` is where it stands, ``partition:offset``; ``headers`` are the original record's."""

    id: str
    time_unix_nano: int
    stage: str
    reason: str
    error: str
    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Headers
    replays: int = 0
    replayed: bool = False


class Mailbox(Protocol):
    """A log as replay needs it."""

    def letters(self) -> Iterator[Record]:
        """Return the records of ``dead_letters``, in order per partition."""

    def replayed(self) -> set[str]:
        """Return the ids of letters that were replayed."""

    def claim(self) -> set[str]:
        """Take the right to replay from whoever has it, then return the ids of letters that were replayed."""

    def send(self, letter_id: str, output: Output, counters: Mapping[str, int]) -> None:
        """Write ``output`` and note ``letter_id`` as replayed, both or neither."""


def letter_of(record: Record, replayed: bool = False) -> Letter:
    """Take a record of ``dead_letters`` apart; never fails, whatever it holds."""
    headers = record.headers
    ours: dict[str, str] = {}
    # Ours stand at the end; an original header of the same name stays where it is.
    if tuple(name for name, _ in headers[-len(LETTER_HEADERS) :]) == LETTER_HEADERS:
        ours = {name: value.decode("utf-8", "replace") for name, value in headers[-len(LETTER_HEADERS) :]}
        headers = headers[: -len(LETTER_HEADERS)]
    original = dict(headers)
    return Letter(
        id=f"{record.partition}:{record.offset}",
        time_unix_nano=record.timestamp_ns,
        stage=ours.get("stage", ""),
        reason=ours.get("reason", ""),
        error=ours.get("error", ""),
        topic=ours.get("original-topic", ""),
        partition=_number(ours.get("original-partition", "")),
        offset=_number(ours.get("original-offset", "")),
        key=record.key,
        value=record.value,
        headers=headers,
        replays=max(0, _number(original.get(HEADER_REPLAYS, b"").decode("utf-8", "replace"))),
        replayed=replayed,
    )


def read_letters(mailbox: Mailbox) -> Iterator[Letter]:
    """Yield every letter that the log still has."""
    replayed = mailbox.replayed()
    for record in mailbox.letters():
        yield letter_of(record, f"{record.partition}:{record.offset}" in replayed)


def refusal(letter: Letter, *, again: bool = False) -> str:
    """Return why ``letter`` is not to be replayed; empty when it may be. ``again`` overrules what was done before."""
    if letter.topic not in _TOPICS or letter.partition < 0:
        return "it does not say which topic and partition it came from"
    if HEADER_CUT in dict(letter.headers):
        return f"it was too large and is cut; the original stood at {letter.topic}/{letter.partition}@{letter.offset}"
    if letter.replayed and not again:
        return "it was replayed already"
    if letter.replays >= MAX_REPLAYS and not again:
        return f"it came back {letter.replays} times"
    return ""


def replay(mailbox: Mailbox, ids: Sequence[str], *, again: bool = False) -> dict[str, str]:
    """Send letters back to where they came from.

    Returns
    -------
    dict
        For each of ``ids`` why it was not sent; empty text where it was.

    Raises
    ------
    Transient
        The log cannot take it now; letters before it may have been sent, and are known as replayed.
    """
    replayed = mailbox.claim()
    outcome = dict.fromkeys(ids, MISSING)
    for record in mailbox.letters():
        letter = letter_of(record)
        if letter.id not in outcome:
            continue
        why = refusal(msgspec.structs.replace(letter, replayed=letter.id in replayed), again=again)
        if not why:
            try:
                _send(mailbox, letter)
            except Permanent as error:
                why = error.detail or error.reason
        outcome[letter.id] = why
    return outcome


def _send(mailbox: Mailbox, letter: Letter) -> None:
    headers = tuple(pair for pair in letter.headers if pair[0] not in (HEADER_REPLAYED, HEADER_REPLAYS))
    trace = ((HEADER_REPLAYED, letter.id.encode()), (HEADER_REPLAYS, str(letter.replays + 1).encode()))
    counters = {"replayed": 1}
    if letter.topic == TOPIC_SPANS and dict(letter.headers).get(HEADER_POLICY_VERSION):
        counters["spans_replayed"] = _spans(letter.value)
    output = Output(letter.topic, letter.value, letter.key, (*headers, *trace), letter.partition)
    mailbox.send(letter.id, output, counters)


def _spans(value: bytes) -> int:
    with contextlib.suppress(DecodeError):
        return sum(
            len(scope.spans)
            for resource in TracesData.FromString(value).resource_spans
            for scope in resource.scope_spans
        )
    return 0


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1
