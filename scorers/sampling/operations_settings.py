"""What the sampler tells about every trace, kept or not."""

from __future__ import annotations

from pydantic import Field

from stream.settings import Seconds, Settings


class OperationsSettings(Settings):
    """Facts of every trace, taken before sampling: what operational streams and budgets are made of (drift.operations)."""

    enabled: bool = True
    """Whether they are sent at all."""
    retry: tuple[str, ...] = Field(
        default=("http.request.resend_count", "gen_ai.retry.count", "llm.retry_count", "driftgate.retries"),
        max_length=50,
    )
    """Span attributes that are true, or above 0, when a call was tried again. A failed model call that is followed by
    one to the same model counts in any case."""
    fallback: tuple[str, ...] = Field(
        default=("gen_ai.fallback", "llm.fallback", "driftgate.fallback"), max_length=50
    )
    """Span attributes that are true when another model or answer stood in. A failed model call that is followed by
    one to another model counts in any case."""
    cache_hit: tuple[str, ...] = Field(
        default=("gen_ai.cache.hit", "llm.cache.hit", "cache_hit", "driftgate.cache_hit"), max_length=50
    )
    """Span attributes that say whether an answer came from a cache. Without any, cached input tokens above 0 are a hit."""
    escalation: tuple[str, ...] = Field(
        default=("gen_ai.escalation", "escalated", "driftgate.escalated"), max_length=50
    )
    """Span attributes that are true when a person had to take over."""
    escalation_tools: tuple[str, ...] = Field(
        default=("transfer_to_human", "escalate_to_human", "handoff_to_human", "create_support_ticket"),
        max_length=100,
    )
    """Tools whose call means the same; upper and lower case are equal."""
    max_clock_skew: Seconds = Field(default=600.0, gt=0)
    """How far in the future of the log a trace may end; its time is the log's otherwise. As scorers.max_clock_skew."""
    max_traces: int = Field(default=500, ge=1, le=10_000)
    """Traces told about in one record at most."""
