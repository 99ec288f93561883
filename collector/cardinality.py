"""How many different routes, prompts and services one tenant may name: what is beyond it is written as ``(other)``.

Each of these becomes a cohort with windows and tests of its own. A sender that puts an order number into its route would
otherwise make as many of them as it has orders, at the expense of everybody.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from collector.cut import Item
from collector.tenant_settings import TenantLimits
from stream.interaction_record import PROMPT_NAME_KEYS, PROMPT_VERSION_KEYS, ROUTE_KEYS, SERVICE_KEYS

OTHER = "(other)"
# A value that was not seen for so long makes room for a new one.
FORGET_S = 86_400.0
# Longer values are remembered by their digest: a thousand of four megabytes would be four gigabytes.
_LONGEST_KNOWN = 64

_LIMIT_OF = {
    **dict.fromkeys(ROUTE_KEYS, "max_routes"),
    **dict.fromkeys((*PROMPT_NAME_KEYS, *PROMPT_VERSION_KEYS), "max_prompt_versions"),
    **dict.fromkeys(SERVICE_KEYS, "max_services"),
}


class Cardinality:
    """Remembers the values of each tenant. Thread-safe.

    Parameters
    ----------
    limits
        By tenant; tenants that are not named are not limited.
    clock
        Seconds that only ever grow.
    """

    def __init__(self, limits: Mapping[str, TenantLimits], clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._seen: dict[tuple[str, str], OrderedDict[bytes, float]] = {}
        self._lock = threading.Lock()

    def fold(self, tenant: str, items: Iterable[Item]) -> dict[str, int]:
        """Fold the values of ``items`` in place; return how many by attribute key."""
        limits = self._limits.get(tenant)
        folded: dict[str, int] = {}
        if limits is None:
            return folded
        group: Any = None
        for item in items:
            if item.resource_group is not group:
                group = item.resource_group
                self._attributes(tenant, limits, group.resource.attributes, folded)
            self._attributes(tenant, limits, item.message.attributes, folded)
        return folded

    def _attributes(self, tenant: str, limits: TenantLimits, attributes: Any, folded: dict[str, int]) -> None:
        for attribute in attributes:
            key = attribute.key
            name = _LIMIT_OF.get(key)
            if name is None:
                continue
            value = attribute.value
            text = _text(value)
            if text and not self._known((tenant, key), text, getattr(limits, name)):
                value.string_value = OTHER
                folded[key] = folded.get(key, 0) + 1

    def _known(self, place: tuple[str, str], value: bytes, limit: int) -> bool:
        now = self._clock()
        with self._lock:
            seen = self._seen.setdefault(place, OrderedDict())
            if value in seen:
                seen[value] = now
                seen.move_to_end(value)
                return True
            if len(seen) >= limit:
                oldest = next(iter(seen))
                if now - seen[oldest] < FORGET_S:
                    return False
                del seen[oldest]
            seen[value] = now
            return True


def _text(value: Any) -> bytes:
    """Return what names something; nothing where the value is a list or a map, which name nothing, or one of two."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        text = value.string_value.encode()
    elif kind == "bytes_value":
        text = b"bytes " + value.bytes_value
    elif kind in ("int_value", "double_value"):
        text = str(getattr(value, kind)).encode()
    else:
        return b""
    return text if len(text) <= _LONGEST_KNOWN else hashlib.blake2b(text, digest_size=_LONGEST_KNOWN).digest()
