"""Configuration of the drift stage: defaults that work, mistakes that are named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from drift.operations import operation_settings, score_settings
from drift.settings import DriftSettings, RolloutSettings, WatchSettings


def test_defaults() -> None:
    settings = DriftSettings()
    assert settings.bucket == 60
    assert settings.rollouts[0].rubrics == ["groundedness_lexical", "refusal"]
    assert settings.rollouts[0].size == settings.rollouts[0].margin == 0.02


def test_a_watch_needs_a_margin_that_a_bet_can_be_divided_by() -> None:
    """Where all of a baseline is 1 a bet is a part of the margin; 1 less next to nothing is 1."""
    with pytest.raises(ValidationError, match="margin"):
        WatchSettings(margin=1e-17)


def test_durations_may_be_text() -> None:
    assert DriftSettings.model_validate({"windows": ["15m", "1h"], "bucket": "1m"}).windows == [900.0, 3600.0]


def test_one_alpha_covers_everything_that_can_roll_back() -> None:
    default = RolloutSettings()
    assert (default.rubric_alpha, default.operations_share, default.severe_share) == (0.04, 0.01, 0.0)
    all_of_it = RolloutSettings(operations=[])
    assert (all_of_it.rubric_alpha, all_of_it.operations_share) == (0.05, 0.0)
    severe = RolloutSettings(severe=["harm"], alpha=0.1)
    assert (severe.rubric_alpha, severe.severe_share, severe.operations_share) == (0.06, 0.02, 0.02)
    assert RolloutSettings(alpha=0.06, operations_alpha=0.01).rubric_alpha == 0.05  # not .0499999
    only = RolloutSettings(rubrics=[], operations_alpha=0.05)
    assert (only.rubric_alpha, only.operations_share) == (0.0, 0.05)


@given(
    alpha=st.floats(1e-6, 0.5),
    severe=st.booleans(),
    operations=st.booleans(),
    parts=st.tuples(*[st.none() | st.floats(1e-6, 0.5)] * 2),
)
def test_the_parts_of_alpha_never_exceed_it(
    alpha: float, severe: bool, operations: bool, parts: tuple[float | None, float | None]
) -> None:
    """As the two flows of the stage see them."""
    try:
        settings = DriftSettings(
            rollouts=[
                RolloutSettings(
                    alpha=alpha,
                    severe=["harm"] if severe else [],
                    operations=["error_rate"] if operations else [],
                    severe_alpha=parts[0],
                    operations_alpha=parts[1],
                )
            ]
        )
    except ValidationError:
        return
    flows = [*score_settings(settings).rollouts, *operation_settings(settings).rollouts]
    spent = sum((one.rubric_alpha if one.rubrics else 0.0) + one.severe_share for one in flows)
    assert spent == pytest.approx(alpha, abs=1e-11)


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
        ({"rollouts": [{"rubrics": [], "operations": []}]}, "needs a rubric"),
        ({"rollouts": [{"rubrics": ["error_rate"]}]}, "name it in operations"),
        ({"rollouts": [{"operations": ["speed"]}]}, "no operational stream"),
        ({"rollouts": [{"severe": ["refusal"]}]}, "named twice"),
        ({"watches": [{"rubrics": [], "operations": []}]}, "needs a rubric"),
        ({"budgets": [{"usd": 1, "tokens": 5}]}, "either usd or tokens"),
        ({"budgets": [{"usd": 1}, {"usd": 2}]}, "same name"),
        ({"rollouts": [{"bucket": 1}]}, "shorter than the stage"),
        ({"rollouts": [{"alpha": 0}]}, "greater than 0"),
        (
            {"rollouts": [{"operations_alpha": 0.05}]},
            "operations_alpha 0.05 must together be less than alpha 0.05",
        ),
        ({"rollouts": [{"operations_alpha": 0.2}]}, "rubrics get what is left"),
        (
            {"rollouts": [{"severe": ["harm"], "severe_alpha": 0.03, "operations_alpha": 0.02}]},
            "severe_alpha 0.03 and operations_alpha 0.02 must together be less than alpha 0.05",
        ),
        ({"rollouts": [{"rubrics": [], "operations_alpha": 0.06}]}, "no more than alpha 0.05"),
        ({"bucket": 0}, "greater than or equal"),
        ({"windowz": [60]}, "Extra inputs"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DriftSettings.model_validate(wrong)
