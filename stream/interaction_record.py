"""The records an interaction consists of: messages, parts, documents, tool calls, usage, and scores found on spans."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Kind = Literal["llm", "tool", "retriever", "agent", "chain", "embedding", "guardrail", "evaluator", "other"]
PartType = Literal["text", "tool_call", "tool_call_response", "reasoning", "other"]

ROUTE_KEYS = (
    "driftgate.route",
    "gen_ai.workflow.name",
    "traceloop.workflow.name",
    "gen_ai.agent.name",
    "http.route",
    "service.name",
)
PROMPT_NAME_KEYS = (
    "gen_ai.prompt.name",
    "traceloop.prompt.key",
    "prompt.id",
    "langfuse.observation.prompt.name",
    "driftgate.prompt_name",
)
PROMPT_VERSION_KEYS = (
    "gen_ai.prompt.version",
    "traceloop.prompt.version",
    "llm.prompt_template.version",
    "langfuse.observation.prompt.version",
    "driftgate.prompt_version",
)
USER_COHORT_KEYS = (
    "driftgate.user_cohort",
    "user.cohort",
    "traceloop.association.properties.user_cohort",
    "traceloop.association.properties.cohort",
)
SESSION_KEYS = (
    "gen_ai.conversation.id",
    "session.id",
    "traceloop.association.properties.session_id",
)
USER_KEYS = ("user.id", "enduser.id", "llm.user", "traceloop.association.properties.user_id")
SERVICE_KEYS = ("service.name",)
ENVIRONMENT_KEYS = ("deployment.environment.name", "deployment.environment")


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """One piece of a message.

    ``content`` is the text of a ``text`` or ``reasoning`` part. A ``tool_call`` carries ``id``, ``name`` and
    ``arguments`` (parsed JSON, or the raw text if it does not parse); a ``tool_call_response`` carries ``id`` and
    ``response``. Images, files and everything else are ``other``, with their own type in ``name``.
    """

    type: PartType
    content: str = ""
    id: str = ""
    name: str = ""
    arguments: Any = None
    response: Any = None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a conversation; ``role`` is system, user, assistant, tool or what the sender wrote."""

    role: str
    parts: list[Part] = []
    finish_reason: str = ""
    name: str = ""

    @property
    def text(self) -> str:
        """The text parts joined by newlines; reasoning is not part of it."""
        return "\n".join(part.content for part in self.parts if part.type == "text" and part.content)


class Document(msgspec.Struct, frozen=True, omit_defaults=True):
    """One retrieved document; ``content`` is empty where the instrumentation reports ids and scores only."""

    id: str = ""
    content: str = ""
    score: float | None = None


class ToolDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool the model was offered; ``parameters`` is its JSON Schema, ``None`` when it was not reported."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call the model asked for or a tool span carried out; ``arguments`` is raw text if it is not JSON."""

    name: str
    id: str = ""
    arguments: Any = None


class ToolResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a tool answered; ``error_type`` is set when its span failed."""

    name: str = ""
    id: str = ""
    response: Any = None
    error_type: str = ""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens; ``None`` is unknown. input includes cached, output includes reasoning."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    def __bool__(self) -> bool:
        return self.input_tokens is not None or self.output_tokens is not None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A score that somebody else put on a span: ``gen_ai.evaluation.result``, an OpenInference annotation, feedback.

    ``value`` is as sent, on the sender's own scale, ``None`` when there is none. ``target_trace_id`` and
    ``target_span_id`` name what was judged; ``scope`` says whether that is the span, its trace or its session.
    """

    name: str
    kind: Literal["external", "feedback"] = "external"
    scope: Literal["span", "trace", "session"] = "span"
    value: float | None = None
    label: str = ""
    explanation: str = ""
    evaluator: str = ""
    evaluator_version: str = ""
    identifier: str = ""  # tells apart several annotators of one span
    error_type: str = ""
    target_trace_id: str = ""
    target_span_id: str = ""
    time_unix_nano: int = 0


class Interaction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a scorer looks at: one GenAI span, or one whole trace seen through its final answer.

    The same fields whatever dialect the application speaks. Times are Unix nanoseconds, durations seconds, money
    US dollars; ``None`` and empty mean "not reported". Treat it as read-only: all scorers share one instance.
    """

    tenant: str = "default"
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str = ""
    start_unix_nano: int = 0
    end_unix_nano: int = 0
    latency_s: float | None = None
    time_to_first_chunk: float | None = None  # seconds
    operation: str = ""
    kind: Kind = "other"
    provider: str = ""
    request_model: str = ""
    response_model: str = ""
    output_type: str = ""  # gen_ai.output.type: text, json, image, speech
    system_instructions: list[Part] = []
    input_messages: list[Message] = []
    output_messages: list[Message] = []
    documents: list[Document] = []
    tool_definitions: list[ToolDefinition] = []
    tool_calls: list[ToolCall] = []
    tool_results: list[ToolResult] = []
    finish_reasons: list[str] = []
    usage: Usage = Usage()
    cost_usd: float | None = None
    prompt_name: str = ""
    prompt_version: str = ""
    route: str = ""
    user_cohort: str = ""
    session_id: str = ""
    user_id: str = ""
    service: str = ""
    environment: str = ""
    error_type: str = ""
    status: Literal["unset", "ok", "error"] = "unset"
    evaluations: list[Evaluation] = []
    attributes: dict[str, Any] = {}

    @property
    def has_content(self) -> bool:
        """True when a message carries anything to read; ``__REDACTED__`` and NO_CONTENT count as nothing."""
        return any(message.parts for message in self.input_messages) or any(
            message.parts for message in self.output_messages
        )

    @property
    def output_text(self) -> str:
        """The text of all output messages."""
        return "\n".join(text for message in self.output_messages if (text := message.text))

    @property
    def input_text(self) -> str:
        """The text of the last user message; of the last message with text if no role says user."""
        fallback = ""
        for message in reversed(self.input_messages):
            text = message.text
            if text and message.role == "user":
                return text
            fallback = fallback or text
        return fallback

    @property
    def system_text(self) -> str:
        """System instructions, wherever the dialect keeps them."""
        texts = [part.content for part in self.system_instructions if part.type == "text"]
        texts += [m.text for m in self.input_messages if m.role in ("system", "developer")]
        return "\n".join(text for text in texts if text)

    @property
    def model(self) -> str:
        """The requested model, else the answering one.

        The requested one comes first because a failed call has no answering model: cohorts by response model would
        lose exactly the failures.
        """
        return self.request_model or self.response_model

    @property
    def unit_id(self) -> str:
        """The unit of all statistics: the session, else the trace."""
        return self.session_id or self.trace_id

    def cohort(self) -> dict[str, str]:
        """Return the cohort attributes that are known."""
        pairs = {
            "route": self.route,
            "prompt_name": self.prompt_name,
            "prompt_version": self.prompt_version,
            "model": self.model,
            "user_cohort": self.user_cohort,
            "service": self.service,
            "environment": self.environment,
        }
        return {key: value for key, value in pairs.items() if value}
