"""Runs the second look (:mod:`collector.redaction.residual`) beside the receivers: after the answer, in a thread of its own.

It is bounded in memory and in time: at most a few megabytes of records wait, and the thread is busy for at most a twentieth
of the time. Records that find no room are counted and not looked at.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

import structlog
from google.protobuf.message import DecodeError

from collector.redaction.residual import Residual
from stream.records import TOPIC_QUARANTINE
from stream.stage import Output

_MOST_WAITING_BYTES = 8 << 20
_BUSY_SHARE = 0.05


class Rescan:
    """Looks again at what was published.

    Parameters
    ----------
    residual
        Finds what is left.
    clock
        Seconds that only ever grow.
    busy_share
        Share of the time that the thread may work.
    """

    def __init__(
        self,
        residual: Residual,
        clock: Callable[[], float] = time.monotonic,
        *,
        busy_share: float = _BUSY_SHARE,
    ) -> None:
        self._residual = residual
        self._clock = clock
        self._rest = 1 / busy_share - 1
        self._waiting: deque[Output] = deque()
        self._bytes = 0
        self._working = False
        self._closing = False
        self._changed = threading.Condition()
        self._counts: Counter[str] = Counter()
        self._unsaved: Counter[str] = Counter()
        self._logger = structlog.get_logger(__name__)
        self._thread: threading.Thread | None = None

    def offer(self, outputs: Sequence[Output]) -> None:
        """Have ``outputs`` looked at when there is time; returns at once."""
        with self._changed:
            for output in outputs:
                if output.topic == TOPIC_QUARANTINE:
                    continue
                if self._closing or self._bytes + len(output.value) > _MOST_WAITING_BYTES:
                    self._add("residual_records_skipped", 1)
                    continue
                self._waiting.append(output)
                self._bytes += len(output.value)
            if self._thread is None and self._waiting:
                self._thread = threading.Thread(target=self._run, name="driftgate-rescan", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def take(self) -> dict[str, int]:
        """Return what was counted since the last call, for the ledger."""
        with self._changed:
            taken, self._unsaved = dict(self._unsaved), Counter()
            return taken

    def give_back(self, counters: dict[str, int]) -> None:
        """Undo :meth:`take`: the ledger could not be written."""
        with self._changed:
            self._unsaved.update(counters)

    def metrics(self) -> dict[str, float]:
        """Return counts since the start."""
        with self._changed:
            return dict(self._counts)

    def settle(self, timeout: float) -> bool:
        """Wait until everything that was offered has been looked at; return whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._working, timeout)

    def close(self) -> None:
        """Look at nothing more; idempotent."""
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._bytes = 0
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._working = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                output = self._waiting.popleft()
                self._bytes -= len(output.value)
                self._working = True
            started = self._clock()
            self._look(output)
            spent = self._clock() - started
            with self._changed:
                self._changed.wait_for(lambda: self._closing, spent * self._rest)

    def _look(self, output: Output) -> None:
        try:
            found = self._residual.scan(output)
        except (
            ArithmeticError,
            AttributeError,
            DecodeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            # The kind of error only: its text may hold data.
            self._logger.error("residual_scan_failed", error=error.__class__.__name__)
            with self._changed:
                self._add("residual_failed", 1)
            return
        with self._changed:
            self._add("residual_items", found.items)
            for (entity, place), count in found.finds.items():
                self._add("residual_finds", count)
                self._add(f"residual_finds.{entity}.{place}", count)
        for (entity, place), count in sorted(found.finds.items()):
            self._logger.error("personal_data_left_in_output", entity=entity, place=place, count=count)

    def _add(self, name: str, count: int) -> None:
        if count:
            self._counts[name] += count
            self._unsaved[name] += count
