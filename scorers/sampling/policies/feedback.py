"""Keep traces that a user complained about."""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar, Literal

from pydantic import Field

from scorers.sampling.ballot import NO, YES, Ballot, Vote
from scorers.sampling.policy import Policy
from scorers.sampling.trace import Trace
from stream.spans import SpanEvent, SpanView

# OpenInference: annotations.N.annotation.score, also under trace., session. and as evaluations.
_ANNOTATION = re.compile(
    r"((?:trace\.|session\.)?(?:annotations|evaluations)\.\d{1,6})\.(?:annotation|evaluation)\.(\w{1,40})"
)
_EVALUATION = "gen_ai.evaluation."


class Feedback(Policy):
    """Matches a trace with negative feedback from a person.

    Looks at OpenInference annotations whose annotator is a human, and at ``gen_ai.evaluation.result`` events whose
    evaluation has one of ``names``.
    """

    name: ClassVar[str] = "feedback"

    type: Literal["feedback"] = "feedback"
    names: tuple[str, ...] = Field(
        default=("user_feedback", "feedback", "user_rating", "thumbs", "csat"), max_length=100
    )
    """Evaluations that come from users; upper and lower case are equal."""
    at_most: float = 0.0
    """Highest score that is negative."""
    labels: tuple[str, ...] = Field(
        default=("negative", "bad", "down", "thumbs_down", "thumbs-down", "dislike", "👎"), max_length=100
    )
    """Labels that are negative; upper and lower case are equal."""

    def vote(self, trace: Trace, ballot: Ballot) -> Vote:
        """See :meth:`Policy.vote`."""
        del ballot
        return YES if self.complains(trace) else NO

    def complains(self, trace: Trace) -> bool:
        """Whether a person complained, as far as the trace says."""
        for decoded in trace.decoded(b"evaluation", b"annotation"):
            span = SpanView(decoded, {}, "")
            if any(map(self._negative_event, span.events)) or self._negative_annotation(span.attributes):
                return True
        return False

    def _negative_event(self, event: SpanEvent) -> bool:
        if event.name != "gen_ai.evaluation.result":
            return False
        held = event.attributes
        name = held.get(_EVALUATION + "name")
        if not isinstance(name, str) or name.lower() not in {known.lower() for known in self.names}:
            return False
        return self._negative(held.get(_EVALUATION + "score.value"), held.get(_EVALUATION + "score.label"))

    def _negative_annotation(self, attributes: dict[str, Any]) -> bool:
        found: dict[str, dict[str, Any]] = {}
        for key, value in attributes.items():
            if match := _ANNOTATION.fullmatch(key):
                found.setdefault(match[1], {})[match[2]] = value
        return any(
            self._negative(held.get("score"), held.get("label"))
            for held in found.values()
            if str(held.get("annotator_kind", "")).upper() == "HUMAN"
        )

    def _negative(self, score: Any, label: Any) -> bool:
        if isinstance(label, str) and label.strip().lower() in {word.lower() for word in self.labels}:
            return True
        if isinstance(score, bool) or not isinstance(score, int | float | str):
            return False
        try:
            number = float(score)  # some emitters send the score as text
        except (ValueError, OverflowError):
            return False
        return math.isfinite(number) and number <= self.at_most
