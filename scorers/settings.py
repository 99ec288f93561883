"""Settings of the scoring stage: rubrics, judges, and how scores of other tools are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from stream.secret import Secret
from stream.settings import Seconds, Settings

Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")]


class RubricSettings(Settings):
    """One rubric; text alone is short for ``use``."""

    use: Annotated[str, Field(min_length=1)]
    """A built-in rubric, or a plug-in: entry point, package.module:attr, or path/to/file.py:attr."""

    name: Name | None = None
    """Name on the scores; by default the scorer's own."""

    target: Literal["trace", "span"] | None = None
    """One score per trace, or one per LLM span; by default what the scorer says."""

    options: dict[str, Any] = Field(default={})
    """Options of the scorer."""

    timeout: Annotated[Seconds, Field(gt=0, le=600)] = 10.0
    """Longest time a plug-in may take for one interaction. Built-in rubrics need no limit."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Let editors accept the short form, too."""
        return {"anyOf": [{"type": "string", "minLength": 1}, handler(schema)]}


class JudgeSettings(Settings):
    """One rubric judged by a language model."""

    rubric: Literal[
        "groundedness",
        "context_adherence",
        "answer_relevance",
        "refusal_calibration",
        "tool_call_accuracy",
        "toxicity",
        "policy_compliance",
        "task_completion",
    ]
    """Which of the built-in judge rubrics."""

    name: Name | None = None
    """Name on the scores; by default the rubric's."""

    target: Literal["trace", "span"] = "trace"
    """One score per trace, or one per LLM span."""

    model: Annotated[str, Field(min_length=1)]
    """Model name as litellm spells it, for example openai/gpt-5-mini, or openai/NAME with an api_base."""

    api_base: str | None = None
    """Address of an OpenAI-compatible endpoint; by default the provider's own."""

    api_key: Secret | None = None
    """Key for the endpoint. Without it, and without an api_base, the provider's usual environment variable is used."""

    policy: Annotated[str, Field(max_length=20_000)] = ""
    """The rule that policy_compliance checks; required there, additional guidance for the other rubrics."""

    timeout: Annotated[Seconds, Field(gt=0, le=600)] = 30.0
    """Longest wait for one answer of the model."""

    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Calls for one score at most, the first included."""

    backoff: Annotated[Seconds, Field(ge=0, le=60)] = 0.5
    """Wait before the second attempt; it doubles with every further one. A Retry-After of the endpoint goes first."""

    max_wait: Annotated[Seconds, Field(ge=0, le=600)] = 10.0
    """Longest wait before an attempt. An endpoint that asks for more blocks the judge until then."""

    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Calls under way at the same time."""

    budget_usd_per_day: Annotated[float, Field(ge=0)] | None = 10.0
    """Money per UTC day and process; null for no limit. At 0 the judge is blocked."""

    input_usd_per_million: Annotated[float, Field(ge=0)] | None = None
    """Price of a million input tokens; by default from litellm's own table."""

    output_usd_per_million: Annotated[float, Field(ge=0)] | None = None
    """Price of a million output tokens; by default from litellm's own table."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """Sampling temperature; null leaves it to the model."""

    samples: Annotated[int, Field(ge=1, le=9)] = 1
    """Answers per score; their mean is the value. More than one makes sense with a temperature above 0."""

    max_output_tokens: Annotated[int, Field(ge=16, le=32_768)] = 800
    """Longest answer of the model."""

    max_block_chars: Annotated[int, Field(ge=200, le=2_000_000)] = 24_000
    """Longest block of content (question, documents, answer) shown to the model; the middle of a longer one is left out."""

    structured_output: Literal["auto", "json_schema", "json_object", "text"] = "auto"
    """How JSON is asked for. auto asks with a schema, and by text alone once the endpoint refused that."""

    cache_entries: Annotated[int, Field(ge=0, le=1_000_000)] = 10_000
    """Scores remembered by content, so that the same content is judged once; 0 for none."""

    breaker_failures: Annotated[int, Field(ge=1, le=1_000)] = 5
    """Scores that fail one after the other before the judge is blocked for breaker_pause."""

    breaker_pause: Annotated[Seconds, Field(gt=0, le=86_400)] = 30.0
    """Pause after too many failures; then one call tries again."""

    blocked_pause: Annotated[Seconds, Field(gt=0, le=86_400)] = 300.0
    """Pause after the endpoint refused the key, the bill or the model; then one call tries again."""

    @model_validator(mode="after")
    def _needs_policy(self) -> JudgeSettings:
        if self.rubric == "policy_compliance" and not self.policy.strip():
            raise ValueError("policy_compliance needs a policy: write the rule that answers must follow")
        return self


class ScaleSettings(Settings):
    """How a score of another tool maps to [0, 1], higher is better."""

    low: float = 0.0
    """The worst value, mapped to 0. Larger than high where lower is better."""

    high: float = 1.0
    """The best value, mapped to 1."""

    labels: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default={})
    """Values of labels, for scores that come as a label alone."""

    @model_validator(mode="after")
    def _not_flat(self) -> ScaleSettings:
        if self.low == self.high:
            raise ValueError("low and high must differ")
        return self


class AnchorFileSettings(Settings):
    """Examples with people's labels that judges score again and again (drift.anchors says how they are used)."""

    file: Path | None = None
    """JSON lines: `{"id": "a1", "interaction": {…}, "labels": {"groundedness": 0.75}}`; a relative path starts at the
    configuration file's folder. None: no anchors, and nobody can tell a changed judge from a changed application."""

    rate: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Anchors scored per score that a judge gives to traces. Each costs a call of the model. Below 1 a judge's change
    shows later than the change of scores that it causes."""


def _default_rubrics() -> list[RubricSettings]:
    names = ("error", "latency", "refusal", "groundedness_lexical", "tool_calls", "length")
    return [RubricSettings(use=name) for name in names]


class ScorersSettings(Settings):
    """The scoring stage."""

    rubrics: list[RubricSettings] = Field(default_factory=_default_rubrics, max_length=200)
    """Rubrics that run on every kept trace."""

    judges: list[JudgeSettings] = Field(default=[], max_length=100)
    """Rubrics judged by a language model; none by default, because they need a key and cost money."""

    concurrency: Annotated[int, Field(ge=1, le=1_000)] = 32
    """Interactions scored at the same time."""

    max_spans_per_trace: Annotated[int, Field(ge=1, le=10_000)] = 100
    """LLM spans of one trace that span rubrics score at most; the rest is counted."""

    anchors: AnchorFileSettings = AnchorFileSettings()
    """Labelled examples that tell a changed judge from a changed application."""

    external: dict[str, ScaleSettings] = Field(default={}, max_length=1_000)
    """Scales of scores that come from other tools, by score name. Without one a value in [0, 1] is taken as it is."""

    max_clock_skew: Annotated[Seconds, Field(gt=0)] = 600.0
    """How far in the future of the log an interaction may lie; its time is the log's otherwise."""

    max_age: Annotated[Seconds, Field(gt=0)] = 7 * 86_400.0
    """How far in the past of the log an interaction may lie; its time is the log's otherwise."""
