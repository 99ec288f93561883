"""Finds entities in texts and replaces them.

One pass of one pattern over all texts of a request (the gate) says which texts need a closer look: most need none. Only
those are read as JSON where they are JSON, in all their readings (:mod:`collector.redaction.view`) where they are not, and
rule by rule. Overlapping finds are replaced as one, and a changed text is scanned again until nothing is found, so that
redacting twice is redacting once.

Whatever cannot be scanned in full is :class:`collector.redaction.rule.Unscannable`: the caller must not let it pass.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import msgspec
import re2

from collector.redaction import base64_text
from collector.redaction import view as view_module
from collector.redaction.context import Context, HintRules, before, words_of
from collector.redaction.json_text import JsonText
from collector.redaction.operator import Operators
from collector.redaction.pattern import latin1, utf8, without_anchors
from collector.redaction.policy import effective_rules, policy_version, self_test
from collector.redaction.rule import REPLACED, Hit, Rule, Span, Unscannable
from collector.redaction.view import View, views
from collector.settings import RedactionSettings

# Values that touch each other may only be recognised one after the other, as each tag frees its neighbour.
_MAX_ROUNDS = 20
_MAX_JSON_IN_JSON = 6
# Candidates in one batch, in multiples of max_candidates; texts beyond are unscannable.
_BATCH = 10
_ESCAPE_LETTERS = b"bfnrt"


class Redacted(msgspec.Struct, frozen=True):
    """A text with its finds replaced, and what was found."""

    text: bytes
    entities: tuple[str, ...]


class Engine:
    """The redaction engine. Holds no state between calls and may be used by several threads.

    Parameters
    ----------
    settings
        The policy.
    rules
        The rules in place of the built-in ones.

    Raises
    ------
    ConfigError
        A pattern is not valid RE2, a rule fails its own examples, an entity is unknown, or a key is missing or short.
    """

    def __init__(
        self, settings: RedactionSettings | None = None, *, rules: Sequence[Rule] | None = None
    ) -> None:
        self._settings = settings or RedactionSettings()
        self.rules = effective_rules(self._settings, rules)
        self.policy_version = policy_version(self._settings, self.rules)
        self._operators = Operators(self._settings, self.rules)
        self._allow: frozenset[bytes] = frozenset()
        self._json = JsonText(self._settings.max_json_depth)
        self._max_candidates = self._settings.max_candidates
        self._patterns = [utf8(rule.pattern, rule.name, captures=True) for rule in self.rules]
        self._value_group = [pattern.groupindex.get(b"value", 0) for pattern in self._patterns]
        self._contexts = [Context(rule.context) if rule.context else None for rule in self.rules]
        self._hint_rules = HintRules(self.rules)
        self._compile_gates()
        self_test(self, self.rules)
        # Only now: an allowed text may be a rule's example.
        self._allow = frozenset(text.encode() for text in self._settings.allow)

    def _compile_gates(self) -> None:
        derived = {
            index: without_anchors(rule.pattern)
            for index, rule in enumerate(self.rules)
            if not (rule.gate or rule.announced or rule.keys)
        }
        opens = [
            context.gate if rule.announced and context is not None else rule.gate
            for rule, context in zip(self.rules, self._contexts, strict=True)
        ]
        own = {gate for gate in opens if gate}
        gates = [view_module.GATE, *sorted(own)]
        if self._settings.max_base64_bytes:
            gates.append(base64_text.GATE)
        self._locators = [latin1("|".join(f"(?:{gate})" for gate in gates).encode("latin-1"))]
        if derived:
            # A user's pattern may ask for characters that JSON escapes, so each text with a backslash is looked at.
            joined = "|".join(f"(?:{gate})" for gate in (r"\\", *derived.values()))
            self._locators.append(utf8(joined, "rules together"))
        self._narrow: list[Sequence[int]] = []  # per member of the set: the rules it stands for
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.never_capture = True
        options.max_mem = 64 << 20
        self._set = re2.Set.SearchSet(options)
        for gate in sorted(own):
            self._set.Add(gate.encode("latin-1"))
            self._narrow.append([index for index, opened in enumerate(opens) if opened == gate])
        self._set.Compile()
        self._always = list(derived)

    # Finding

    def redact(self, text: str, *, hint: str = "", tenant: str = "default") -> tuple[str, tuple[str, ...]]:
        """Redact one text; return it with the entities found.

        Raises
        ------
        Unscannable
            It could not be scanned in full.
        """
        found = self.redact_batch([text.encode("utf-8", "surrogatepass")], [hint], tenant=tenant)
        if not found:
            return text, ()
        result = found[0]
        if isinstance(result, Unscannable):
            raise result
        return result.text.decode("utf-8", "surrogatepass"), result.entities

    def entities_in(self, text: str) -> frozenset[str]:
        """Return every entity that is found in ``text``, also those that a longer find covers.

        Raises
        ------
        Unscannable
            It could not be scanned in full.
        """
        raw = text.encode("utf-8", "surrogatepass")
        work = _Work(self._max_candidates)
        if self._suspects([raw], [""]):
            self._redact(raw, "", "default", work, 0)
        return frozenset(self.rules[index].name for index in work.rules)

    def redact_batch(
        self, texts: Sequence[bytes], hints: Sequence[str], *, tenant: str = "default"
    ) -> dict[int, Redacted | Unscannable]:
        """Redact many texts; return those that changed, by index.

        Parameters
        ----------
        texts
            UTF-8.
        hints
            For each text the attribute key (or JSON key) it is the value of, or an empty string. A hint is context: it
            can tell a telephone number from an order number.
        tenant
            Pseudonyms of different tenants differ.
        """
        found: dict[int, Redacted | Unscannable] = {}
        left = _BATCH * self._max_candidates
        for index in self._suspects(texts, hints):
            work = _Work(max(0, min(left, self._max_candidates)))
            try:
                result = self._redact(texts[index], hints[index], tenant, work, 0)
            except Unscannable as error:
                found[index] = error
                continue
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                RecursionError,
                TypeError,
                ValueError,
            ) as error:
                # A bug, here or in a check. The text must not pass because of it.
                found[index] = Unscannable("scan_failed", error.__class__.__name__)
                continue
            finally:
                left -= work.spent
            if result is not None:
                found[index] = result
        return found

    def _suspects(self, texts: Sequence[bytes], hints: Sequence[str]) -> list[int]:
        """Return the indices of texts in which any gate is open, or whose hint asks for a closer look, ascending."""
        joined = b"\n".join(texts)
        ends = list(accumulate([len(text) + 1 for text in texts]))
        indices: set[int] = set()
        for locator in self._locators:
            search, position, size = locator.search, 0, len(joined)
            while position < size and (match := search(joined, position)) is not None:
                start, end = match.span()
                first = bisect_right(ends, start)
                last = bisect_right(ends, max(start, end - 1), first) if end > ends[first] else first
                indices.update(range(first, min(last, len(texts) - 1) + 1))
                # The separator is kept: to a gate that wants an edge before a word, it is one.
                position = max(ends[min(last, len(texts) - 1)] - 1, end, position + 1)
        if asking := self._hint_rules.asking(hints):
            indices.update(index for index, hint in enumerate(hints) if hint in asking)
        return sorted(indices)

    def _redact(self, text: bytes, hint: str, tenant: str, work: _Work, depth: int) -> Redacted | None:
        if depth < _MAX_JSON_IN_JSON and (document := self._json.parse(text)) is not None:
            return self._redact_json(document, hint, tenant, work, depth)
        entities: list[str] = []
        for _ in range(_MAX_ROUNDS):
            if hits := self._hits(text, hint, work):
                text = self._replace(text, hits, hint, tenant, entities)
            elif (changed := self._redact_base64(text, hint, tenant, work, depth, entities)) is not None:
                text = changed
            else:
                return Redacted(text, tuple(entities)) if entities else None
        raise Unscannable("unstable", "replacing what was found keeps forming something new")

    def _redact_json(
        self, document: JsonText.Document, hint: str, tenant: str, work: _Work, depth: int
    ) -> Redacted | None:
        leaves, hints = document.leaves(hint)
        entities: list[str] = []
        # Of two equal keys only the last was read, so such a text is written anew, without the first.
        changed = document.duplicates
        for index in self._suspects(leaves, hints):
            result = self._redact(leaves[index], hints[index], tenant, work, depth + 1)
            if result is not None:
                document.replace(index, result.text)
                entities += result.entities
                changed = True
        return Redacted(document.dump(), tuple(entities)) if changed else None

    def _redact_base64(
        self, text: bytes, hint: str, tenant: str, work: _Work, depth: int, entities: list[str]
    ) -> bytes | None:
        """Redact what is encoded in ``text``; return ``None`` if nothing is."""
        if depth >= _MAX_JSON_IN_JSON:
            return None
        pieces: list[bytes] = []
        position = 0
        for start, end, decoded in base64_text.runs(text, self._settings.max_base64_bytes):
            work.spend()
            if not self._suspects([decoded], [hint]):
                continue
            result = self._redact(decoded, hint, tenant, work, depth + 1)
            if result is not None:
                pieces += (text[position:start], base64_text.encoded(result.text, text[start:end]))
                entities += result.entities
                position = end
        return b"".join((*pieces, text[position:])) if pieces else None

    def _hits(self, text: bytes, hint: str, work: _Work) -> list[Hit]:
        hits: list[Hit] = []
        raw: list[Hit] = []
        for view in views(text):
            found = self._hits_in(text if view is None else view.text, hint, work)
            if view is None:
                raw = found
            else:
                hits += _mapped(view, found)
        if raw:
            starts = {(hit.start, hit.rule) for hit in hits}
            hits += [_without_escape_letter(hit, text, starts) for hit in raw]
        return hits

    def _hits_in(self, text: bytes, hint: str, work: _Work) -> list[Hit]:
        hits: list[Hit] = []
        # An entity's name in a pseudonym can look like the word before a value.
        replaced = [match.span() for match in REPLACED.finditer(text)] if b"pii:" in text else []
        members = self._set.Match(text) if self._narrow else None
        candidates = [*self._always]
        for member in members or ():
            candidates += self._narrow[member]
        if hint and (asked := self._hint_rules.of(hint)):
            candidates += [index for index in asked if index not in candidates]
        for index in candidates:
            rule, group = self.rules[index], self._value_group[index]
            for match in self._patterns[index].finditer(text):
                start, end = match.span(group)
                if start < 0:  # an alternative of the pattern that has no group
                    start, end = match.span()
                if start == end:
                    continue
                work.spend()
                context = self._contexts[index]
                if context is not None and not (
                    context.announces(before(text, start)) or context.announces(words_of(hint))
                ):
                    continue
                spans = ((start, end),) if rule.check is None else rule.check(text, start, end, hint)
                for low, high in spans:
                    found = text[low:high]
                    if (
                        found not in self._allow
                        and not REPLACED.fullmatch(found)
                        and not (replaced and _within(replaced, low, high))
                    ):
                        hits.append(Hit(low, high, index))
                        work.rules.add(index)
        return hits

    # Replacing

    def _replace(self, text: bytes, hits: list[Hit], hint: str, tenant: str, entities: list[str]) -> bytes:
        """Replace the union of ``hits``. Where some overlap, the longest names the whole."""
        hits.sort(key=lambda hit: (hit.start, hit.end))
        pieces: list[bytes] = []
        position = index = 0
        while index < len(hits):
            best = hits[index]
            start, end = best.start, best.end
            index += 1
            while index < len(hits) and hits[index].start < end:
                hit = hits[index]
                end = max(end, hit.end)
                if (hit.end - hit.start, -hit.rule) > (best.end - best.start, -best.rule):
                    best = hit
                index += 1
            pieces += (
                text[position:start],
                self._operators.replacement(best.rule, text[start:end], hint, tenant),
            )
            entities.append(self.rules[best.rule].name)
            position = end
        pieces.append(text[position:])
        return b"".join(pieces)


class _Work:
    """The work on one text. It is bounded: checks cost microseconds each, and a text can be made of candidates."""

    __slots__ = ("most", "rules", "spent")

    def __init__(self, most: int) -> None:
        self.most = most
        self.spent = 0
        self.rules: set[int] = set()

    def spend(self) -> None:
        self.spent += 1
        if self.spent > self.most:
            raise Unscannable("too_many_candidates", "there are more candidate matches than max_candidates")


def _within(spans: Sequence[Span], low: int, high: int) -> bool:
    """Whether one of ``spans``, which are in order, holds all of ``low`` to ``high``."""
    index = bisect_right(spans, (low, high)) - 1
    return any(first <= low and high <= last for first, last in spans[max(0, index) : index + 2])


def _mapped(view: View, hits: list[Hit]) -> list[Hit]:
    return [Hit(*view.origin(hit.start, hit.end), hit.rule) for hit in hits]


def _without_escape_letter(hit: Hit, text: bytes, starts: set[tuple[int, int]]) -> Hit:
    """Undo the gluing of ``\\n`` to what follows: the letter belongs to the escape if the undone reading starts behind it."""
    start = hit.start
    if (
        start > 0
        and text[start - 1] == 0x5C
        and text[start] in _ESCAPE_LETTERS
        and (start + 1, hit.rule) in starts
    ):
        return Hit(start + 1, hit.end, hit.rule)
    return hit
