"""A stage on a thread of its own: what it is doing, how it is started and waited for, how long it waits for others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import structlog

from stream.errors import DriftgateError, StartError, Transient

StageState = Literal["starting", "running", "waiting", "failing", "stopped"]

_MAX_BACKOFF_S = 30.0


class StageThreadStatus(msgspec.Struct):
    """What a stage is doing; replaced as a whole, so that other threads may read it."""

    state: StageState = "starting"
    reason: str = ""
    since_ns: int = 0
    batches: int = 0
    records: int = 0
    last_progress_ns: int = 0


class StageThread:
    """What all runtimes of a stage share; a subclass says what the thread does (``_run``) and what ends it (``stop``).

    Parameters
    ----------
    clock
        Returns Unix nanoseconds.
    """

    def __init__(self, name: str, clock: Callable[[], int]) -> None:
        self.status = StageThreadStatus(since_ns=clock())
        self.error: DriftgateError | None = None
        self.partitions: tuple[int, ...] = ()
        self.counted: Counter[str] = Counter()  # what the stage counted in committed batches since the start
        self._name = name
        self._clock = clock
        self._lag = 0
        self._thread = threading.Thread(target=self._run, name=f"driftgate-{name}", daemon=True)
        self._logger: Any = structlog.get_logger(__name__).bind(stage=name)

    def lag(self) -> int:
        """Return how many records of its partitions were not handled at the last look."""
        return self._lag

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end after the batch in hand; idempotent."""
        raise NotImplementedError

    def join(self, timeout: float) -> bool:
        """Wait for the thread; return whether it ended. What ended it, if it was not asked to, is in ``error``."""
        if self._thread.ident is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        raise NotImplementedError

    def _failed(self, error: Exception) -> None:
        """Keep what ends the thread; the first error is the cause of those that follow."""
        if self.error is not None:
            return
        if isinstance(error, DriftgateError):
            # A state that cannot be read, a secret that is missing: going on would be wrong.
            self.error = error
            self._logger.error("worker_failed", error=str(error))
        else:
            # Outside a batch there is no record to blame: the process ends and its supervisor starts it anew.
            self.error = StartError(f"the {self._name} worker failed: {error.__class__.__name__}")
            self._logger.error("worker_failed", error=error.__class__.__name__, exc_info=error)

    def _waits_for(self, error: Transient, tries: int) -> float:
        """Say that the stage waits for what ``error`` names, the ``tries``-th time; return for how many seconds."""
        self._set("waiting", error.reason)
        self._logger.warning("stage_waits", reason=error.reason, detail=error.detail, tries=tries)
        return min(_MAX_BACKOFF_S, error.retry_after * 2.0 ** min(tries - 1, 5))

    def _progress(self, count: int) -> None:
        """Count a batch of ``count`` records."""
        now = self._clock()
        old = self.status
        self.status = StageThreadStatus(
            state="running",
            since_ns=old.since_ns if old.state == "running" else now,
            batches=old.batches + (count > 0),
            records=old.records + count,
            last_progress_ns=now,
        )

    def _set(self, state: StageState, reason: str) -> None:
        self.status = msgspec.structs.replace(self.status, state=state, reason=reason, since_ns=self._clock())
