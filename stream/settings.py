"""The base of every section of the configuration file."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|KB|MB|GB|TB)?")
_BYTES = {
    "": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip


class Settings(BaseModel):
    """A section of the configuration: unknown keys are errors, values never change, numbers are numbers.

    Infinity and NaN, which YAML can write, pass for limits and then fail where a limit becomes an integer.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )


def _seconds(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a duration is a number of seconds or text such as 500ms, 30s, 5m, 1h, 7d")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        parts = _DURATION.findall(value)
        if not parts or _DURATION.sub("", value).strip():
            raise ValueError("a duration is a number of seconds or text such as 500ms, 30s, 5m, 1h, 7d")
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return value


def _bytes(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a size is a number of bytes or text such as 512KiB, 64MiB, 10GiB")
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if not match:
            raise ValueError("a size is a number of bytes or text such as 512KiB, 64MiB, 10GiB")
        return int(float(match[1]) * _BYTES[match[2] or ""])
    return value


Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    WithJsonSchema(
        {"type": ["number", "string"], "description": "Seconds, or text such as 500ms, 30s, 5m, 1h, 7d."}
    ),
]
ByteSize = Annotated[
    int,
    BeforeValidator(_bytes),
    WithJsonSchema(
        {"type": ["integer", "string"], "description": "Bytes, or text such as 512KiB, 64MiB, 10GiB."}
    ),
]
