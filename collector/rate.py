"""Rates of one tenant: what it has sent is paid from a bucket that fills by the second."""

from __future__ import annotations

import random

from collector.tenant_settings import TenantLimits
from stream.errors import Transient


class Bucket:
    """Tokens that come back at ``rate`` a second, at most ``burst`` seconds' worth. Not thread-safe.

    What a request costs is known only when it has been decoded, and limited requests are to be refused before that. So
    one request may overdraw the bucket, and the next ones wait until the debt is paid.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._capacity = rate * burst
        self._level = self._capacity
        self._at = now

    def wait(self, now: float) -> float:
        """Return the seconds until a request is let in; 0 when it is now."""
        self._fill(now)
        return 0.0 if self._level >= 0 else -self._level / self._rate

    def pay(self, cost: float, now: float) -> None:
        """Take ``cost`` tokens, also those that are not there."""
        self._fill(now)
        self._level -= cost

    def _fill(self, now: float) -> None:
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now


class Rates:
    """The rates of one tenant in spans and in bytes."""

    def __init__(self, limits: TenantLimits, now: float) -> None:
        self._spans = Bucket(limits.spans_per_second, limits.burst, now) if limits.spans_per_second else None
        self._bytes = Bucket(limits.bytes_per_second, limits.burst, now) if limits.bytes_per_second else None

    def admit(self, now: float) -> None:
        """Raise :class:`stream.errors.Transient` (``rate_limited``) with the time until the next request is let in."""
        wait = max(bucket.wait(now) if bucket else 0.0 for bucket in (self._spans, self._bytes))
        if wait > 0:
            # Never sooner than said, and not all at once.
            raise Transient(
                "rate_limited",
                "your tenant sends more than its limit",
                retry_after=wait * random.uniform(1.0, 1.5),  # noqa: S311 - no secret
            )

    def pay(self, spans: int, size: int, now: float) -> None:
        """Take what an accepted request cost."""
        if self._spans:
            self._spans.pay(spans, now)
        if self._bytes:
            self._bytes.pay(size, now)
