"""What a redaction rule is: data. The engine knows nothing about any entity."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from stream.errors import Permanent

Span = tuple[int, int]
# (text, start, end, hint) of a candidate -> the parts of it, or next to it, that really are the entity.
Check = Callable[[bytes, int, int, str], Iterator[Span]]

# What replacements leave behind. It is no context for what stands next to it, and no find itself.
REPLACED = re.compile(rb"\[[A-Z][A-Z0-9_]*\]|pii:[a-z0-9_]+:[a-z0-9]+:[a-p]{32}")
# How far before a match its context words may stand, in bytes.
CONTEXT_BYTES = 48


class Unscannable(Permanent):
    """A text could not be scanned in full, so it must not pass."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One way of finding one entity. Several rules may share a ``name``.

    Finding goes in three steps, each cheaper to skip than the next: ``gate``, ``pattern``, then ``context`` and ``check``.

    Parameters
    ----------
    name
        The entity, upper case: what tags, counters and settings call it.
    gate
        RE2 fragment in Latin-1 (one byte is one character) that every text with this entity contains, also when the text
        stands inside JSON: so no ``\\b``, no ``^``, no newline, no quote. It may match far more than the entity.
    gate_core
        Another such fragment, which is in every match of ``gate`` and counts little, for a gate that counts many digits or
        characters in a row. It is looked for first (:mod:`collector.redaction.sieve`).
    reach
        Whether there is a candidate where ``gate`` matched can be told from so many bytes before the match and behind it.
        For candidates that are frequent in ids; 0 means that the whole text must be read.
    gate_pair
        Two such fragments: a text that holds both, or whose key holds the first, is looked at as well. For candidates that
        are too frequent to be a gate and are an entity only near a word.
    pattern
        RE2 pattern of candidates over UTF-8. With a group called ``value`` only the group is the candidate.
    check
        Narrows a candidate down; without one the candidate is the entity.
    context
        Words, lower case, of which one must stand within 48 bytes before the candidate or in the attribute's key. A space
        stands for a space, a dot, a dash, an underscore, or nothing.
    announced
        The context words are the gate, in place of ``gate``.
    keys
        Pattern (lower case, ``camelCase`` taken apart by ``_``) of attribute keys; the rule is tried on the values under
        such keys, and on nothing else.
    canonical
        Form in which equal values are equal (digits only, lower case); pseudonyms are made of it.
    keep_last
        Characters that the operator ``mask`` leaves at the end.
    must_match, must_not_match
        Texts tried at start-up, at many offsets and inside JSON; a rule that fails refuses to start.
    """

    name: str
    gate: str = ""
    gate_core: str = ""
    gate_pair: tuple[str, str] | None = None
    reach: int = 0
    pattern: str
    check: Check | None = None
    context: tuple[str, ...] = ()
    announced: bool = False
    keys: str = ""
    canonical: Callable[[str], str] | None = None
    keep_last: int = 0
    must_match: tuple[str, ...] = ()
    must_not_match: tuple[str, ...] = ()


class Hit(msgspec.Struct, frozen=True):
    """``text[start:end]`` (bytes) is an entity that ``rules[rule]`` found."""

    start: int
    end: int
    rule: int
