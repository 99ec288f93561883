"""Origins: what scores of one tenant, rubric, evaluator and cohort have in common, looked up once instead of per score."""

from __future__ import annotations

import msgspec

from stream.records import Evaluator

MAX_ATTRIBUTES = 32
MAX_TEXT = 512  # characters of ids, rubric, evaluator, cohort keys and values

_MAX_KEPT = 50_000
_MAX_KEPT_BYTES = 4096  # evaluator and cohort as they came: larger ones are decoded every time


class Origin(msgspec.Struct, frozen=True):
    """One tenant, rubric, evaluator and set of attributes.

    ``number`` is never given twice in the life of an :class:`Origins`, so that others may remember what belongs to it.
    """

    number: int
    tenant: str
    rubric: str
    evaluator: Evaluator
    identity: str  # of the evaluator
    cohort: dict[str, str]


class Origins:
    """Numbers origins. How many are remembered is bounded; a forgotten one gets another number."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str, bytes, bytes], Origin] = {}
        """What :meth:`written` has found, for callers with many scores."""
        self._made: dict[tuple[str, str, Evaluator, tuple[tuple[str, str], ...]], Origin] = {}
        self._evaluator = msgspec.json.Decoder(Evaluator)
        self._cohort = msgspec.json.Decoder(dict[str, str])
        self._next = 0

    def written(self, tenant: str, rubric: str, evaluator: bytes, cohort: bytes) -> Origin | None:
        """Return the origin of a score whose evaluator and cohort are still JSON; None if they break a limit.

        Raises
        ------
        msgspec.DecodeError, UnicodeDecodeError
            They are not an evaluator and a cohort.
        """
        place = tenant, rubric, evaluator, cohort
        who, where = self._evaluator.decode(evaluator), self._cohort.decode(cohort)
        texts = (who.id, who.version, who.model, who.prompt_hash, *where, *where.values())
        if len(where) > MAX_ATTRIBUTES or max(map(len, texts)) > MAX_TEXT:
            return None
        origin = self.of(tenant, rubric, who, where)
        if len(evaluator) + len(cohort) <= _MAX_KEPT_BYTES:
            if len(self.known) >= _MAX_KEPT:
                self.known.clear()
            self.known[place] = origin
        return origin

    def of(self, tenant: str, rubric: str, evaluator: Evaluator, cohort: dict[str, str]) -> Origin:
        """Return the origin of scores with these properties."""
        place = tenant, rubric, evaluator, tuple(cohort.items())
        origin = self._made.get(place)
        if origin is None:
            origin = Origin(self._next, tenant, rubric, evaluator, evaluator.identity, cohort)
            self._next += 1
            if len(self._made) >= _MAX_KEPT:
                self._made.clear()
            self._made[place] = origin
        return origin
