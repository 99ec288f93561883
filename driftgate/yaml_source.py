"""Read a YAML configuration file and remember on which line every key stands."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stream.errors import ConfigError

_MAX_BYTES = 1 << 20
ENV_PREFIX = "DRIFTGATE__"

URL_SECTIONS = ("log", "store")
"""Sections that may be written as their URL alone."""

Location = tuple[str | int, ...]


class Source:
    """Plain data and, for every key path in it, where it was written.

    ``origin`` maps a path such as ``("collector", "grpc", "port")`` to a text for people: ``line 7`` or
    ``environment variable DRIFTGATE__COLLECTOR__GRPC__PORT``.
    """

    def __init__(self, data: dict[str, Any], origin: dict[Location, str], name: str) -> None:
        self.data = data
        self.origin = origin
        self.name = name

    def where(self, location: Location) -> tuple[Location, str]:
        """Return the deepest written path on the way to ``location``, and where it was written."""
        best: Location = ()
        path: list[str | int] = []
        for part in location:
            # pydantic puts names of union members and validators between real keys; those are not in the file.
            if (*path, part) in self.origin:
                path.append(part)
                best = tuple(path)
        return best, self.origin.get(best, "")


def read_source(path: Path | None, environment: Mapping[str, str] | None = None) -> Source:
    """Return the data of ``path`` (none: an empty file) with ``DRIFTGATE__A__B=value`` variables laid over it.

    Variable values are YAML, so numbers, lists and ``{}`` work.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, has a key twice, or a variable is not YAML.
    """
    data: dict[str, Any] = {}
    origin: dict[Location, str] = {}
    name = str(path) if path else "defaults"
    if path is not None:
        data = _read_file(path, origin)
    for variable, text in sorted((environment if environment is not None else os.environ).items()):
        if variable.startswith(ENV_PREFIX):
            _overlay(data, origin, variable, text)
    return Source(data, origin, name)


def _read_file(path: Path, origin: dict[Location, str]) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"{path} is larger than 1 MiB; that is not a configuration file")
    try:
        node = yaml.compose(raw, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}:{line} not YAML: {problem}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: line 1: expected `key: value` pairs at the top")
    data = _build(node, (), origin, path)
    return data if isinstance(data, dict) else {}


def _build(node: yaml.Node, at: Location, origin: dict[Location, str], path: Path) -> Any:
    origin[at] = f"line {node.start_mark.line + 1}"
    if len(at) > 40:
        raise ConfigError(f"{path}: line {node.start_mark.line + 1}: nested too deeply")
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _scalar(key_node, path)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                key = str(key)
            if key in mapping:
                raise ConfigError(f"{path}: line {line}: `{key}` stands twice in the same section")
            mapping[key] = _build(value_node, (*at, key), origin, path)
            origin[(*at, key)] = f"line {line}"
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*at, index), origin, path) for index, child in enumerate(node.value)]
    return _scalar(node, path)


def _scalar(node: yaml.Node, path: Path) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is 2026-02-30, or !!int with letters
        line = node.start_mark.line + 1
        if node.tag == "tag:yaml.org,2002:merge":
            raise ConfigError(f"{path}: line {line}: `<<` is not known here: write the keys out") from error
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}: line {line}: not a value: {problem}; quote it if it is text") from error
    finally:
        loader.dispose()


def _overlay(data: dict[str, Any], origin: dict[Location, str], variable: str, text: str) -> None:
    path = tuple(part.lower() for part in variable.removeprefix(ENV_PREFIX).split("__"))
    try:
        value = yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"environment variable {variable} is not a YAML value") from error
    place = data
    for index, part in enumerate(path[:-1]):
        child = place.get(part)
        if not isinstance(child, dict):
            # What the file says in short stays: `log: kafka://…` and a variable for its `max_age` are one section.
            short = index == 0 and part in URL_SECTIONS and isinstance(child, str)
            child = place[part] = {"url": child} if short else {}
        place = child
        origin.setdefault(path[: index + 1], f"environment variable {variable}")
    place[path[-1]] = value
    origin[path] = f"environment variable {variable}"
