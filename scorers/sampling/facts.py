"""What a complete trace did, kept or not: errors, retries, latency, tokens, cost, tools, guardrails.

This is asked of every trace, so the work goes where something is: a span says what its attributes are good for
(:mod:`scorers.sampling.fact_keys`), and whoever sums tokens or looks for guardrails reads only spans that have some. The cohort
is that of the trace's last answering span, as in :func:`stream.interaction.trace_interaction`; there "answering" means
output text, here a span that did not fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import attrgetter
from sys import float_info
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from scorers.judging.prompt import MARK
from scorers.loop_guard import ATTRIBUTE, SERVICE, is_own
from scorers.sampling import fact_keys as keys
from scorers.sampling.glance import Glance, GlanceReader
from scorers.sampling.operations_settings import OperationsSettings
from scorers.sampling.policies.feedback import Feedback
from scorers.sampling.policies.guardrail import Guardrail
from scorers.sampling.trace import Trace
from scorers.sampling.wire import Piece, traces_data
from stream.conventions.values import amount, count, first, word, words
from stream.interaction import trace_interaction
from stream.interaction_record import SESSION_KEYS, Kind
from stream.interaction_span import error_type, latency
from stream.interaction_tree import MAX_ANCESTORS, inherited
from stream.records import TraceFacts
from stream.spans import attributes

_TOOL_NAMES = ("gen_ai.tool.name", "tool.name")
_UNDER_TEST: tuple[Kind, ...] = ("evaluator", "guardrail")
_TIMEOUT_STATUS = (408, 504)
MARK_BYTES = MARK.encode()
_MAX_RESOURCES = 1_000
_MOST = 2.0**53  # of an amount; above it a sum of doubles would not notice an addition
_MAX_SPANS = 2_000  # of one trace that are looked at


class FactReader:
    """Reads the facts of traces."""

    def __init__(self, settings: OperationsSettings) -> None:
        self._settings = settings
        self._ahead = int(settings.max_clock_skew * 1e9)
        self._guardrail = Guardrail()
        self._feedback = Feedback()
        self._stop_reasons = frozenset(reason.lower() for reason in self._guardrail.finish_reasons)
        self._escalating = frozenset(name.lower() for name in settings.escalation_tools)
        self._glances = GlanceReader(keys.FactKeys(settings, self._guardrail.attributes))
        self._resources: dict[bytes, dict[str, Any]] = {}

    def read(self, trace: Trace) -> tuple[dict[str, str], TraceFacts] | str:
        """Return cohort and facts of ``trace``, or why it has none: ``no_interaction`` or ``own``."""
        seen = _Seen(self._views(trace))
        answer = _answer(seen)
        if answer is None:
            return "no_interaction"
        root = seen.root()
        line = seen.line(answer, root)
        own = [view.passed_down() for view in line]
        where = [*own, *(view.resource for view in line)]
        known = frozenset().union(*where)
        cohort = {
            name: value
            for name, names in keys.COHORTS
            if not known.isdisjoint(names) and (value := inherited(where, names))
        }
        if cohort.get("service") == SERVICE or own[0].get(ATTRIBUTE) or _marked(trace):
            return "own"
        if model := inherited(where, keys.REQUEST_MODEL) or inherited(where, keys.RESPONSE_MODEL):
            cohort["model"] = model
        models = seen.models
        cached = _total(seen, _CACHED_TOKENS, models)
        return cohort, TraceFacts(
            trace_id=trace.trace_id.hex(),
            time_unix_nano=_time(
                trace, max(root.span.end_time_unix_nano, answer.span.end_time_unix_nano), self._ahead
            ),
            unit_id=inherited(where, SESSION_KEYS),
            flags=self._flags(trace, seen, answer.bad or root.bad),
            latency_s=latency(root),
            first_token_s=_plausible(amount(first(own[0], keys.FIRST_TOKEN))),
            input_tokens=_integer(_total(seen, _INPUT_TOKENS, models, seen.wrappers)),
            output_tokens=_integer(_total(seen, _OUTPUT_TOKENS, models, seen.wrappers)),
            cached_tokens=_integer(cached),
            cost_usd=_plausible(_total(seen, _COSTS, seen.calls, seen.wrappers)),
            tool_calls=len(seen.tools),
            tool_failures=sum(view.bad for view in seen.tools),
            cache_hit=self._cache_hit(seen, cached),
        )

    def _views(self, trace: Trace) -> list[Glance]:
        read, resources = self._glances.read, self._resources
        found: list[Glance] = []
        for span_id, raw, group in trace.wires():
            resource = resources.get(group.resource)
            if resource is None:
                resource = self._new_resource(group.resource)
            try:
                found.append(read(span_id, raw, resource, trace.failed))
            except DecodeError:
                continue
            if len(found) == _MAX_SPANS:
                break
        return found

    def _new_resource(self, raw: bytes) -> dict[str, Any]:
        try:
            found = attributes(Resource.FromString(raw).attributes)
        except DecodeError:
            found = {}
        if len(self._resources) >= _MAX_RESOURCES:
            self._resources.clear()
        self._resources[raw] = found
        return found

    def _flags(self, trace: Trace, seen: _Seen, failed: bool) -> list[str]:
        settings = self._settings
        flags = []
        telling = (
            [view for view in seen.spans if view.shape.uses & keys.TELLING]
            if seen.uses & keys.TELLING
            else []
        )
        if failed:
            flags.append("error")
        if any(map(_timed_out, seen.bad)):
            flags.append("timeout")
        again, other = _second_tries(seen.models) if seen.bad else (False, False)
        if again or _any(telling, settings.retry):
            flags.append("retry")
        if other or _any(telling, settings.fallback):
            flags.append("fallback")
        if _any(telling, self._guardrail.attributes) or (
            seen.uses & keys.FINISH
            and any(
                reason.lower() in self._stop_reasons
                for view in seen.models
                if view.shape.uses & keys.FINISH
                for reason in words(first(view.attributes, keys.FINISH_REASONS))
            )
        ):
            flags.append("guardrail")
        if (seen.uses & keys.ANNOTATED or seen.eventful) and (self._feedback.complains(trace)):
            flags.append("negative_feedback")
        if _any(telling, settings.escalation) or any(
            word(first(view.attributes, _TOOL_NAMES)).lower() in self._escalating for view in seen.tools
        ):
            flags.append("escalation")
        return flags

    def _cache_hit(self, seen: _Seen, cached: float | None) -> bool | None:
        if seen.uses & keys.TELLING:
            told = [
                view.attributes[key]
                for view in seen.spans
                if view.shape.uses & keys.TELLING
                for key in self._settings.cache_hit
                if key in view.attributes
            ]
            if told:
                return any(map(_true, told))
        return None if cached is None else cached > 0


class _Seen:
    """The spans of one trace by what they are, and how they hang together."""

    def __init__(self, spans: list[Glance]) -> None:
        self.spans = spans
        self.by_id: dict[bytes, Glance] = {}
        self.parents: set[bytes] = set()
        self.models: list[Glance] = []
        self.tools: list[Glance] = []
        self.calls: list[Glance] = []  # what may cost: models, tools, embeddings, retrievers
        self.wrappers: list[Glance] = []  # agents and chains
        self.bad: list[Glance] = []
        self.under_test = False  # whether there is an evaluator or a guardrail
        self.eventful = False
        self.uses = 0
        for view in spans:
            self.by_id[view.id] = view
            self.parents.add(view.parent_id)
            self.uses |= view.shape.uses
            if view.bad:
                self.bad.append(view)
            if view.eventful:
                self.eventful = True
            kind = view.kind
            if kind is None:
                continue
            if kind == "llm":
                self.models.append(view)
                self.calls.append(view)
            elif kind == "tool":
                self.tools.append(view)
                self.calls.append(view)
            elif kind in ("agent", "chain"):
                self.wrappers.append(view)
            elif kind in ("embedding", "retriever"):
                self.calls.append(view)
            elif kind in _UNDER_TEST:
                self.under_test = True

    def root(self) -> Glance:
        """As :meth:`stream.interaction_tree.SpanTree.root`; there is at least one span."""
        spans = (
            [view for view in self.spans if not view.parent_id.strip(b"\0")]
            or [view for view in self.spans if view.parent_id not in self.by_id]
            or self.spans
        )
        if len(spans) == 1:
            return spans[0]
        return min(spans, key=lambda view: (view.span.start_time_unix_nano, view.id))

    def ancestors(self, view: Glance) -> Iterable[Glance]:
        """As :meth:`stream.interaction_tree.SpanTree.ancestors`."""
        seen = {view.id}
        above = self.by_id.get(view.parent_id)
        while above is not None and above.id not in seen and len(seen) < MAX_ANCESTORS:
            seen.add(above.id)
            yield above
            above = self.by_id.get(above.parent_id)

    def below(self, one: bytes, found: dict[bytes, float]) -> bool:
        """Whether a span above ``one`` is in ``found``; cycles end after as many steps as a walk up may take."""
        above = self.by_id[one].parent_id
        for _ in range(MAX_ANCESTORS):
            if not above or above == one:
                return False
            if above in found:
                return True
            view = self.by_id.get(above)
            above = view.parent_id if view is not None else b""
        return False

    def line(self, view: Glance, root: Glance) -> list[Glance]:
        """The span, its ancestors, and the root if it is none of them."""
        line = [view, *self.ancestors(view)]
        return line if any(above is root for above in line) else [*line, root]


def _answer(seen: _Seen) -> Glance | None:
    for views in (seen.models, seen.wrappers):
        if seen.under_test:
            views = [
                view for view in views if not any(above.kind in _UNDER_TEST for above in seen.ancestors(view))
            ]
        if views:
            return max(views, key=_order)
    return None


def _order(view: Glance) -> tuple[bool, int, int, bytes]:
    span = view.span
    return not view.bad, span.end_time_unix_nano, -span.start_time_unix_nano, view.id


def _marked(trace: Trace) -> bool:
    """Whether it is a judge's own call, which went through an instrumented gateway: as the scorers see it.

    The mark alone says nothing, anybody can type it.
    """
    if not trace.suspect or not any(MARK_BYTES in raw for raw, _, _ in trace.spans.values()):
        return False
    try:
        whole = TracesData.FromString(traces_data(Piece(group, raw) for _, raw, group in trace.wires()))
    except DecodeError:
        return False
    found = trace_interaction(whole)
    return found is not None and is_own(found)


def _second_tries(models: list[Glance]) -> tuple[bool, bool]:
    """Whether a failed model call was followed, under the same parent, by one to the same model; by one to another."""
    # What starts last decides, so two of each are enough (one of them may be the failed call, or of its model), and a trace
    # of thousands of failed calls is not gone through once for each of them.
    last: dict[bytes, dict[str, list[Glance]]] = {}
    for view in sorted(models, key=_start, reverse=True):
        calls = last.setdefault(view.parent_id, {}).setdefault(_asked_model(view), [])
        if len(calls) < 2:
            calls.append(view)
    leading = {
        parent: list(islice(((model, _start(calls[0])) for model, calls in by_model.items()), 2))
        for parent, by_model in last.items()
    }
    again = other = False
    for failed in models:
        if failed.bad:
            model, end = _asked_model(failed), failed.span.end_time_unix_nano
            calls = last[failed.parent_id][model]
            again = again or any(_start(later) >= end for later in calls if later is not failed)
            other = other or any(at >= end for name, at in leading[failed.parent_id] if name != model)
    return again, other


def _start(view: Glance) -> int:
    return int(view.span.start_time_unix_nano)


def _asked_model(view: Glance) -> str:
    return repr(first(view.attributes, keys.REQUEST_MODEL))


def _timed_out(view: Glance) -> bool:
    status = first(view.attributes, keys.STATUS_CODES)
    if count(status) in _TIMEOUT_STATUS:
        return True
    name = error_type(view).lower()
    return "timeout" in name or "timed_out" in name or "deadline" in name


def _any(views: Iterable[Glance], names: Iterable[str]) -> bool:
    return any(_true(view.attributes.get(name)) for view in views for name in names)


def _true(value: Any) -> bool:
    """Flags are true, counts above 0, text that is not a way to say no."""
    if isinstance(value, str):
        return value.strip().lower() not in ("", "0", "false", "no", "none", "null", "miss")
    return bool(value)


class _Amount(NamedTuple):
    """Something to sum over spans."""

    number: int  # of :data:`scorers.sampling.fact_keys.AMOUNTS`
    plain: Callable[[Any], float]  # the value where its type is the usual one
    most: float  # and it is not 0 and not above this
    read: Callable[[Glance], float | None]  # in every other case


def _tokens(number: int) -> _Amount:
    def read(view: Glance) -> float | None:
        return None if view.stored else count(first(view.attributes, keys.AMOUNTS[number]))

    return _Amount(number, attrgetter("int_value"), 2**53, read)  # where integers are floats too


def _cost(view: Glance) -> float | None:
    total = amount(first(view.attributes, keys.COSTS))
    if total is not None:
        return total
    halves = [amount(view.attributes.get(key)) for key in keys.COST_HALVES]
    known = [half for half in halves if half is not None]
    return sum(known) if known else None


_INPUT_TOKENS, _OUTPUT_TOKENS, _CACHED_TOKENS = map(_tokens, range(3))
_COSTS = _Amount(3, attrgetter("double_value"), float_info.max, _cost)


def _total(seen: _Seen, what: _Amount, inner: list[Glance], outer: Sequence[Glance] = ()) -> float | None:
    """Sum over the outermost spans of the first kinds that report it: a call instrumented twice counts once."""
    number, plain, most, read = what
    if not seen.uses & keys.AMOUNT << number:
        return None
    for views in (inner, outer):
        found: dict[bytes, float] = {}
        for view in views:
            key = view.shape.places[number]
            if key is None:
                continue
            value = plain(view.pairs[key]) if key else 0
            if 0 < value <= most and not view.stored:
                found[view.id] = value
            elif (other := read(view)) is not None:
                found[view.id] = other
        if not found:
            continue
        if seen.parents.isdisjoint(found):  # none can be above another
            return float(sum(found.values()))
        return float(sum(value for one, value in found.items() if not seen.below(one, found)))
    return None


def _plausible(value: float | None) -> float | None:
    """Return ``value`` unless no sum can hold it: a wrong number must not take the trace's other facts with it."""
    return None if value is None or value > _MOST else value


def _integer(value: float | None) -> int | None:
    value = _plausible(value)
    return None if value is None else int(value)


_MAX_AGE_NS = 7 * 86400 * 1_000_000_000


def _time(trace: Trace, end_ns: int, ahead_ns: int) -> int:
    """Return when the trace ended; the log's time where a clock is wrong: event time moves everything."""
    if trace.last_ns and not trace.last_ns - _MAX_AGE_NS <= end_ns <= trace.last_ns + ahead_ns:
        return trace.last_ns
    return end_ns or trace.last_ns
