"""Lists that were flattened into attribute names, such as ``gen_ai.prompt.0.tool_calls.1.name``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_ITEMS = 1_000  # items of one flattened list
MAX_LEVELS = 12


def items(attributes: Mapping[str, Any], prefix: str) -> list[Any]:
    """Return the list under ``prefix`` with its items nested as dicts and lists again, in index order.

    Indexes only order the items: ``prefix.99999999.content`` alone makes a list of one, so an index costs nothing.
    """
    start = prefix + "."
    tree: dict[str, Any] = {}
    for key, value in attributes.items():
        if key.startswith(start):
            path = key[len(start) :].split(".", MAX_LEVELS)
            if _is_index(path[0]):
                _put(tree, path, value)
    return _listed(tree) if tree else []


def _is_index(text: str) -> bool:
    return len(text) <= 18 and text.isascii() and text.isdigit()


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for step in path[:-1]:
        below = tree.get(step)
        if not isinstance(below, _Node):
            below = _Node()
            tree[step] = below
        tree = below
    if not isinstance(tree.get(path[-1]), _Node):
        tree[path[-1]] = value


class _Node(dict[str, Any]):
    """A level made from names, told apart from a value that happens to be a dict."""


def _listed(tree: dict[str, Any]) -> list[Any]:
    order = sorted((key for key in tree if _is_index(key)), key=int)[:MAX_ITEMS]
    return [_nested(tree[key]) for key in order]


def _nested(value: Any) -> Any:
    if not isinstance(value, _Node):
        return value
    if all(_is_index(key) for key in value):
        return _listed(value)
    return {key: _nested(below) for key, below in value.items()}
