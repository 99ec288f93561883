"""Every place in OTLP where a string can hide: gathered into one list for one scan, and written back.

Places: keys and values (strings, bytes, numbers, at any depth) of resource, scope, span, event, link and log attributes;
log bodies; span, event and scope names; status messages; trace states; schema URLs; severity texts; entity references.
Unknown protobuf fields are dropped before, ids are checked for their length: neither can carry text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from collector.redaction.engine import Redacted
from collector.redaction.json_text import Names, number_text
from collector.redaction.rule import Unscannable

# Shorter numbers are no card, account or telephone number, and no document that a key announces.
_SMALLEST_NUMBER = 10**5
# Attribute keys repeat from span to span; those found clean are not scanned again.
_MOST_KNOWN_KEYS = 4096
_LONGEST_KNOWN_KEY = 128


# Where a text came from: message, field, place, owner, and for keys the attributes among which the key must stay unique,
# for items of a repeated field their index, for values inside values their path. A plain tuple: one is made per string.
_Slot = tuple[Any, str, str, int, Any]


class KnownKeys:
    """Attribute keys found clean under one policy. Bounded; forgets all when full."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def add(self, key: str) -> None:
        """Remember ``key`` unless it is long."""
        if len(key) <= _LONGEST_KNOWN_KEY:
            if len(self.keys) >= _MOST_KNOWN_KEYS:
                self.keys = set()
            self.keys.add(key)


class Places:
    """The strings of one request.

    Each string has an owner: a number that stands for one span, one log record, one resource or one scope. What cannot
    be scanned is noted for its owner in ``reasons``.

    Parameters
    ----------
    max_depth
        Deepest nesting of arrays and maps.
    max_string_bytes
        Longest string.
    known_keys
        Keys that need no scan.
    """

    def __init__(self, *, max_depth: int, max_string_bytes: int, known_keys: KnownKeys) -> None:
        self.texts: list[bytes] = []
        self.hints: list[str] = []
        self.reasons: dict[int, str] = {}
        self.cleared = False  # whether anything was taken out while gathering
        self._slots: list[_Slot] = []
        self._owners = 0
        self._max_depth = max_depth
        self._max_string = max_string_bytes
        self._known_keys = known_keys
        self._keys: set[str] = set()

    def owner(self) -> int:
        """Return a new owner."""
        self._owners += 1
        return self._owners

    # Gathering

    def resource(self, group: Any) -> int:
        """Gather the resource of a ResourceSpans or ResourceLogs; return its owner."""
        owner = self.owner()
        self._text(group, "schema_url", "resource.schema_url", owner)
        self._attributes(group.resource.attributes, "resource.attribute", owner)
        for reference in group.resource.entity_refs:
            self._text(reference, "schema_url", "resource.entity_ref", owner)
            self._text(reference, "type", "resource.entity_ref", owner)
            for field in ("id_keys", "description_keys"):
                for index, key in enumerate(getattr(reference, field)):
                    self._add(key.encode(), "", (reference, field, "resource.entity_ref", owner, index))
        return owner

    def scope(self, group: Any) -> int:
        """Gather the scope of a ScopeSpans or ScopeLogs; return its owner."""
        owner = self.owner()
        self._text(group, "schema_url", "scope.schema_url", owner)
        if group.HasField("scope"):
            self._text(group.scope, "name", "scope.name", owner)
            self._text(group.scope, "version", "scope.version", owner)
            self._attributes(group.scope.attributes, "scope.attribute", owner)
        return owner

    def span(self, span: Any) -> int:
        """Gather one span; return its owner."""
        owner = self.owner()
        self._text(span, "name", "span.name", owner)
        self._text(span, "trace_state", "span.trace_state", owner)
        self._attributes(span.attributes, "span.attribute", owner)
        if span.HasField("status"):
            self._text(span.status, "message", "span.status", owner)
        for event in span.events:
            self._text(event, "name", "event.name", owner)
            self._attributes(event.attributes, "event.attribute", owner)
        for link in span.links:
            self._text(link, "trace_state", "link.trace_state", owner)
            self._attributes(link.attributes, "link.attribute", owner)
        return owner

    def log(self, record: Any) -> int:
        """Gather one log record; return its owner."""
        owner = self.owner()
        self._text(record, "severity_text", "log.severity_text", owner)
        self._text(record, "event_name", "log.event_name", owner)
        self._attributes(record.attributes, "log.attribute", owner)
        if record.HasField("body"):
            self._value(record.body, record.body.WhichOneof("value"), "", "log.body", "log.body", owner, 0)
        return owner

    def _text(self, message: Any, field: str, place: str, owner: int) -> None:
        if text := getattr(message, field):
            self._add(text.encode(), "", (message, field, place, owner, None))

    def _attributes(self, attributes: Any, place: str, owner: int) -> None:
        # The hot loop: a span has a dozen attributes, and most are strings.
        known, limit = self._known_keys.keys, self._max_string
        add_text, add_hint, add_slot = self.texts.append, self.hints.append, self._slots.append
        for attribute in attributes:
            key = attribute.key
            if key not in known:
                self._key(key, attribute, attributes, place, owner)
            value = attribute.value
            # Asking for the string is cheaper than asking which kind of value it is; an empty one needs no scan.
            if string := value.string_value:
                text = string.encode()
                if len(text) <= limit:
                    add_text(text)
                    add_hint(key)
                    add_slot((value, "string_value", place, owner, None))
                else:
                    self.reasons.setdefault(owner, "string_too_long")
            elif -_SMALLEST_NUMBER < value.int_value < _SMALLEST_NUMBER and value.int_value:
                continue
            elif (kind := value.WhichOneof("value")) is not None and kind != "string_value":
                self._value(value, kind, key, f"{place}s.{key}", place, owner, 0)

    def _key(self, key: str, attribute: Any, siblings: Any, place: str, owner: int) -> None:
        self._keys.add(key)
        self._add(key.encode(), "", (attribute, "key", place + ".key", owner, siblings))

    def _value(
        self, value: Any, kind: str | None, hint: str, path: str, place: str, owner: int, depth: int
    ) -> None:
        if kind == "string_value":
            self._add(value.string_value.encode(), hint, (value, kind, place, owner, path))
        elif kind == "int_value" or kind == "double_value":
            number = getattr(value, kind)
            if number >= _SMALLEST_NUMBER or number <= -_SMALLEST_NUMBER:
                self._add(number_text(number), hint, (value, kind, place, owner, path))
        elif kind == "bytes_value":
            self._add(value.bytes_value, hint, (value, kind, place, owner, path))
        elif kind == "array_value" or kind == "kvlist_value":
            if depth >= self._max_depth:
                self.reasons.setdefault(owner, "too_deep")
            elif kind == "array_value":
                for item in value.array_value.values:
                    self._value(item, item.WhichOneof("value"), hint, path, place, owner, depth + 1)
            else:
                items = value.kvlist_value.values
                for item in items:
                    if item.key not in self._known_keys.keys:
                        self._key(item.key, item, items, place, owner)
                    inner = item.value
                    self._value(
                        inner,
                        inner.WhichOneof("value"),
                        item.key,
                        f"{path}.{item.key}",
                        place,
                        owner,
                        depth + 1,
                    )
        elif kind == "string_value_strindex":
            # Points into a dictionary that only profiles have.
            value.ClearField("string_value_strindex")
            self.cleared = True

    def _add(self, text: bytes, hint: str, slot: _Slot) -> None:
        if len(text) > self._max_string:
            self.reasons.setdefault(slot[3], "string_too_long")
            return
        self.texts.append(text)
        self.hints.append(hint)
        self._slots.append(slot)

    def path(self, index: int) -> str:
        """Return where text ``index`` stands, as ``redaction.paths`` calls it: ``span.attributes.user.id``, ``log.body``."""
        _, _, place, _, path = self._slots[index]
        if isinstance(path, str):
            return path
        return f"{place}s.{self.hints[index]}" if place.endswith(".attribute") else place

    # Writing back

    def write(self, found: dict[int, Redacted | Unscannable]) -> list[tuple[int, str, Sequence[str]]]:
        """Write the redacted texts into the request; return owner, place and entities of each.

        What could not be scanned is noted in ``reasons``.
        """
        written: list[tuple[int, str, Sequence[str]]] = []
        names: dict[int, Names] = {}  # by identity of the list of attributes, which the slots keep alive
        for index, result in found.items():
            slot = self._slots[index]
            _, field, place, owner, _ = slot
            if field == "key":
                self._keys.discard(self.texts[index].decode())
            if isinstance(result, Unscannable):
                self.reasons.setdefault(owner, result.reason)
                continue
            try:
                _set(slot, result.text, names)
            except UnicodeDecodeError:
                self.reasons.setdefault(owner, "scan_failed")
                continue
            written.append((owner, place, result.entities))
        for key in self._keys:
            self._known_keys.add(key)
        return written


def _set(slot: _Slot, text: bytes, names: dict[int, Names]) -> None:
    message, field, _, _, extra = slot
    if field == "bytes_value":
        message.bytes_value = text
    elif field == "int_value" or field == "double_value":
        message.string_value = text.decode()
    elif field == "key":
        if id(extra) not in names:
            names[id(extra)] = Names(attribute.key for attribute in extra)
        message.key = names[id(extra)].claim(text.decode())
    elif field == "id_keys" or field == "description_keys":
        getattr(message, field)[extra] = text.decode()
    else:
        setattr(message, field, text.decode())
