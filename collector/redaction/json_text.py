"""JSON inside a string: read it, change leaves and keys, write it again only if something changed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import orjson

# Shorter numbers are no card, account or telephone number, and no document that a key announces.
_SHORTEST_NUMBER = 6
_ENDS = {b"{": b"}", b"[": b"]", b'"': b'"'}


class JsonText:
    """Reads JSON to a bounded depth."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth

    class Document:
        """A JSON text taken apart into leaves that can be replaced."""

        def __init__(self, value: Any, *, duplicates: bool, before: bytes, after: bytes) -> None:
            self._before, self._after = before, after  # the white space around
            self._root: list[Any] = [value]
            self._places: list[tuple[Any, Any, bool]] = []  # container, key or index, is it the key itself
            self._renamed: dict[int, tuple[dict[str, Any], dict[str, str]]] = {}
            self.duplicates = duplicates

        def leaves(self, hint: str) -> tuple[list[bytes], list[str]]:
            """Return all strings, keys and long numbers as UTF-8, and for each the key it stands under."""
            texts: list[bytes] = []
            hints: list[str] = []
            stack: list[tuple[Any, str]] = [(self._root, hint)]
            while stack:
                container, key = stack.pop()
                items = container.items() if isinstance(container, dict) else enumerate(container)
                for name, item in items:
                    under = name if isinstance(name, str) else key
                    if isinstance(name, str):
                        texts.append(name.encode("utf-8", "surrogatepass"))
                        hints.append("")
                        self._places.append((container, name, True))
                    if isinstance(item, str):
                        texts.append(item.encode("utf-8", "surrogatepass"))
                    elif isinstance(item, dict | list):
                        stack.append((item, under))
                        continue
                    elif (
                        isinstance(item, int | float) and len(number := number_text(item)) >= _SHORTEST_NUMBER
                    ):
                        texts.append(number)
                    else:
                        continue
                    hints.append(under)
                    self._places.append((container, name, False))
            return texts, hints

        def replace(self, index: int, text: bytes) -> None:
            """Put ``text`` in place of leaf ``index``. A key takes effect when the document is written."""
            container, name, is_key = self._places[index]
            new = text.decode("utf-8", "surrogatepass")
            if is_key:
                self._renamed.setdefault(id(container), (container, {}))[1][name] = new
            else:
                container[name] = new

        def dump(self) -> bytes:
            """Return the document as compact JSON, with the white space that stood around it."""
            for container, names in self._renamed.values():
                items = list(container.items())
                taken = Names(name for name, _ in items if name not in names)
                container.clear()
                for name, item in items:
                    container[taken.claim(names[name]) if name in names else name] = item
            value = self._root[0]
            try:
                text = orjson.dumps(value, default=_Literal.fragment)
            except TypeError:  # numbers beyond 64 bits, lone surrogates
                text = json.dumps(value, separators=(",", ":"), default=_Literal.number).encode()
            return self._before + text + self._after

    def parse(self, text: bytes) -> JsonText.Document | None:
        """Return the document, or ``None`` if ``text`` is not a JSON object, array or string, or is too deep."""
        if not may_be_json(text):
            return None
        duplicates = False

        def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
            nonlocal duplicates
            made = dict(items)
            duplicates |= len(made) != len(items)
            return made

        try:
            # The standard library's reader, because it shows duplicate keys and keeps large integers.
            value = json.loads(
                text, object_pairs_hook=pairs, parse_constant=_Literal, parse_float=_Literal.or_float
            )
        except (ValueError, RecursionError):
            return None
        if not _within(value, self._max_depth):
            return None
        start, end = len(text) - len(text.lstrip()), len(text.rstrip())
        return self.Document(value, duplicates=duplicates, before=text[:start], after=text[end:])


class Names:
    """The keys of one object. Redacted keys may become equal, and two keys must not become one."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}  # suffix to try next; without it many equal tags would take for ever

    def claim(self, name: str) -> str:
        """Take and return ``name``, or ``name_2``, ``name_3``... if it is taken."""
        candidate, count = name, self._next.get(name, 2)
        while candidate in self._taken:
            candidate = f"{name}_{count}"
            count += 1
        self._next[name] = count
        self._taken.add(candidate)
        return candidate


def may_be_json(text: bytes) -> bool:
    """Whether ``text`` begins and ends as a JSON object, array or string does."""
    ends = _ENDS.get(text.lstrip()[:1])
    return ends is not None and text.rstrip()[-1:] == ends


def number_text(number: int | float) -> bytes:
    """Return a number as people write it: 4111111111111111.0 is sixteen digits."""
    if isinstance(number, float) and number.is_integer() and abs(number) < 1e21:
        number = int(number)
    return str(number).encode()


class _Literal:
    """A number that is no number, or beyond the largest: NaN, Infinity, 1e999. It is written again as it was."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def or_float(cls, text: str) -> float | _Literal:
        number = float(text)
        return number if math.isfinite(number) else cls(text)

    def fragment(self) -> orjson.Fragment:
        return orjson.Fragment(self.text)

    def number(self) -> float:
        return float(self.text)


def _within(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return True
    return False
