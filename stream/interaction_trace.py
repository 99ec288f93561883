"""One interaction for a whole trace: the default unit of scoring."""

from __future__ import annotations

import msgspec
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from stream import conventions
from stream.conventions import evaluations as feedback
from stream.conventions.kinds import kind_of
from stream.conventions.reading import Reading
from stream.conventions.values import word
from stream.interaction_record import (
    Document,
    Evaluation,
    Interaction,
    Kind,
    ToolCall,
    ToolDefinition,
    ToolResult,
    Usage,
)
from stream.interaction_span import cohort, content, error_type, latency, status_of, usage
from stream.interaction_tree import SpanTree
from stream.spans import SpanView, spans

MAX_READ = 2_000  # GenAI spans of one trace whose content is read; the last ones
MAX_LISTED = 1_000  # documents, calls, results, evaluations of one interaction
MAX_TEXT = 4_000_000  # characters of all documents

_UNDER_TEST = frozenset(("evaluator", "guardrail"))


class _Node:
    """A GenAI span and what was read from it."""

    __slots__ = ("kind", "reading", "view")

    def __init__(self, view: SpanView, kind: Kind) -> None:
        self.view = view
        self.kind = kind
        self.reading = conventions.read(view)

    @property
    def answered(self) -> bool:
        """True when there is output text."""
        return any(message.text for message in self.reading.output_messages)

    @property
    def order(self) -> tuple[int, int, bytes]:
        span = self.view.span
        return span.end_time_unix_nano, -span.start_time_unix_nano, span.span_id


def trace_interaction(traces: TracesData, tenant: str = "default") -> Interaction | None:
    """Return the view of a whole trace, or ``None`` when it has no GenAI span that answers anything.

    The view is that of the LLM span that gave the last answer (not one below an evaluator or guardrail; the outermost of
    nested ones), or of the last agent or chain where no LLM span was recorded. Added to it are the documents of the
    retrieval spans, the tool calls and results of the whole trace, the root's latency, summed usage and cost, cohort
    attributes from ancestors, root and resource, and an error if the root or the answering span failed. Never raises.
    """
    tree = SpanTree(spans(traces))
    nodes = _nodes(tree)
    answer = _answer(nodes, tree)
    if answer is None:
        return None
    view = answer.view
    root = tree.root(view)
    reading = _with_surroundings(answer, nodes, tree)
    failed = next((place for place in (view, root) if place.failed), None)
    named = [error_type(place) for place in (view, root) if place.failed]
    known = [name for name in named if name != "_OTHER"]
    llm = [node for node in nodes if node.kind == "llm"]
    fields = content(reading)
    fields |= {
        "documents": _documents(nodes, answer),
        "tool_definitions": _definitions(llm or [answer]),
        "tool_calls": _calls(nodes, tree),
        "tool_results": _results(nodes),
        "usage": _usage(nodes, tree),
        "cost_usd": _cost(nodes, tree),
    }
    return Interaction(
        tenant=tenant,
        trace_id=view.trace_id,
        span_id=view.span_id,
        parent_span_id=view.parent_span_id,
        start_unix_nano=root.span.start_time_unix_nano,
        end_unix_nano=max(root.span.end_time_unix_nano, view.span.end_time_unix_nano),
        latency_s=latency(root),
        kind=answer.kind,
        error_type=(known or named or [""])[0],
        status="error" if failed is not None else status_of(view),
        evaluations=trace_evaluations(tree.spans),
        attributes={**root.attributes, **view.attributes},
        **fields,
        **cohort(tree.places(view)),
    )


def trace_carrier(traces: TracesData, tenant: str = "default") -> Interaction | None:
    """Return an interaction that only carries other tools' scores, for a trace that has scores and no answer.

    Such a trace comes from a tool that sends its scores later, on spans of their own.
    """
    tree = SpanTree(spans(traces))
    for view in tree.spans:
        if feedback.read(view):
            root = tree.root(view)
            return Interaction(
                tenant=tenant,
                trace_id=view.trace_id,
                span_id=view.span_id,
                parent_span_id=view.parent_span_id,
                start_unix_nano=root.span.start_time_unix_nano,
                end_unix_nano=max(root.span.end_time_unix_nano, view.span.end_time_unix_nano),
                kind="evaluator",
                evaluations=trace_evaluations(tree.spans),
                attributes={**root.attributes, **view.attributes},
                **cohort(tree.places(view)),
            )
    return None


def trace_evaluations(views: list[SpanView]) -> list[Evaluation]:
    """Return the scores other tools put on any of the spans."""
    found: list[Evaluation] = []
    for view in views:
        found += feedback.read(view)
        if len(found) >= MAX_LISTED:
            break
    return found[:MAX_LISTED]


def _nodes(tree: SpanTree) -> list[_Node]:
    genai = [(view, kind) for view in tree.spans if (kind := kind_of(view)) is not None]
    if len(genai) > MAX_READ:
        genai = sorted(genai, key=lambda pair: pair[0].span.end_time_unix_nano)[-MAX_READ:]
    nodes = [_Node(view, kind) for view, kind in genai]
    nodes.sort(key=lambda node: (node.view.span.start_time_unix_nano, node.view.span.span_id))
    return nodes


def _answer(nodes: list[_Node], tree: SpanTree) -> _Node | None:
    kinds = {node.view.span.span_id: node.kind for node in nodes}
    candidates = [
        node
        for node in nodes
        if node.kind in ("llm", "agent", "chain")
        and not any(kinds.get(above.span.span_id) in _UNDER_TEST for above in tree.ancestors(node.view))
    ]
    if not candidates:
        return None
    llm = [node for node in candidates if node.kind == "llm"]
    if llm:
        return max(llm, key=lambda node: (node.answered, *node.order))
    return max(candidates, key=lambda node: (node.answered, *node.order))


def _with_surroundings(answer: _Node, nodes: list[_Node], tree: SpanTree) -> Reading:
    """Return the answer's reading; where its content is hidden, that of the nearest span around it."""
    reading = msgspec.structs.replace(answer.reading)
    by_id = {node.view.span.span_id: node for node in nodes}
    for above in tree.ancestors(answer.view):
        node = by_id.get(above.span.span_id)
        if node is not None and node.kind in ("agent", "chain", "llm"):
            reading.fill_messages("input_messages", node.reading.input_messages)
            reading.fill_messages("output_messages", node.reading.output_messages)
            reading.fill("system_instructions", node.reading.system_instructions)
            reading.fill("request_model", node.reading.request_model)
    return reading


def _documents(nodes: list[_Node], answer: _Node) -> list[Document]:
    found: dict[tuple[str, str], Document] = {}
    room = MAX_TEXT
    for node in nodes:
        if node.kind != "retriever" and node is not answer:
            continue
        for document in node.reading.documents:
            room -= len(document.content)
            if room < 0 or len(found) >= MAX_LISTED:
                return list(found.values())
            found.setdefault((document.id, document.content), document)
    return list(found.values())


def _definitions(nodes: list[_Node]) -> list[ToolDefinition]:
    found: dict[str, ToolDefinition] = {}
    for node in nodes:
        for definition in node.reading.tool_definitions:
            if len(found) < MAX_LISTED:
                found.setdefault(definition.name, definition)
    return list(found.values())


def _calls(nodes: list[_Node], tree: SpanTree) -> list[ToolCall]:
    """Return the calls the models asked for, then those only a tool span shows."""
    asked: list[ToolCall] = []
    ids: set[str] = set()
    speaking = {node.view.span.span_id for node in nodes if node.kind == "llm" and _asked(node)}
    for node in nodes:
        if node.kind != "llm" or any(above.span.span_id in speaking for above in tree.ancestors(node.view)):
            continue  # an inner span of a call that was instrumented twice
        for call in _asked(node):
            if not call.id or call.id not in ids:
                ids.add(call.id)
                asked.append(call)
    unmatched = [call.name for call in asked]
    for node in nodes:
        if node.kind != "tool":
            continue
        for call in node.reading.tool_calls:
            if call.id and call.id in ids:
                if call.name in unmatched:
                    unmatched.remove(call.name)
            elif call.name in unmatched and not call.id:
                unmatched.remove(call.name)
            else:
                ids.add(call.id)
                asked.append(call)
    return asked[:MAX_LISTED]


def _asked(node: _Node) -> list[ToolCall]:
    return [
        ToolCall(part.name, part.id, part.arguments)
        for message in node.reading.output_messages
        for part in message.parts
        if part.type == "tool_call"
    ]


def _results(nodes: list[_Node]) -> list[ToolResult]:
    found: list[ToolResult] = []
    ids: set[str] = set()
    for node in nodes:
        if node.kind == "tool":
            for result in node.reading.tool_results:
                ids.add(result.id)
                found.append(result)
    ids.discard("")
    if not found:  # no tool span: what the conversation shows
        for node in nodes:
            if node.kind != "llm":
                continue
            for message in node.reading.input_messages:
                for part in message.parts:
                    # The same result stands in the input of every later call; without an id it cannot be told apart.
                    if part.type == "tool_call_response" and part.id and part.id not in ids:
                        ids.add(part.id)
                        found.append(ToolResult(part.name, part.id, part.response))
    return found[:MAX_LISTED]


def _outermost(nodes: list[_Node], tree: SpanTree, known: set[bytes]) -> list[_Node]:
    """Return the nodes in ``known`` without an ancestor in ``known``: a nested call is counted once.

    So is a call that two instrumentations tell side by side: the same response id at the same time.
    """
    found: list[_Node] = []
    answers: dict[str, _Node] = {}
    for node in nodes:
        if node.view.span.span_id not in known or any(
            above.span.span_id in known for above in tree.ancestors(node.view)
        ):
            continue
        response = word(node.view.attributes.get("gen_ai.response.id"))
        other = answers.get(response) if response else None
        if other is not None and node.view.span.start_time_unix_nano < other.view.span.end_time_unix_nano:
            continue
        if response:
            answers[response] = node
        found.append(node)
    return found


def _usage(nodes: list[_Node], tree: SpanTree) -> Usage:
    for kinds in (("llm",), ("agent", "chain")):
        known = {node.view.span.span_id for node in nodes if node.kind in kinds and usage(node.reading)}
        counted = [node.reading for node in _outermost(nodes, tree, known)]
        if counted:
            return Usage(
                _sum([r.input_tokens for r in counted]),
                _sum([r.output_tokens for r in counted]),
                _sum([r.cached_tokens for r in counted]),
                _sum([r.reasoning_tokens for r in counted]),
            )
    return Usage()


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _cost(nodes: list[_Node], tree: SpanTree) -> float | None:
    # Inner spans first: an agent's own figure is the sum of what is below it, or leaves parts of it out.
    for kinds in (("llm", "embedding", "retriever", "tool"), ("agent", "chain")):
        known = {
            node.view.span.span_id
            for node in nodes
            if node.kind in kinds and node.reading.cost_usd is not None
        }
        counted = [node.reading.cost_usd for node in _outermost(nodes, tree, known)]
        if counted:
            return float(sum(cost for cost in counted if cost is not None))
    return None
