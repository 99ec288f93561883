"""Which spans are about an LLM application, and what each of them is."""

from __future__ import annotations

from stream.conventions import genai_events, openllmetry
from stream.conventions.genai import DETAILS_EVENT
from stream.conventions.values import word
from stream.interaction_record import Kind
from stream.spans import SpanView

_OPENINFERENCE: dict[str, Kind] = {
    "LLM": "llm",
    "CHAIN": "chain",
    "TOOL": "tool",
    "AGENT": "agent",
    "RETRIEVER": "retriever",
    "EMBEDDING": "embedding",
    "RERANKER": "retriever",
    "GUARDRAIL": "guardrail",
    "EVALUATOR": "evaluator",
    "PROMPT": "other",
    "UNKNOWN": "other",
}
_OPERATION: dict[str, Kind] = {
    "chat": "llm",
    "text_completion": "llm",
    "generate_content": "llm",
    "completion": "llm",
    "generate": "llm",
    "fetch_response": "llm",
    "llm_request": "llm",
    "embeddings": "embedding",
    "embedding": "embedding",
    "retrieval": "retriever",
    "rerank": "retriever",
    "vector_db_retrieve": "retriever",
    "execute_tool": "tool",
    "invoke_agent": "agent",
    "create_agent": "agent",
    "plan": "agent",
    "invoke_workflow": "chain",
    "execute_task": "chain",
}
_TRACELOOP: dict[str, Kind] = {
    "workflow": "chain",
    "task": "chain",
    "agent": "agent",
    "tool": "tool",
    "unknown": "other",
}
_REQUEST_TYPE: dict[str, Kind] = {
    "chat": "llm",
    "completion": "llm",
    "rerank": "retriever",
    "embedding": "embedding",
}
# These name a call to a model wherever they stand.
_MODEL_KEYS = (
    "gen_ai.request.model",
    "gen_ai.response.model",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.prompt",
    "gen_ai.prompt.0.content",
    "gen_ai.completion.0.content",
    "llm.model_name",
)
_MODEL_PREFIXES = ("gen_ai.prompt.", "gen_ai.completion.", "llm.input_messages.", "llm.output_messages.")
_NOT_MODEL_PREFIXES = ("gen_ai.prompt.name", "gen_ai.prompt.version", "gen_ai.prompt.variable.")


def kind_of(span: SpanView) -> Kind | None:
    """Return what ``span`` is, or ``None`` when it is not about an LLM application.

    Attributes that span processors copy onto every span below (conversation, agent and workflow names, prompt name and
    version, association properties) do not make an HTTP call a GenAI span.
    """
    found = span.attributes
    if kind := _OPENINFERENCE.get(word(found.get("openinference.span.kind")).upper()):
        return kind
    operation = word(found.get("gen_ai.operation.name"))
    if kind := _OPERATION.get(operation):
        return kind
    if kind := _TRACELOOP.get(word(found.get("traceloop.span.kind"))):
        return kind
    if kind := _REQUEST_TYPE.get(word(found.get("llm.request.type"))):
        return kind
    if "gen_ai.tool.call.id" in found or "gen_ai.tool.name" in found:
        return "tool"
    if _asks_model(span):
        return "llm"
    if "db.vector.query.top_k" in found or any(key.startswith("retrieval.documents.") for key in found):
        return "retriever"
    if any(event.name == openllmetry.RESULT_EVENT for event in span.events):
        return "retriever"
    return "other" if operation else None


def _asks_model(span: SpanView) -> bool:
    found = span.attributes
    if any(key in found for key in _MODEL_KEYS):
        return True
    if any(key.startswith(_MODEL_PREFIXES) and not key.startswith(_NOT_MODEL_PREFIXES) for key in found):
        return True
    return any(
        event.name in genai_events.ROLES or event.name in (genai_events.CHOICE, DETAILS_EVENT)
        for event in span.events
    )
