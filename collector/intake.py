"""What both receivers share: who may send, the memory budget, the threads that decode and redact, publishing, counts.

Delivery: :meth:`Intake.export` returns only after ``publish`` has returned, so what the sender is told is accepted is in
the log. A sender that goes away early does not stop its request; it may then send it again, and spans arrive twice.

Fairness: requests wait for a thread in a :class:`collector.fair_queue.FairQueue`, so a tenant that sends much waits behind
itself, and it cannot take the room of the others in the :class:`collector.budget.Budget`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from collector.budget import Budget, Ticket
from collector.fair_queue import FairQueue
from collector.ingest import Ingest, Ingested
from collector.rate import Rates
from collector.redaction.residual import Residual
from collector.rescan import Rescan
from collector.settings import CollectorSettings
from collector.tenants import DEFAULT_TENANT
from stream.errors import Permanent, Transient
from stream.stage import Output

Publish = Callable[[Sequence[Output], Mapping[str, int]], Awaitable[None]]
Signal = Literal["traces", "logs"]
# Turns a body into what Ingest takes, in a worker thread; it may be given more room in the budget.
Decode = Callable[[bytes, Ticket], Any]

# The largest message seen is expected again, for so many requests by and by less.
_FORGETTING = 0.999
# What a request costs besides its bytes: an empty one is not for free.
_COST_OF_A_REQUEST = 4096


class Intake:
    """Takes bodies from the receivers and hands records to the log. All methods belong to the event loop's thread.

    Parameters
    ----------
    settings
        Limits.
    ingest
        Decoding and redaction.
    publish
        Makes records and counters durable. Raises :class:`stream.errors.Transient` or
        :class:`stream.errors.Permanent`, nothing else.
    clock
        Seconds that only ever grow, for the rates of tenants.
    """

    def __init__(
        self,
        settings: CollectorSettings,
        ingest: Ingest,
        publish: Publish,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = settings.limits_by_tenant() or {DEFAULT_TENANT: settings.tenant_limits}
        self.budget = Budget(
            settings.max_in_flight_bytes, settings.retry_after, shared=len(settings.tenants) > 1
        )
        self._ingest = ingest
        self._publish = publish
        self._clock = clock
        self._rates = {tenant: Rates(limit, clock()) for tenant, limit in limits.items()}
        self._named = bool(settings.tenants)
        self._threads = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="driftgate-decode")
        self._idle_threads = settings.decode_threads
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._tasks: set[asyncio.Task[Ingested]] = set()
        self._expected: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        share = settings.redaction.residual_share
        self._rescan = Rescan(Residual(ingest.engine, share)) if share else None

    def admit(self, tenant: str) -> Ticket:
        """Return an empty ticket; who takes it releases it, or gives it to :meth:`export`.

        Call it before the body is read.

        Raises
        ------
        Transient
            ``rate_limited``: the tenant has sent too much lately.
        """
        self._rates[tenant].admit(self._clock())
        return Ticket(self.budget, tenant)

    def expect(self, ticket: Ticket) -> None:
        """Take room for a message whose size is told only when it is there: the size of its tenant's large ones lately.

        Raises
        ------
        Transient
            ``overloaded``: there is no room for it, so it need not be received.
        """
        ticket.grow(int(self._expected.get(ticket.tenant, 0)))

    def received(self, ticket: Ticket, size: int) -> None:
        """Say how large the expected message was; raises as :meth:`expect` does."""
        expected = self._expected.get(ticket.tenant, 0.0)
        self._expected[ticket.tenant] = max(float(size), expected * _FORGETTING)
        ticket.settle(size)

    def refused(self, error: Permanent | Transient, tenant: str = "") -> None:
        """Count a request that a receiver answers with ``error``."""
        self.counts[f"requests_refused.{error.reason}"] += 1
        if tenant and self._named:
            self.counts[f"tenant.{tenant}.requests_refused"] += 1

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
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Ingested]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # of a client that has gone away, nobody else asks for it

    async def _export(
        self, signal: Signal, body: bytes, tenant: str, ticket: Ticket, decode: Decode | None
    ) -> Ingested:
        received = 0
        try:
            ingested = await self._in_turn(signal, body, tenant, ticket, decode)
            received = ingested.received
            if received:
                await self._write(ingested)
        except Transient as error:
            if error.reason == "overloaded":
                raise
            raise Transient(
                error.reason, error.detail, retry_after=self.budget.delay(error.retry_after)
            ) from error
        finally:
            # Of a compressed body both are held, and only what came out of it is paid for.
            size = max(len(body), ticket.held - len(body))
            ticket.release()
            # What came is paid for, whatever becomes of it: the work was done.
            self._rates[tenant].pay(received, size, self._clock())
        self._count(signal, tenant, size, ingested)
        return ingested

    async def _write(self, ingested: Ingested) -> None:
        counted = self._rescan.take() if self._rescan else {}
        try:
            await self._publish(ingested.outputs, {**ingested.counters, **counted})
        except BaseException:
            if self._rescan:
                self._rescan.give_back(counted)
            raise
        if self._rescan:
            self._rescan.offer(ingested.outputs)

    async def _in_turn(
        self, signal: Signal, body: bytes, tenant: str, ticket: Ticket, decode: Decode | None
    ) -> Ingested:
        loop = asyncio.get_running_loop()
        if self._idle_threads:
            self._idle_threads -= 1
        else:
            turn: asyncio.Future[None] = loop.create_future()
            self._waiting.put(tenant, len(body) + _COST_OF_A_REQUEST, turn)
            await turn
        try:
            return await loop.run_in_executor(self._threads, self._work, signal, body, tenant, ticket, decode)
        finally:
            # Only now is it known what came out of a compressed body.
            self._waiting.charge(tenant, ticket.held - len(body))
            self._next()

    def _next(self) -> None:
        """Give the thread to whose turn it is."""
        while self._waiting:
            turn = self._waiting.pop()
            if not turn.done():  # a stop gives up on those that wait
                turn.set_result(None)
                return
        self._idle_threads += 1

    def _work(
        self, signal: Signal, body: bytes, tenant: str, ticket: Ticket, decode: Decode | None
    ) -> Ingested:
        payload = decode(body, ticket) if decode else body
        return (
            self._ingest.traces(payload, tenant) if signal == "traces" else self._ingest.logs(payload, tenant)
        )

    def _count(self, signal: Signal, tenant: str, size: int, ingested: Ingested) -> None:
        self.counts[f"{signal}_requests"] += 1
        self.counts.update(ingested.counters)
        if self._named:
            self.counts[f"tenant.{tenant}.{'spans' if signal == 'traces' else 'logs'}"] += ingested.received
            self.counts[f"tenant.{tenant}.bytes"] += size

    def metrics(self) -> dict[str, float]:
        """Return counters since the start, and what is in flight now."""
        return {
            **self.counts,
            **(self._rescan.metrics() if self._rescan else {}),
            "in_flight_bytes": self.budget.used,
            "in_flight_requests": len(self._tasks),
            "waiting_requests": len(self._waiting),
        }

    async def drain(self, grace: float) -> None:
        """Wait up to ``grace`` seconds for requests in flight; then give up on them (they were not acknowledged)."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace)
        for task in set(self._tasks):
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._rescan:
            self._rescan.close()
            if counted := self._rescan.take():
                try:
                    await self._publish([], counted)
                except (Transient, Permanent):
                    self._rescan.give_back(counted)  # the log says in its own way that it is down
