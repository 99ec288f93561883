"""The facts of a trace, read in the plain way: every span decoded, every attribute converted, every question asked of all.

What the sampler does at a tenth of the price must say the same; tests hold it against this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from scorers.judging.prompt import MARK
from scorers.sampling import fact_keys as keys
from scorers.sampling.operations_settings import OperationsSettings
from scorers.sampling.policies.feedback import Feedback
from scorers.sampling.policies.guardrail import Guardrail
from scorers.sampling.trace import Trace
from stream.conventions.kinds import kind_of
from stream.conventions.values import amount, count, first, word, words
from stream.interaction_record import SESSION_KEYS
from stream.interaction_span import error_type, latency
from stream.interaction_tree import SpanTree, inherited
from stream.records import TraceFacts
from stream.spans import SpanView, attributes

_NO = ("", "0", "false", "no", "none", "null", "miss")
_WEEK = 7 * 86400 * 10**9


def plain_facts(trace: Trace, settings: OperationsSettings) -> tuple[dict[str, str], TraceFacts] | str:
    """What :meth:`scorers.sampling.facts.FactReader.read` answers."""
    tree = SpanTree(list(_views(trace))[:2000])
    kinds = {view.span.span_id: kind_of(view) for view in tree.spans}

    def of(*wanted: str) -> list[SpanView]:
        return [view for view in tree.spans if kinds[view.span.span_id] in wanted]

    candidates = [
        view
        for view in of("llm", "agent", "chain")
        if not any(kinds[above.span.span_id] in ("evaluator", "guardrail") for above in tree.ancestors(view))
    ]
    candidates = [view for view in candidates if view in of("llm")] or candidates
    if not candidates:
        return "no_interaction"
    answer = max(
        candidates,
        key=lambda view: (
            not view.failed,
            view.span.end_time_unix_nano,
            -view.span.start_time_unix_nano,
            view.span.span_id,
        ),
    )
    root, places = tree.root(answer), tree.places(answer)
    cohort = {name: value for name, names in keys.COHORTS if (value := inherited(places, names))}
    if (
        cohort.get("service") == "driftgate"
        or answer.attributes.get("driftgate.judge")
        or any(MARK.encode() in raw for raw, _, _ in trace.spans.values())
    ):
        return "own"
    if model := inherited(places, keys.REQUEST_MODEL) or inherited(places, keys.RESPONSE_MODEL):
        cohort["model"] = model

    def total(read: Any, *groups: tuple[str, ...]) -> float | None:
        for group in groups:
            found = {view.span.span_id: value for view in of(*group) if (value := read(view)) is not None}
            if found:
                return float(sum(value for one, value in found.items() if not _below(one, found, tree)))
        return None

    models, wrappers = ("llm",), ("agent", "chain")
    cached = total(_tokens(keys.CACHED_TOKENS), models)
    end = max(root.span.end_time_unix_nano, answer.span.end_time_unix_nano)
    ahead = int(settings.max_clock_skew * 1e9)
    if trace.last_ns and not trace.last_ns - _WEEK <= end <= trace.last_ns + ahead:
        end = trace.last_ns
    return cohort, TraceFacts(
        trace_id=trace.trace_id.hex(),
        time_unix_nano=end or trace.last_ns,
        unit_id=inherited(places, SESSION_KEYS),
        flags=_flags(trace, settings, tree.spans, of("llm"), of("tool"), answer.failed or root.failed),
        latency_s=latency(root),
        first_token_s=_told(amount(first(answer.attributes, keys.FIRST_TOKEN))),
        input_tokens=_whole(total(_tokens(keys.INPUT_TOKENS), models, wrappers)),
        output_tokens=_whole(total(_tokens(keys.OUTPUT_TOKENS), models, wrappers)),
        cached_tokens=_whole(cached),
        cost_usd=_told(total(_cost, ("llm", "embedding", "retriever", "tool"), wrappers)),
        tool_calls=len(of("tool")),
        tool_failures=sum(view.failed for view in of("tool")),
        cache_hit=_cache_hit(settings, tree.spans, cached),
    )


def _views(trace: Trace) -> Iterator[SpanView]:
    joined = trace.events()
    for span_id, (raw, group, _) in trace.spans.items():
        try:
            span = Span.FromString(raw)
            for event in joined.get(span_id, ()):
                span.events.append(Span.Event.FromString(event))
        except DecodeError:
            continue
        try:
            resource = attributes(Resource.FromString(group.resource).attributes)
        except DecodeError:
            resource = {}
        yield SpanView(span, resource, "")


def _flags(
    trace: Trace,
    settings: OperationsSettings,
    spans: list[SpanView],
    models: list[SpanView],
    tools: list[SpanView],
    failed: bool,
) -> list[str]:
    tries = [
        first(later.attributes, keys.REQUEST_MODEL) == first(one.attributes, keys.REQUEST_MODEL)
        for one in models
        for later in models
        if one.failed
        and later is not one
        and later.span.parent_span_id == one.span.parent_span_id
        and later.span.start_time_unix_nano >= one.span.end_time_unix_nano
    ]
    guardrail = Guardrail()
    stopped = any(
        reason.lower() in guardrail.finish_reasons
        for view in models
        for reason in words(first(view.attributes, keys.FINISH_REASONS))
    )
    handed_over = any(
        word(first(view.attributes, ("gen_ai.tool.name", "tool.name"))).lower() in settings.escalation_tools
        for view in tools
    )
    return [
        name
        for name, raised in (
            ("error", failed),
            ("timeout", any(view.failed and _timed_out(view) for view in spans)),
            ("retry", True in tries or _any(spans, settings.retry)),
            ("fallback", False in tries or _any(spans, settings.fallback)),
            ("guardrail", _any(spans, guardrail.attributes) or stopped),
            ("negative_feedback", Feedback().complains(trace)),
            ("escalation", _any(spans, settings.escalation) or handed_over),
        )
        if raised
    ]


def _timed_out(view: SpanView) -> bool:
    name = error_type(view).lower()
    return count(first(view.attributes, keys.STATUS_CODES)) in (408, 504) or any(
        part in name for part in ("timeout", "timed_out", "deadline")
    )


def _any(spans: list[SpanView], names: tuple[str, ...]) -> bool:
    return any(_true(view.attributes.get(name)) for view in spans for name in names)


def _true(value: Any) -> bool:
    return value.strip().lower() not in _NO if isinstance(value, str) else bool(value)


def _cache_hit(settings: OperationsSettings, spans: list[SpanView], cached: float | None) -> bool | None:
    told = [view.attributes[name] for view in spans for name in settings.cache_hit if name in view.attributes]
    if told:
        return any(map(_true, told))
    return None if cached is None else cached > 0


def _tokens(names: tuple[str, ...]) -> Any:
    def read(view: SpanView) -> int | None:
        stored = view.attributes.get("gen_ai.operation.name") == "fetch_response"
        return None if stored else count(first(view.attributes, names))

    return read


def _cost(view: SpanView) -> float | None:
    total = amount(first(view.attributes, keys.COSTS))
    halves = [amount(view.attributes.get(key)) for key in keys.COST_HALVES]
    known = [half for half in halves if half is not None]
    return total if total is not None else sum(known) if known else None


def _below(one: bytes, found: dict[bytes, float], tree: SpanTree) -> bool:
    parents = {view.span.span_id: view.span.parent_span_id for view in tree.spans}
    above = parents.get(one, b"")
    for _ in range(64):
        if not above or above == one:
            return False
        if above in found:
            return True
        above = parents.get(above, b"")
    return False


def _whole(value: float | None) -> int | None:
    told = _told(value)
    return None if told is None else int(told)


def _told(value: float | None) -> float | None:
    return None if value is None or value > 2**53 else value
