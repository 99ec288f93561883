"""Gates of which none is ever shut: the reference for what the real ones let pass unread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from collector.redaction.engine import Engine
from collector.redaction.gates import Gates


class Open(Gates):
    """Gates of which none is ever shut."""

    def __init__(self, engine: Engine) -> None:
        self._behind = engine.gates
        self._rules = engine.rules

    def suspects(
        self, texts: Sequence[bytes], hints: Sequence[str], expired: Callable[[], bool] | None = None
    ) -> list[int]:
        return list(range(len(texts)))

    def suspects_on_wire(
        self, wire: bytes, ends_of: Callable[[], Sequence[int]], *, most_containers: int
    ) -> set[int]:
        return set(range(len(ends_of())))

    def rules_in(self, text: bytes, hint: str) -> list[int]:
        asked = set(self._behind.rules_in(text, hint))
        return [index for index, rule in enumerate(self._rules) if index in asked or not rule.keys]
