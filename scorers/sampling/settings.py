"""The ``sampling`` section of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self, Union

from pydantic import Field, model_validator

from scorers.sampling.lanes import UNIFORM
from scorers.sampling.operations_settings import OperationsSettings
from scorers.sampling.policies.error import Error
from scorers.sampling.policy import Policy
from stream.plugins import subclasses_in
from stream.settings import ByteSize, Seconds, Settings

_KINDS = subclasses_in("scorers.sampling.policies", Policy)

if TYPE_CHECKING:
    AnyPolicy = Policy
else:
    AnyPolicy = Annotated[Union[tuple(_KINDS.values())], Field(discriminator="type")]  # noqa: UP007 - made at run time
    # Policies of policies name a union that exists only once all kinds are known.
    for _kind in _KINDS.values():
        _kind.model_rebuild(_types_namespace={"AnyPolicy": AnyPolicy})


class CompletionSettings(Settings):
    """When a trace counts as complete. Times are measured on the log's timestamps."""

    after_root: Seconds = Field(default=5.0, ge=0, le=86_400)
    """Quiet time after which a trace whose root span has come is complete."""
    idle: Seconds = Field(default=30.0, gt=0, le=86_400)
    """Quiet time after which a trace without a root span is complete."""
    max_age: Seconds = Field(default=600.0, gt=0, le=86_400)
    """A trace is complete this long after its first span at the latest."""
    logs_without_span: Seconds = Field(default=120.0, gt=0, le=86_400)
    """How long log records wait for the first span of their trace; events of a call come before its span."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("after_root", "idle"):
            if getattr(self, name) > self.max_age:
                raise ValueError(f"{name} is longer than max_age and would have no effect")
        return self


class CapSettings(Settings):
    """Limits, per partition. What goes over one is decided early, never forgotten."""

    max_traces: int = Field(default=50_000, ge=1, le=10_000_000)
    """Traces collected at once; over it the oldest is decided."""
    max_bytes: ByteSize = Field(default=512 << 20, ge=1 << 16)
    """Bytes collected at once; over it the oldest trace is decided."""
    max_spans_per_trace: int = Field(default=10_000, ge=1, le=1_000_000)
    """A trace with more spans, or more joined log records, is decided; what still comes is late."""
    max_trace_bytes: ByteSize = Field(default=8 << 20, ge=1 << 10)
    """A trace with more bytes is decided; what still comes is late."""
    max_record_bytes: ByteSize = Field(default=8 << 20, ge=1 << 10)
    """Largest record to write; a larger trace is cut. Keep it below the broker's message limit."""
    reorder_bytes: ByteSize = Field(default=64 << 20, ge=0)
    """Bytes held back while one topic waits for the other, so that both are read in the order of time."""
    decisions: int = Field(default=200_000, ge=1_000, le=100_000_000)
    """Decisions remembered for late spans."""


class UniformSettings(Settings):
    """The lane that feeds the statistics."""

    ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of traces kept whatever happened in them; 0 switches the lane, and with it every test, off."""


class SamplingSettings(Settings):
    """Which traces are scored."""

    uniform: UniformSettings = UniformSettings()
    """The uniform lane: a fair sample, for means and tests."""
    policies: tuple[AnyPolicy, ...] = Field(default=(Error(name="errors"),), max_length=100)
    """The triage lane: what people want to see. The first that keeps a trace is credited; replaces the default list."""
    completion: CompletionSettings = CompletionSettings()
    """When a trace is decided."""
    caps: CapSettings = CapSettings()
    """Limits."""
    operations: OperationsSettings = OperationsSettings()
    """What is told about every trace, kept or not."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        titles = [policy.title for policy in self.policies]
        for title in titles:
            if title == UNIFORM:
                raise ValueError("a policy cannot be called uniform: that is the name of the lane")
            if titles.count(title) > 1:
                raise ValueError(f"two policies are called {title!r}: give each a name")
        return self
