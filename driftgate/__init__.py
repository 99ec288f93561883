"""The top floor: command line, configuration, the runtimes, the administration port.

What an author of a scorer needs is importable from here::

    from driftgate import Interaction, Score, Scorer, Skipped
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scorers.api import Score, Scorer, Skipped, scorer
    from stream.interaction import Document, Interaction, Message, Part

__all__ = ["Document", "Interaction", "Message", "Part", "Score", "Scorer", "Skipped", "scorer"]

_HOMES = {
    "Score": "scorers.api",
    "Scorer": "scorers.api",
    "Skipped": "scorers.api",
    "scorer": "scorers.api",
    "Document": "stream.interaction",
    "Interaction": "stream.interaction",
    "Message": "stream.interaction",
    "Part": "stream.interaction",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that the command line starts quickly."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'driftgate' has no attribute {name!r}")
