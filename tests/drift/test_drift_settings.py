"""Configuration of the drift stage: defaults that work, mistakes that are named."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from drift.settings import DriftSettings


def test_defaults() -> None:
    settings = DriftSettings()
    assert settings.bucket == 60
    assert settings.rollouts[0].rubrics == ["groundedness_lexical", "refusal"]
    assert settings.rollouts[0].size == settings.rollouts[0].margin == 0.02


def test_durations_may_be_text() -> None:
    assert DriftSettings.model_validate({"windows": ["15m", "1h"], "bucket": "1m"}).windows == [900.0, 3600.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"views": [["model"]]}, "contains route"),
        ({"views": [["route"], ["route"]]}, "listed twice"),
        ({"windows": [30]}, "shorter than the bucket"),
        ({"windows": [60, 60]}, "listed twice"),
        ({"windows": []}, "at least one"),
        ({"rollouts": [{"name": "a"}, {"name": "a"}]}, "same name"),
        ({"rollouts": [{"scope": ["prompt_name"]}]}, "scope must contain route"),
        ({"rollouts": [{"arm": "route"}]}, "cannot be in scope"),
        ({"rollouts": [{"strata": ["prompt_version"]}]}, "would never meet"),
        ({"rollouts": [{"incumbent": "a", "candidate": "a"}]}, "the same"),
        ({"rollouts": [{"rubrics": ["a", "a"]}]}, "named twice"),
        ({"rollouts": [{"rubrics": []}]}, "at least 1"),
        ({"rollouts": [{"bucket": 1}]}, "shorter than the stage"),
        ({"rollouts": [{"alpha": 0}]}, "greater than 0"),
        ({"bucket": 0}, "greater than or equal"),
        ({"windowz": [60]}, "Extra inputs"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DriftSettings.model_validate(wrong)
