"""The dead letters of each kind of log, whether its processes run or not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from driftgate.config import Config
from driftgate.dead_letters import GROUP, replay
from driftgate.running import endpoints_of, request
from stream.errors import StartError
from stream.kafka.settings import SCHEME as KAFKA
from stream.kafka.settings import KafkaSettings
from stream.records import TOPIC_DEAD_LETTERS
from stream.sqlite_log import SqliteLog
from stream.stage import Output, Record
from stream.transaction import Transaction

_NOTE = "letter/"
_LONGEST_REPLAY_S = 86400.0  # one transaction a letter; who waits can stop it, and what was sent is known


class SqliteMailbox:
    """Dead letters of a SQLite log. ``log`` is the open log where this process owns it."""

    def __init__(self, config: Config, log: SqliteLog | None = None) -> None:
        self._config = config
        self._log = log
        self._opened: SqliteLog | None = None

    def letters(self) -> Iterator[Record]:
        """See :class:`driftgate.dead_letters.Mailbox`."""
        from stream.sqlite_reading import inspect, read_topic

        with inspect(self._config.log_path) as reader:
            yield from read_topic(reader, TOPIC_DEAD_LETTERS)

    def replayed(self) -> set[str]:
        """See :class:`driftgate.dead_letters.Mailbox`."""
        from stream.sqlite_reading import inspect, read_state

        with inspect(self._config.log_path) as reader:
            return {key.removeprefix(_NOTE) for key in read_state(reader, GROUP) if key.startswith(_NOTE)}

    def claim(self) -> set[str]:
        """See :class:`driftgate.dead_letters.Mailbox`; opens the log, which one process owns at a time, and makes none."""
        self.replayed()
        if self._log is None:
            log = self._config.log
            self._log = self._opened = SqliteLog(
                self._config.log_path, max_age=log.max_age, max_bytes=log.max_bytes
            )
        return self.replayed()

    def send(self, letter_id: str, output: Output, counters: Mapping[str, int]) -> None:
        """See :class:`driftgate.dead_letters.Mailbox`."""
        assert self._log is not None, "claim first"
        state = {(0, _NOTE + letter_id): output.topic.encode()}
        self._log.submit(Transaction(GROUP, [output], state, counters))

    def close(self) -> None:
        """Close what was opened here; idempotent."""
        if self._opened is not None:
            self._opened.close()
            self._log = self._opened = None


class KafkaMailbox:
    """Dead letters of a log on Kafka."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        from stream.kafka.state import Totals

        self._writer: Any = None
        self._totals = Totals()

    def letters(self) -> Iterator[Record]:
        """See :class:`driftgate.dead_letters.Mailbox`."""
        from stream.kafka.consumer import to_record
        from stream.kafka.scan import scan

        for message in scan(
            self._settings, self._places(self._settings.topic(TOPIC_DEAD_LETTERS)), settled=False
        ):
            yield to_record(message, TOPIC_DEAD_LETTERS)

    def _places(self, topic: str) -> list[tuple[str, int]]:
        from stream.kafka.topics import Topics

        count = len(Topics(self._settings).partitions().get(topic, ()))
        if not count:
            raise StartError(f"topic {topic} is missing; run `driftgate topics create`")
        return [(topic, number) for number in range(count)]

    def replayed(self) -> set[str]:
        """See :class:`driftgate.dead_letters.Mailbox`."""
        return {key.removeprefix(_NOTE) for key in self._saved().values if key.startswith(_NOTE)}

    def _saved(self) -> Any:
        from stream.kafka.state import StateReader

        self._places(self._settings.state_topic(GROUP))
        reader = StateReader(self._settings)
        try:
            return reader.read(self._settings.state_topic(GROUP), 0)
        finally:
            reader.close()

    def claim(self) -> set[str]:
        """See :class:`driftgate.dead_letters.Mailbox`."""
        from stream.kafka.transactions import Transactions

        # One name for all: whoever claims ends what another process has under way, before the notes are read.
        self._writer = Transactions(self._settings, f"{self._settings.prefix}{GROUP}")
        self._writer.ready()
        saved = self._saved()
        self._totals = saved.totals.get("", self._totals)
        return {key.removeprefix(_NOTE) for key in saved.values if key.startswith(_NOTE)}

    def send(self, letter_id: str, output: Output, counters: Mapping[str, int]) -> None:
        """See :class:`driftgate.dead_letters.Mailbox`; one transaction."""
        from stream.kafka.consumer import to_message
        from stream.kafka.state import state_message, totals_message

        topic = self._settings.state_topic(GROUP)
        totals = self._totals.after(counters, [output.topic])
        self._writer.write(
            [
                to_message(self._settings, output),
                state_message(topic, 0, _NOTE + letter_id, output.topic.encode()),
                totals_message(topic, 0, "", totals),
            ]
        )
        self._totals = totals

    def close(self) -> None:
        """Let go of the brokers; idempotent."""
        if self._writer is not None:
            self._writer.drop()
            self._writer = None


def open_mailbox(config: Config) -> SqliteMailbox | KafkaMailbox:
    """Return the dead letters of the configured log."""
    if config.log.url.startswith(KAFKA):
        return KafkaMailbox(config.log.kafka)
    return SqliteMailbox(config)


def replay_where_it_runs(config: Config, ids: Sequence[str], *, again: bool) -> dict[str, str]:
    """Replay letters through the process that owns the log, if there is one; else from here.

    Returns
    -------
    dict
        For each id why it was not replayed; empty text where it was.

    Raises
    ------
    StartError
        The process that owns the log has no administration port.
    """
    if not config.log.url.startswith(KAFKA) and (endpoints := endpoints_of(config.data)):
        if "web" not in endpoints:
            raise StartError(
                "the process that owns the log has no administration port: stop it first, or set `web.enabled`"
            )
        token = config.web.token.reveal() if config.web.token else ""
        body = json.dumps({"ids": list(ids), "again": again}).encode()
        answer = request(
            endpoints["web"], "/v1/dead-letters/replay", body=body, token=token, timeout=_LONGEST_REPLAY_S
        )
        found: dict[str, str] = json.loads(answer)
        return found
    with contextlib.closing(open_mailbox(config)) as mailbox:
        return replay(mailbox, ids, again=again)
