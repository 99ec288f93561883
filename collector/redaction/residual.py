"""The second look: is anything left in what was published? It shares the rules with the engine and nothing of its way.

The engine is fast because it skips: gates say which texts need a look, known keys need none, one list of places is all that
is walked. A mistake there leaks, and the engine itself cannot notice. This walk skips nothing: it goes through every field
of the published message by its descriptor, and tries every rule on every reading of every text. That is some fifty times as
slow, so only a share of spans is looked at, chosen by their ids: the same spans in every run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from google.protobuf.message import Message
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from collector.redaction import base64_text
from collector.redaction.context import Context, announcing, before, words_of
from collector.redaction.engine import Engine
from collector.redaction.operator import Treatment
from collector.redaction.pattern import latin1, utf8
from collector.redaction.rule import REPLACED, Rule
from collector.redaction.view import views
from stream.records import HEADER_TENANT, TOPIC_LOGS, TOPIC_SPANS
from stream.stage import Output

_OWNERS = {
    "Resource": "resource", "InstrumentationScope": "scope", "Span": "span", "Event": "event", "Link": "link",
    "LogRecord": "log", "Status": "span.status", "ResourceSpans": "resource", "ResourceLogs": "resource",
    "ScopeSpans": "scope", "ScopeLogs": "scope", "EntityRef": "resource.entity_ref",
}  # fmt: skip
_SHAPES: dict[str, tuple[Any, str, str, str]] = {
    TOPIC_SPANS: (TracesData, "resource_spans", "scope_spans", "spans"),
    TOPIC_LOGS: (LogsData, "resource_logs", "scope_logs", "log_records"),
}
_MOST_NESTED = 6
# Neither letter nor digit nor white space, so that nothing is found across two texts.
_BETWEEN = b"\n\x00\n"
_ENDS = re.compile(r"(?<!\[)(?<!\\)\^|\$|\\[AzbB]")
# Shorter numbers are no card, account or telephone number, and no document that a key announces.
_SMALLEST_NUMBER = 10**5


class Text(msgspec.Struct, frozen=True):
    """One text of a message: itself, the key it stands under, its place as counters call it and as the policy does."""

    raw: bytes
    hint: str
    place: str
    path: str


class Found(msgspec.Struct, frozen=True):
    """What a scan found. ``finds`` maps (entity, place) to a count; all of them are leaks."""

    items: int
    finds: dict[tuple[str, str], int]


class Residual:
    """Scans published records again.

    Parameters
    ----------
    engine
        Whose rules and policy count.
    share
        Share of spans and log records that are looked at, 0 to 1.
    """

    def __init__(self, engine: Engine, share: float) -> None:
        self._engine = engine
        self._below = int(share * (1 << 32))
        self._rules = [_candidate(index, rule) for index, rule in enumerate(engine.rules)]

    def chosen(self, trace_id: bytes, span_id: bytes) -> bool:
        """Whether the span with these ids is looked at."""
        digest = hashlib.blake2b(trace_id + span_id, digest_size=4).digest()
        return int.from_bytes(digest, "big") < self._below

    def scan(self, output: Output) -> Found:
        """Look at the chosen items of a published record, with their resources and scopes."""
        if output.topic not in _SHAPES or not self._below:
            return Found(0, {})
        kind, groups, scopes, members = _SHAPES[output.topic]
        finds: Counter[tuple[str, str]] = Counter()
        count = 0
        tenant = dict(output.headers).get(HEADER_TENANT, b"default").decode()
        for group in getattr(kind.FromString(output.value), groups):
            some = False
            for scope in getattr(group, scopes):
                chosen = [
                    item for item in getattr(scope, members) if self.chosen(item.trace_id, item.span_id)
                ]
                if chosen:
                    count += len(chosen)
                    some = True
                    for item in chosen:
                        self._try(list(texts(item)), tenant, finds)
                    self._try(list(texts(scope, without=members)), tenant, finds)
            if some:
                self._try(list(texts(group, without=scopes)), tenant, finds)
        return Found(count, dict(finds))

    def _try(self, found: Sequence[Text], tenant: str, finds: Counter[tuple[str, str]]) -> None:
        most = self._engine.max_base64_bytes
        read = [
            (raw, announcing(hint), text)
            for text in found
            for raw, hint in readings(text.raw, text.hint, most)
            if raw
        ]
        # What a pattern does not find in all of them together, it finds in none: that saves most of the work.
        joined = _BETWEEN.join(raw for raw, _, _ in read)
        words = _BETWEEN.join({words_of(hint) for _, hint, _ in read})
        announced = (joined + _BETWEEN + words).lower()
        for candidate in self._rules:
            if candidate.context is not None and not candidate.context.announces(announced):
                continue
            if candidate.keys is None and not candidate.alone and candidate.quick.search(joined) is None:
                continue
            for raw, hint, text in read:
                treatment = self._engine.operators.of(tenant, text.path)
                for _ in _finds(candidate, raw, hint, treatment):
                    finds[candidate.rule.name, text.place] += 1


class _Candidate(msgspec.Struct, frozen=True):
    """One rule, compiled anew. ``alone``: its pattern looks at the ends of a text, so each text is tried by itself."""

    index: int
    rule: Rule
    pattern: Any
    quick: Any  # the same without groups, which is faster
    group: int
    context: Context | None
    keys: Any
    alone: bool


def _candidate(index: int, rule: Rule) -> _Candidate:
    pattern = utf8(rule.pattern, rule.name, captures=True)
    return _Candidate(
        index,
        rule,
        pattern,
        utf8(rule.pattern, rule.name),
        pattern.groupindex.get(b"value", 0),
        Context(rule.context) if rule.context else None,
        latin1(rule.keys.encode("latin-1")) if rule.keys else None,
        _ENDS.search(rule.pattern.replace("(?:^|", "(?:")) is not None,
    )


def _finds(candidate: _Candidate, raw: bytes, hint: str, treatment: Treatment) -> Iterator[tuple[int, int]]:
    """Yield where the rule finds its entity in one reading, but for what the policy keeps."""
    words = words_of(hint) if candidate.keys is not None or candidate.context is not None else b""
    if candidate.keys is not None and candidate.keys.search(words) is None:
        return
    context = candidate.context
    announced = context is None or context.announces(words)
    if not announced and context is not None and not context.announces(raw):
        return
    check = candidate.rule.check
    replaced = [match.span() for match in REPLACED.finditer(raw)]
    for match in candidate.pattern.finditer(raw):
        start, end = match.span(candidate.group)
        if start < 0:
            start, end = match.span()
        if start == end:
            continue
        if not announced and context is not None and not context.announces(before(raw, start)):
            continue
        for low, high in ((start, end),) if check is None else check(raw, start, end, hint):
            if (
                low < high
                and not treatment.keeps(candidate.index, raw[low:high])
                and not any(first <= low and high <= last for first, last in replaced)
            ):
                yield low, high


def texts(message: Message, without: str = "") -> Iterator[Text]:
    """Yield every text in ``message``, whatever field it stands in, but for what is in the field ``without``."""
    yield from _texts(message, "", "", "", "", without)


def _texts(
    message: Message, owner: str, hint: str, place: str, path: str, without: str = ""
) -> Iterator[Text]:
    name = message.DESCRIPTOR.name
    owner = _OWNERS.get(name, owner)
    if name == "KeyValue":
        key = message.key  # type: ignore[attr-defined]
        yield Text(key.encode(), "", f"{place}.key", f"{place}.key")
        hint, path = key, f"{path}.{key}"
    for field, content in message.ListFields():
        if field.name == without:
            continue
        for item in _items(content):
            if isinstance(item, Message):
                if field.name == "attributes":
                    yield from _texts(item, owner, "", f"{owner}.attribute", f"{owner}.attributes")
                elif field.name == "body":
                    yield from _texts(item, owner, "", "log.body", "log.body")
                else:
                    yield from _texts(item, owner, hint, place, path)
            elif name == "AnyValue":
                if raw := _bytes(item):
                    yield Text(raw, hint, place, path)
            elif isinstance(item, str) and name != "KeyValue":
                own = owner if name in ("Status", "EntityRef") else f"{owner}.{field.name}"
                yield Text(item.encode(), "", own, own)


def _items(content: Any) -> Sequence[Any]:
    if isinstance(content, str | bytes | int | float | Message):
        return (content,)
    repeated: Sequence[Any] = content
    return repeated


def _bytes(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes):
        return item
    if isinstance(item, bool) or not isinstance(item, int | float) or abs(item) < _SMALLEST_NUMBER:
        return b""
    return str(int(item) if isinstance(item, float) and item.is_integer() else item).encode()


def readings(raw: bytes, hint: str, max_base64_bytes: int, depth: int = 0) -> Iterator[tuple[bytes, str]]:
    """Yield ``raw`` as a reader could understand it: as it is, unescaped, as JSON, and what is in base64 in it."""
    if depth > _MOST_NESTED:
        return
    document = _json(raw)
    if document is not None:
        for leaf, key in _leaves(document, hint):
            yield from readings(leaf, key, max_base64_bytes, depth + 1)
        return
    for view in views(raw):
        yield (raw if view is None else view.text), hint
    for _, _, decoded in base64_text.runs(raw, max_base64_bytes):
        yield from readings(decoded, hint, max_base64_bytes, depth + 1)


def _json(raw: bytes) -> Any:
    if raw.strip()[:1] not in (b"{", b"[", b'"'):
        return None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _leaves(document: Any, hint: str) -> Iterator[tuple[bytes, str]]:
    stack = [(document, hint)]
    while stack:
        item, key = stack.pop()
        if isinstance(item, dict):
            for name, inner in item.items():
                yield name.encode("utf-8", "surrogatepass"), ""
                stack.append((inner, name))
        elif isinstance(item, list):
            stack += [(inner, key) for inner in item]
        elif isinstance(item, str):
            yield item.encode("utf-8", "surrogatepass"), key
        elif raw := _bytes(item):
            yield raw, key
