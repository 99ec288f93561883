"""The example plug-in, loaded by its path as a user would, scores real interactions."""

from __future__ import annotations

from pathlib import Path

import pytest

from scorers.settings import ScorersSettings
from scorers.stage import ScorerStage
from stream.errors import ConfigError
from stream.interaction import Document, Interaction, Message, Part

ROOT = Path(__file__).parents[2]


def said(answer: str, *ids: str) -> Interaction:
    return Interaction(
        trace_id="ab",
        output_messages=[Message("assistant", [Part("text", answer)])],
        documents=[Document(name) for name in ids],
    )


def test_cites_source() -> None:
    """The share of cited sentences, with options from the configuration."""
    use = {"use": "examples/scorers/cites_source.py:CitesSource", "options": {"min_words": 4}}
    stage = ScorerStage(ScorersSettings.model_validate({"rubrics": [use]}), ROOT)
    answers = [
        said("Refunds take five working days. [refunds] You are welcome!", "refunds", "shipping"),
        said("Refunds take five working days [refunds]. Express parcels arrive tomorrow.", "refunds"),
        said("Refunds take five working days [made-up].", "refunds"),
        said("Refunds take five working days."),
    ]
    records = stage.score_interactions(answers)
    stage.close()
    assert [(record.value, record.label, record.reason) for record in records] == [
        (1.0, "cited", ""),
        (0.5, "uncited", ""),
        (0.0, "uncited", ""),
        (None, "", "no_document_ids"),
    ]
    assert records[0].rubric == "cites_source"
    assert records[0].evaluator.version.startswith("1+")  # options are part of the identity


def test_wrong_options_are_refused() -> None:
    """The error names the rubric, the option and what is wrong with it."""
    use = {"use": "examples/scorers/cites_source.py:CitesSource", "options": {"min_word": 4}}
    with pytest.raises(
        ConfigError,
        match=r"scorers\.rubrics\[0\].*min_word: unknown option; it takes the options .*min_words",
    ):
        ScorerStage(ScorersSettings.model_validate({"rubrics": [use]}), ROOT)
