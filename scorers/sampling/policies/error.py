"""Keep traces in which something failed."""

from __future__ import annotations

from typing import ClassVar, Literal

from scorers.sampling.ballot import NO, YES, Ballot, Vote
from scorers.sampling.policy import Policy
from scorers.sampling.trace import Trace


class Error(Policy):
    """Matches a trace that has a span with status ERROR. Decodes no attributes."""

    name: ClassVar[str] = "error"

    type: Literal["error"] = "error"

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`."""
        del ballot
        return YES if trace.failed else NO
