"""One stage on one thread of the embedded runtime: a worker (see :mod:`driftgate.runtime.worker`) that has all partitions.

A worker whose thread fails ends its process, and a supervisor starts it anew. Here the other stages go on, and the one
that failed starts anew by itself, from its saved state.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from driftgate.runtime.worker import Worker
from stream.log import Consumer
from stream.sqlite_consumer import SqliteConsumer
from stream.sqlite_log import SqliteLog
from stream.stage import Stage

_RESTART_AFTER_S = 1.0


class StageRunner(Worker):
    """Runs ``stage`` on its own thread; the parameters are those of :class:`driftgate.runtime.worker.Worker`."""

    def __init__(
        self,
        log: SqliteLog,
        stage: Stage,
        *,
        max_records: int = 500,
        linger: float = 0.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(log, stage, max_records=max_records, linger=linger, clock=clock)
        self._sqlite = log
        self._position: dict[str, int] = {}

    def lag(self) -> int:
        """Return how many records of its topics the stage has not handled yet."""
        ends = self._sqlite.ends()
        return sum(max(0, ends.get(topic, 0) - self._position.get(topic, 0)) for topic in self.stage.topics)

    def hurry(self) -> None:
        """Stop lingering: the process is draining."""
        self._hurry.set()

    def _run(self) -> None:
        """Work until stopped. Whatever fails outside a batch is said, and the stage starts anew from its saved state."""
        while not self._stop.is_set():
            try:
                self._join_group()
            except Exception as error:
                self._set("failing", error.__class__.__name__)
                self._logger.error("stage_starts_anew", error=error.__class__.__name__, exc_info=True)
                self._stop.wait(_RESTART_AFTER_S)
        self._set("stopped", "")

    def _handled(self, consumer: Consumer, count: int) -> None:
        assert isinstance(consumer, SqliteConsumer)
        self._position = consumer.position
        super()._handled(consumer, count)
