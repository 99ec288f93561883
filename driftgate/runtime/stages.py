"""Builds the stages from the configuration, the same for every runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel

from drift.stage import DriftStage
from driftgate.config import Config
from driftgate.runtime.screened import sampler_stage
from scorers.stage import ScorerStage
from stream.errors import ConfigError
from stream.secret import Secret
from stream.stage import Stage


class Stages(msgspec.Struct):
    """The stages that need neither store nor network to exist."""

    sampler: Stage
    scorer: ScorerStage
    drift: DriftStage


def build_stages(config: Config, base: Path) -> Stages:
    """Return the stages; ``base`` is the folder that plug-in paths start from.

    Raises
    ------
    ConfigError
        A plug-in cannot be loaded, or a secret it needs is missing.
    """
    return Stages(
        sampler=sampler_stage(config),
        scorer=ScorerStage(config.scorers, base),
        drift=DriftStage(config.drift),
    )


def reveal_all(config: BaseModel, place: str = "") -> list[str]:
    """Try every secret reference in ``config``; return one sentence for each that does not resolve.

    ``place`` is where ``config`` stands in the file.
    """
    problems = []
    for path, secret in _secrets(config, place):
        try:
            secret.reveal()
        except ConfigError as error:
            problems.append(f"`{path}`: {error}")
    return problems


def _secrets(value: Any, path: str) -> Iterator[tuple[str, Secret]]:
    if isinstance(value, Secret):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _secrets(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _secrets(item, f"{path}.{index}")
