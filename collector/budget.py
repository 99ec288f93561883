"""The bytes of all requests being handled, and how much of them one tenant may hold."""

from __future__ import annotations

import random
import threading

from stream.errors import Transient


class Ticket:
    """One request's share of the budget."""

    __slots__ = ("_budget", "held", "tenant")

    def __init__(self, budget: Budget, tenant: str) -> None:
        self._budget = budget
        self.tenant = tenant
        self.held = 0

    def grow(self, size: int) -> None:
        """Take ``size`` more bytes.

        Raises
        ------
        Transient
            ``overloaded``: the budget, or what the tenant may hold of it, is spent.
        """
        self._budget.take(self.tenant, size, self.held)
        self.held += size

    def settle(self, size: int) -> None:
        """Hold ``size`` bytes, more or fewer than now; raises as :meth:`grow` does."""
        if size > self.held:
            self.grow(size - self.held)
        else:
            self._budget.give(self.tenant, self.held - size)
            self.held = size

    def release(self) -> None:
        """Give everything back; idempotent."""
        held, self.held = self.held, 0
        self._budget.give(self.tenant, held)


class Budget:
    """Bytes of requests in flight. Thread-safe.

    Parameters
    ----------
    limit
        Bytes in all.
    retry_after
        Seconds that refused senders are told, before load and jitter stretch them.
    shared
        Whether several tenants share it. Then none may hold more than what is left free beside it (the dynamic threshold
        of Choudhury and Hahne, 1998): one greedy tenant gets half of the budget, and there is always room for the next. A tenant's only request may always
        take what is free: else one of more than half of the budget would be refused for ever.
    """

    def __init__(self, limit: int, retry_after: float, *, shared: bool = False) -> None:
        self._limit = limit
        self._retry_after = retry_after
        self._shared = shared
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self.used = 0

    @property
    def load(self) -> float:
        """Used share, 0 to 1."""
        return self.used / self._limit

    def delay(self, base: float | None = None) -> float:
        """Return seconds to wait: longer under load, and different for each sender so that they do not return at once."""
        return (base or self._retry_after) * (1 + self.load) * random.uniform(0.75, 1.5)  # noqa: S311 - no secret

    def room_for(self, tenant: str, size: int) -> None:
        """Raise :class:`stream.errors.Transient` if ``size`` bytes do not fit now; takes nothing."""
        if not self._fits(tenant, size):
            self._refuse()

    def take(self, tenant: str, size: int, own: int = 0) -> None:
        """Take ``size`` bytes for a request of ``tenant`` that holds ``own`` already; raises as :meth:`room_for` does."""
        with self._lock:
            fits = self._fits(tenant, size, own)
            if fits:
                self.used += size
                self._held[tenant] = self._held.get(tenant, 0) + size
        if not fits:
            self._refuse()

    def give(self, tenant: str, size: int) -> None:
        """Give ``size`` bytes back."""
        with self._lock:
            self.used -= size
            left = self._held.get(tenant, 0) - size
            if left > 0:
                self._held[tenant] = left
            else:
                self._held.pop(tenant, None)

    def _fits(self, tenant: str, size: int, own: int = 0) -> bool:
        free = self._limit - self.used - size
        if free < 0:
            return False
        held = self._held.get(tenant, 0)
        return not self._shared or held <= own or held + size <= free

    def _refuse(self) -> None:
        raise Transient("overloaded", "too many requests in flight, try again", retry_after=self.delay())
