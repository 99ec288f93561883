"""The configuration reference: ``docs/configuration.md`` is made from the models, so that it cannot disagree."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stream.secret import Secret

_HEAD = """# Configuration

One YAML file: `driftgate up -c driftgate.yaml`. Every key has a default, so the file may be missing or hold only what
differs. Unknown keys are errors; `driftgate config check FILE` names the line, the key and the fix, and
`driftgate config schema` prints the JSON Schema for your editor.

- **Durations** are seconds or text: `500ms`, `30s`, `5m`, `1h`, `7d`. **Sizes** are bytes or text: `512KiB`, `64MiB`.
- **Secrets** are references only: `${env:NAME}` or `file:/absolute/path`.
- **Environment**: `DRIFTGATE__COLLECTOR__GRPC__PORT=4327` overrides `collector.grpc.port`; values are YAML.

This page is printed by `driftgate config reference`.
"""


def reference(model: type[BaseModel]) -> str:
    """Return the reference of ``model`` as Markdown."""
    return _HEAD + "".join(f"\n{section}" for section in _sections(model, "", set()))


def _sections(model: type[BaseModel], path: str, told: set[type[BaseModel]]) -> Iterator[str]:
    rows: list[str] = []
    nested: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        key = f"{path}.{name}" if path else name
        inner, many = _models(field.annotation)
        if inner:
            label = key + ("[]" if many else "")
            for one in inner:
                kind = one.model_fields.get("type")
                tag = f" with type {_type(kind.annotation)}" if kind and len(inner) > 1 else ""
                nested.append((label + tag, one))
            if not many:
                continue
        rows.append(f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {_text(field)} |\n")
    if rows:
        key, _, tag = path.partition(" ")
        title = f"## `{key}` {tag}".rstrip() if path else "## Top level"
        text = (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        yield f"{title}\n\n{text}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{''.join(rows)}"
    # Each model is told once, as near to the top as it stands: policies hold policies.
    fresh = [(key, one) for key, one in nested if one not in told]
    told.update(one for _, one in fresh)
    for key, one in fresh:
        yield from _sections(one, key, told)


def _models(annotation: Any) -> tuple[list[type[BaseModel]], bool]:
    """Return the models in ``annotation`` and whether they stand in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation], False
    origin = get_origin(annotation)
    found: list[type[BaseModel]] = []
    many = origin in (list, tuple, dict)
    for argument in get_args(annotation):
        models, inner_many = _models(argument)
        found += [model for model in models if model not in found]
        many = many or inner_many
    return found, many and bool(found)


def _type(annotation: Any) -> str:
    if annotation is Secret:
        return "secret"
    if annotation is type(None):
        return "null"
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(argument) for argument in get_args(annotation)))
    if origin in (list, tuple):
        return f"list of {_type(get_args(annotation)[0])}"
    if origin is dict:
        return "map"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {str: "text", bool: "yes/no", int: "integer", float: "number", Any: "any"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel) or (
        isinstance(value, (list, tuple)) and value and isinstance(value[0], BaseModel)
    ):
        return "see below"
    if isinstance(value, Secret):
        value = value.reference
    text = json.dumps(value, default=str)
    return f"`{text}`" if text not in ('""', "null") else ""


def _text(field: FieldInfo) -> str:
    return (field.description or "").replace("\n", " ").replace("|", "\\|")
