"""Keep a share of traces."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Literal

from pydantic import Field

from scorers.sampling.ballot import Ballot, Vote
from scorers.sampling.policy import Policy
from scorers.sampling.trace import Trace


class Probabilistic(Policy):
    """Matches every trace and keeps a share of them by a hash of the trace id.

    The hash also takes in where the policy stands, so that it is independent of the uniform lane and of other policies
    of this kind; that is what lets their probabilities be multiplied.
    """

    name: ClassVar[str] = "probabilistic"

    type: Literal["probabilistic"] = "probabilistic"
    ratio: float = Field(gt=0, le=1)
    """Share of traces to keep."""

    @property
    def by_chance(self) -> bool:
        """See :attr:`Policy.by_chance`."""
        return True

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`."""
        digest = hashlib.blake2b(ballot.path.encode() + b"\0" + trace.trace_id, digest_size=7).digest()
        return Vote(int.from_bytes(digest, "big") < self.ratio * (1 << 56), self.ratio)
