"""Keep at most so many traces a second."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from scorers.sampling.ballot import Ballot, Bucket, Vote
from scorers.sampling.policy import Policy
from scorers.sampling.trace import Trace

_AHEAD_NS = 3_600_000_000_000


class RateLimit(Policy):
    """Matches every trace and keeps them while its token bucket lasts; stands in an ``and`` most of the time.

    Time is that of the log, and the bucket is saved, so that a replay keeps the same traces. Each partition has its own
    bucket. A token is spent only on a trace that nothing before it keeps. The probability of what it keeps is unknown.
    """

    name: ClassVar[str] = "rate_limit"

    type: Literal["rate_limit"] = "rate_limit"
    traces_per_second: float = Field(gt=0, le=1_000_000)
    """Traces kept per second and partition in the long run."""
    burst: float | None = Field(default=None, ge=1)
    """Tokens that can be saved up; twice the rate, at least 1, if not given."""

    @property
    def limited(self) -> bool:
        """See :attr:`Policy.limited`."""
        return True

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`."""
        del trace
        if not ballot.wanted:
            return Vote(False, None)
        size = self.burst if self.burst is not None else max(1.0, 2.0 * self.traces_per_second)
        bucket = ballot.buckets.setdefault(ballot.path, Bucket(size, ballot.now_ns))
        if bucket.at_ns > ballot.now_ns + _AHEAD_NS:
            bucket.at_ns = ballot.now_ns  # a clock was wrong; until then no token would come
        elapsed = max(0, ballot.now_ns - bucket.at_ns) / 1e9
        bucket.tokens = min(size, bucket.tokens + elapsed * self.traces_per_second)
        bucket.at_ns = max(bucket.at_ns, ballot.now_ns)
        if bucket.tokens < 1.0:
            return Vote(False, None)
        bucket.tokens -= 1.0
        return Vote(True, None)
