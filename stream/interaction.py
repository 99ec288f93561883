"""The one view of an LLM interaction that scorers see, whatever dialect the application speaks.

:func:`trace_interaction` sees a whole trace through its final answer (the default unit of scoring),
:func:`interactions` sees each GenAI span by itself. Both understand OpenTelemetry GenAI from its first to its current
conventions, OpenInference and OpenLLMetry (:mod:`stream.conventions`), and neither ever raises.
"""

from __future__ import annotations

from stream.interaction_record import (
    Document,
    Evaluation,
    Interaction,
    Kind,
    Message,
    Part,
    ToolCall,
    ToolDefinition,
    ToolResult,
    Usage,
)
from stream.interaction_span import interactions
from stream.interaction_trace import trace_carrier, trace_interaction

__all__ = [
    "Document",
    "Evaluation",
    "Interaction",
    "Kind",
    "Message",
    "Part",
    "ToolCall",
    "ToolDefinition",
    "ToolResult",
    "Usage",
    "interactions",
    "trace_carrier",
    "trace_interaction",
]
