"""Finds entities in texts and replaces them.

A few passes over all texts of a request (the gates) say which texts need a closer look: most need none. Only
those are read as JSON where they are JSON, in all their readings (:mod:`collector.redaction.view`) where they are not, and
rule by rule. Overlapping finds are replaced as one, and a changed text is scanned again until nothing is found, so that
redacting twice is redacting once.

Whatever cannot be scanned in full is :class:`collector.redaction.rule.Unscannable`: the caller must not let it pass.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import msgspec

from collector.redaction import base64_text
from collector.redaction.context import Context, announcing_all
from collector.redaction.gates import Gates
from collector.redaction.json_text import JsonText
from collector.redaction.operator import Operators, Treatment, tagging
from collector.redaction.pattern import candidates
from collector.redaction.policy import effective_rules, policy_versions, self_test
from collector.redaction.rule import REPLACED, Hit, Rule, Span, Unscannable
from collector.redaction.view import View, views
from collector.settings import RedactionSettings

# Values that touch each other may only be recognised one after the other, as each tag frees its neighbour.
_MAX_ROUNDS = 20
_MAX_JSON_IN_JSON = 6
# Candidates in one batch, in multiples of max_candidates; texts beyond are unscannable.
_BATCH = 10
_ESCAPE_LETTERS = b"bfnrt"
# Candidates between two looks at the clock; a check costs up to 20 microseconds.
_TIME_EVERY = 64


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
        self.operators = Operators(self._settings, self.rules)
        self._versions = policy_versions(self._settings, self.rules)
        self._json = JsonText(self._settings.max_json_depth)
        self.max_base64_bytes = self._settings.max_base64_bytes
        self._max_candidates = self._settings.max_candidates
        self._candidates = [candidates(rule.pattern, rule.name) for rule in self.rules]
        self._contexts = [Context(rule.context) if rule.context else None for rule in self.rules]
        self.gates = Gates(self.rules, max_base64_bytes=self.max_base64_bytes)
        self_test(self, self.rules)

    @property
    def policy_version(self) -> str:
        """The version of the policy for tenants without one of their own; see :meth:`policy_version_of`."""
        return self._versions[""]

    def policy_version_of(self, tenant: str) -> str:
        """Return 12 hex digits that change whenever data of ``tenant`` could be redacted differently."""
        return self._versions.get(tenant, self._versions[""])

    # Finding

    def redact(
        self, text: str, *, hint: str = "", tenant: str = "default", path: str = ""
    ) -> tuple[str, tuple[str, ...]]:
        """Redact one text; return it with the entities found.

        Raises
        ------
        Unscannable
            It could not be scanned in full.
        """
        found = self.redact_batch(
            [text.encode("utf-8", "surrogatepass")], [hint], tenant=tenant, path_of=lambda _: path
        )
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
        if self.gates.suspects([raw], [""]):
            # Also what the policy keeps: a rule's example may be allowed.
            self._redact(raw, "", tagging(self.rules), work, 0)
        return frozenset(self.rules[index].name for index in work.rules)

    def redact_batch(
        self,
        texts: Sequence[bytes],
        hints: Sequence[str],
        *,
        tenant: str = "default",
        path_of: Callable[[int], str] | None = None,
        expired: Callable[[], bool] | None = None,
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
            Pseudonyms of different tenants differ, and tenants may have policies of their own.
        path_of
            Says where the text of an index stands, as ``redaction.paths`` calls it; asked only for texts with finds.
        expired
            Whether the time for these texts is up; those not scanned by then are unscannable.
        """
        treatment = self.operators.of(tenant)
        if path_of is not None and not self.operators.paths(tenant):
            path_of = None
        hints = announcing_all(hints)
        found: dict[int, Redacted | Unscannable] = {}
        left = _BATCH * self._max_candidates
        for index in self.gates.suspects(texts, hints, expired):
            work = _Work(max(0, min(left, self._max_candidates)), expired)
            try:
                if path_of is not None:
                    treatment = self.operators.of(tenant, path_of(index))
                result = self._redact(texts[index], hints[index], treatment, work, 0)
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

    def _redact(
        self, text: bytes, hint: str, treatment: Treatment, work: _Work, depth: int
    ) -> Redacted | None:
        if depth < _MAX_JSON_IN_JSON and (document := self._json.parse(text)) is not None:
            return self._redact_json(document, hint, treatment, work, depth)
        entities: list[str] = []
        for _ in range(_MAX_ROUNDS):
            if hits := self._hits(text, hint, treatment, work):
                text = self._replace(text, hits, hint, treatment, entities)
            elif (changed := self._redact_base64(text, hint, treatment, work, depth, entities)) is not None:
                text = changed
            else:
                return Redacted(text, tuple(entities)) if entities else None
        raise Unscannable("unstable", "replacing what was found keeps forming something new")

    def _redact_json(
        self, document: JsonText.Document, hint: str, treatment: Treatment, work: _Work, depth: int
    ) -> Redacted | None:
        leaves, keys = document.leaves(hint)
        hints = announcing_all(keys)
        entities: list[str] = []
        # Of two equal keys only the last was read, so such a text is written anew, without the first.
        changed = document.duplicates
        for index in self.gates.suspects(leaves, hints, work.expired):
            result = self._redact(leaves[index], hints[index], treatment, work, depth + 1)
            if result is not None:
                document.replace(index, result.text)
                entities += result.entities
                changed = True
        return Redacted(document.dump(), tuple(entities)) if changed else None

    def _redact_base64(
        self, text: bytes, hint: str, treatment: Treatment, work: _Work, depth: int, entities: list[str]
    ) -> bytes | None:
        """Redact what is encoded in ``text``; return ``None`` if nothing is."""
        if depth >= _MAX_JSON_IN_JSON:
            return None
        pieces: list[bytes] = []
        position = 0
        for start, end, decoded in base64_text.runs(text, self.max_base64_bytes):
            work.spend()
            if not self.gates.suspects([decoded], [hint]):
                continue
            result = self._redact(decoded, hint, treatment, work, depth + 1)
            if result is not None:
                pieces += (text[position:start], base64_text.encoded(result.text, text[start:end]))
                entities += result.entities
                position = end
        return b"".join((*pieces, text[position:])) if pieces else None

    def _hits(self, text: bytes, hint: str, treatment: Treatment, work: _Work) -> list[Hit]:
        hits: list[Hit] = []
        raw: list[Hit] = []
        for view in views(text):
            found = self._hits_in(text if view is None else view.text, hint, treatment, work)
            if view is None:
                raw = found
            else:
                hits += _mapped(view, found)
        # Text that was escaped twice has a reading in between, in which an escape still glues to what follows.
        starts = {(hit.start, hit.rule) for hit in hits}
        return [_without_escape_letter(hit, text, starts) for hit in (*hits, *raw)]

    def _hits_in(self, text: bytes, hint: str, treatment: Treatment, work: _Work) -> list[Hit]:
        hits: list[Hit] = []
        work.check_time()
        # An entity's name in a pseudonym can look like the word before a value.
        replaced = [match.span() for match in REPLACED.finditer(text)] if b"pii:" in text else []
        for index in self.gates.rules_in(text, hint):
            rule, context = self.rules[index], self._contexts[index]
            first, last, announced = 0, len(text), None
            if context is not None:
                first, last, announced = context.near(text, hint)
            for start, end in self._candidates[index](text):
                work.spend()
                if not first <= start <= last or (announced is not None and not announced(start)):
                    continue
                spans = ((start, end),) if rule.check is None else rule.check(text, start, end, hint)
                for low, high in spans:
                    found = text[low:high]
                    if (
                        not treatment.keeps(index, found)
                        and not REPLACED.fullmatch(found)
                        and not (replaced and _within(replaced, low, high))
                    ):
                        hits.append(Hit(low, high, index))
                        work.rules.add(index)
        return hits

    # Replacing

    def _replace(
        self, text: bytes, hits: list[Hit], hint: str, treatment: Treatment, entities: list[str]
    ) -> bytes:
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
            pieces += (text[position:start], treatment.replacement(best.rule, text[start:end], hint))
            entities.append(self.rules[best.rule].name)
            position = end
        pieces.append(text[position:])
        return b"".join(pieces)


class _Work:
    """The work on one text. It is bounded: checks cost microseconds each, and a text can be made of candidates."""

    __slots__ = ("expired", "most", "rules", "spent")

    def __init__(self, most: int, expired: Callable[[], bool] | None = None) -> None:
        self.most = most
        self.expired = expired
        self.spent = 0
        self.rules: set[int] = set()

    def spend(self) -> None:
        self.spent += 1
        if self.spent > self.most:
            raise Unscannable("too_many_candidates", "there are more candidate matches than max_candidates")
        if self.spent % _TIME_EVERY == 0:
            self.check_time()

    def check_time(self) -> None:
        """Raise :class:`Unscannable` when the time is up."""
        if self.expired is not None and self.expired():
            raise Unscannable("scan_timeout", "scanning took longer than max_scan_time")


def _within(spans: Sequence[Span], low: int, high: int) -> bool:
    """Whether one of ``spans``, which are in order, holds all of ``low`` to ``high``."""
    index = bisect_right(spans, (low, high)) - 1
    return any(first <= low and high <= last for first, last in spans[max(0, index) : index + 2])


def _mapped(view: View, hits: list[Hit]) -> list[Hit]:
    return [Hit(*view.origin(hit.start, hit.end), hit.rule) for hit in hits]


def _without_escape_letter(hit: Hit, text: bytes, starts: set[tuple[int, int]]) -> Hit:
    """Undo the gluing of ``\\n`` to what follows: the letter belongs to the escape if the undone reading starts behind it."""
    start = hit.start
    if start > 0 and text[start - 1] == 0x5C and text[start] in _ESCAPE_LETTERS:
        for behind in range(start + 1, hit.end):
            if (behind, hit.rule) in starts:
                return Hit(behind, hit.end, hit.rule)
            if text[behind] not in b".'+-":  # marks that a check leaves out before a value
                break
    # The same for %20: its digits seem to begin the value.
    for behind in (1, 2):
        if (
            text[max(0, start + behind - 3) : start + behind - 2] == b"%"
            and (start + behind, hit.rule) in starts
        ):
            return Hit(start + behind, hit.end, hit.rule)
    return hit
