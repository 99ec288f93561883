"""What a stage is: pure logic over batches, with state it can save and restore.

A stage never opens the log, never reads a clock and never sleeps. A runtime hands it batches and carries out the
:class:`Result` in this order: write outputs and rejects, save state and counters, commit offsets (in one transaction
where the log can). So every stage is tested without a broker, and runs the same in one process and in a hundred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

Headers = tuple[tuple[str, bytes], ...]


class Record(msgspec.Struct, frozen=True):
    """One record read from the log. ``timestamp_ns`` is when the log took it (Unix nanoseconds)."""

    topic: str
    partition: int
    offset: int
    value: bytes
    key: bytes = b""
    headers: Headers = ()
    timestamp_ns: int = 0

    def header(self, name: str, default: str = "") -> str:
        """Return the last header called ``name`` as text."""
        for key, value in reversed(self.headers):
            if key == name:
                return value.decode("utf-8", "replace")
        return default


class Output(msgspec.Struct, frozen=True):
    """One record to write. ``partition=None`` lets the log choose by key."""

    topic: str
    value: bytes
    key: bytes = b""
    headers: Headers = ()
    partition: int | None = None


class Reject(msgspec.Struct, frozen=True):
    """A record that will never work; the runtime writes it to ``dead_letters`` with its original bytes."""

    record: Record
    reason: str  # short machine-readable word, a metric label
    error: str = ""  # one sentence without data


class Batch(msgspec.Struct, frozen=True):
    """Records in log order per partition, possibly none (a tick). ``now_ns`` is the runtime's clock, Unix nanoseconds."""

    records: Sequence[Record]
    now_ns: int


class Result(msgspec.Struct):
    """What the runtime must carry out for a batch.

    ``commit`` maps (topic, partition) to the offset to resume from after a crash. ``None`` means "everything in the
    batch is done". A stage that holds records back (the sampler) names the offset of the oldest it still needs.
    ``state`` maps (partition, key) to a value to save, or ``None`` to delete it; it becomes durable together with the
    outputs. ``counters`` are added to the durable ledger of the stage.
    """

    outputs: list[Output] = msgspec.field(default_factory=list)
    rejects: list[Reject] = msgspec.field(default_factory=list)
    state: dict[tuple[int, str], bytes | None] = msgspec.field(default_factory=dict)
    counters: dict[str, int] = msgspec.field(default_factory=dict)
    commit: dict[tuple[str, int], int] | None = None

    def count(self, name: str, by: int = 1) -> None:
        """Add ``by`` to the durable counter ``name``."""
        self.counters[name] = self.counters.get(name, 0) + by


class Stage(Protocol):
    """The one shape of all stages.

    ``process`` must be repeatable: after a crash it may see again what it saw after the last saved state, and must
    then produce the same outputs with the same ids. It raises :class:`stream.errors.Transient` when the whole batch
    should be tried again later; a single bad record is a :class:`Reject`, never an exception.
    """

    @property
    def name(self) -> str:
        """Also the consumer group."""

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics it reads. All of them have the same partition count."""

    def assign(self, partition: int, state: Mapping[str, bytes]) -> None:
        """Take over ``partition`` with the state saved for it (empty at first)."""

    def revoke(self, partition: int) -> None:
        """Forget everything held for ``partition``."""

    def process(self, batch: Batch) -> Result:
        """Handle one batch."""
