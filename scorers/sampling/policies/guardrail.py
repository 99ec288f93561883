"""Keep traces in which a guardrail stepped in."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from scorers.sampling.ballot import NO, YES, Ballot, Vote
from scorers.sampling.policy import Policy
from scorers.sampling.trace import Trace

_REASON_KEYS = ("gen_ai.response.finish_reasons", "gen_ai.response.finish_reason", "llm.finish_reason")


class Guardrail(Policy):
    """Matches a trace in which a guardrail was triggered: a true flag, or a finish reason that says so."""

    name: ClassVar[str] = "guardrail"

    type: Literal["guardrail"] = "guardrail"
    attributes: tuple[str, ...] = Field(
        default=("guardrail.triggered", "gen_ai.guardrail.triggered", "gen_ai.guardrail.tripwire_triggered"),
        max_length=50,
    )
    """Span attributes that are true when a guardrail was triggered."""
    finish_reasons: tuple[str, ...] = Field(
        default=(
            "content_filter",
            "guardrail_intervened",
            "safety",
            "blocklist",
            "prohibited_content",
            "spii",
        ),
        max_length=50,
    )
    """Finish reasons of a model that mean the same; upper and lower case are equal."""

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`."""
        del ballot
        wanted = {reason.lower() for reason in self.finish_reasons}
        for held in trace.values((*self.attributes, *_REASON_KEYS)):
            if any(held.get(key) in (True, "true", "True") for key in self.attributes):
                return YES
            for key in _REASON_KEYS:
                found = held.get(key)
                reasons = found if isinstance(found, list) else (found,)
                if any(isinstance(reason, str) and reason.lower() in wanted for reason in reasons):
                    return YES
        return NO
