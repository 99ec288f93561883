"""What both receivers share: the memory budget, the threads that decode and redact, publishing, and the counts.

Delivery: :meth:`Intake.export` returns only after ``publish`` has returned, so what the sender is told is accepted is in
the log. A sender that goes away early does not stop its request; it may then send it again, and spans arrive twice.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from collector.ingest import Ingest, Ingested
from collector.settings import CollectorSettings
from stream.errors import Permanent, Transient
from stream.stage import Output

Publish = Callable[[Sequence[Output], Mapping[str, int]], Awaitable[None]]
Signal = Literal["traces", "logs"]
# Turns a body into what Ingest takes, in a worker thread; it may be given more room in the budget.
Decode = Callable[[bytes, "Ticket"], Any]


class Ticket:
    """One request's share of the budget."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def grow(self, size: int) -> None:
        """Take ``size`` more bytes.

        Raises
        ------
        Transient
            ``overloaded``: the budget is spent.
        """
        self._budget.take(size)
        self.held += size

    def release(self) -> None:
        """Give everything back; idempotent."""
        held, self.held = self.held, 0
        self._budget.give(held)


class Budget:
    """Bytes of requests in flight. Thread-safe."""

    def __init__(self, limit: int, retry_after: float) -> None:
        self._limit = limit
        self._retry_after = retry_after
        self._lock = threading.Lock()
        self.used = 0

    @property
    def load(self) -> float:
        """Used share, 0 to 1."""
        return self.used / self._limit

    def delay(self, base: float | None = None) -> float:
        """Return seconds to wait: longer under load, and different for each sender so that they do not return at once."""
        return (base or self._retry_after) * (1 + self.load) * random.uniform(0.75, 1.5)  # noqa: S311 - no secret

    def room_for(self, size: int) -> None:
        """Raise :class:`stream.errors.Transient` if ``size`` bytes do not fit now; takes nothing."""
        if self.used + size > self._limit:
            self._refuse()

    def take(self, size: int) -> None:
        with self._lock:
            fits = self.used + size <= self._limit
            if fits:
                self.used += size
        if not fits:
            self._refuse()

    def give(self, size: int) -> None:
        with self._lock:
            self.used -= size

    def _refuse(self) -> None:
        raise Transient("overloaded", "too many requests in flight, try again", retry_after=self.delay())


class Intake:
    """Takes bodies from the receivers and hands records to the log.

    Parameters
    ----------
    settings
        Limits.
    ingest
        Decoding and redaction.
    publish
        Makes records and counters durable. Raises :class:`stream.errors.Transient` or
        :class:`stream.errors.Permanent`, nothing else.
    """

    def __init__(self, settings: CollectorSettings, ingest: Ingest, publish: Publish) -> None:
        self.budget = Budget(settings.max_in_flight_bytes, settings.retry_after)
        self._ingest = ingest
        self._publish = publish
        self._threads = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="driftgate-decode")
        self._tasks: set[asyncio.Task[Ingested]] = set()
        self.counts: Counter[str] = Counter()

    def ticket(self) -> Ticket:
        """Return an empty ticket; who takes it releases it, or gives it to :meth:`export`."""
        return Ticket(self.budget)

    def refused(self, error: Permanent | Transient) -> None:
        """Count a request that a receiver answers with ``error``."""
        self.counts[f"requests_refused.{error.reason}"] += 1

    async def export(
        self, signal: Signal, body: bytes, tenant: str, ticket: Ticket, decode: Decode | None = None
    ) -> Ingested:
        """Decode, redact and publish one request; releases ``ticket``.

        Raises
        ------
        Permanent
            The request can never be accepted.
        Transient
            It was not made durable; the delay is stretched by load and jitter.
        """
        task = asyncio.ensure_future(self._export(signal, body, tenant, ticket, decode))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _export(
        self, signal: Signal, body: bytes, tenant: str, ticket: Ticket, decode: Decode | None
    ) -> Ingested:
        try:
            loop = asyncio.get_running_loop()
            ingested = await loop.run_in_executor(
                self._threads, self._work, signal, body, tenant, ticket, decode
            )
            if ingested.received:
                await self._publish(ingested.outputs, ingested.counters)
        except Transient as error:
            if error.reason == "overloaded":
                raise
            raise Transient(
                error.reason, error.detail, retry_after=self.budget.delay(error.retry_after)
            ) from error
        finally:
            ticket.release()
        self._count(signal, ingested)
        return ingested

    def _work(
        self, signal: Signal, body: bytes, tenant: str, ticket: Ticket, decode: Decode | None
    ) -> Ingested:
        payload = decode(body, ticket) if decode else body
        return (
            self._ingest.traces(payload, tenant) if signal == "traces" else self._ingest.logs(payload, tenant)
        )

    def _count(self, signal: Signal, ingested: Ingested) -> None:
        self.counts[f"{signal}_requests"] += 1
        self.counts.update(ingested.counters)
        for (entity, place), count in ingested.report.places.items():
            self.counts[f"redactions.{entity}.{place}"] += count

    def metrics(self) -> dict[str, float]:
        """Return counters since the start, and what is in flight now."""
        return {
            **self.counts,
            "in_flight_bytes": self.budget.used,
            "in_flight_requests": len(self._tasks),
        }

    async def drain(self, grace: float) -> None:
        """Wait up to ``grace`` seconds for requests in flight; then give up on them (they were not acknowledged)."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace)
        for task in set(self._tasks):
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
