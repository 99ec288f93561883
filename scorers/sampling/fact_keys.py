"""The attributes that facts of traces are made of, and what each of them is good for.

Every key has a set of *uses*, bits that a span collects while it is read: who wants to sum tokens then looks only at
spans that have some.
"""

from __future__ import annotations

from collections.abc import Iterable

from scorers.loop_guard import ATTRIBUTE
from scorers.sampling.operations_settings import OperationsSettings
from stream.interaction_record import (
    ENVIRONMENT_KEYS,
    PROMPT_NAME_KEYS,
    PROMPT_VERSION_KEYS,
    ROUTE_KEYS,
    SERVICE_KEYS,
    SESSION_KEYS,
    USER_COHORT_KEYS,
    Kind,
)

KIND, FINISH, TELLING, ANNOTATED, ERROR, PASSED, AMOUNT = (
    1 << bit for bit in range(7)
)  # AMOUNT and the bits above are those of AMOUNTS

REQUEST_MODEL = ("gen_ai.request.model", "llm.request.model_name", "llm.model_name")
RESPONSE_MODEL = ("gen_ai.response.model", "llm.response.model_name")
INPUT_TOKENS = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
OUTPUT_TOKENS = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
)
CACHED_TOKENS = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "gen_ai.usage.cache_read_tokens",
    "gen_ai.usage.details.cache_read_tokens",
    "gen_ai.usage.details.cache_read_input_tokens",
    "gen_ai.usage.prompt_details.cache_read",
    "gen_ai.usage.input_cached_tokens",
    "llm.token_count.prompt_details.cache_read",
)
COSTS = (
    "gen_ai.usage.cost",
    "gen_ai.usage.total_cost",
    "gen_ai.usage.cost_usd",
    "driftgate.cost_usd",
    "llm.cost.total",
)
COST_HALVES = ("llm.cost.prompt", "llm.cost.completion")
AMOUNTS = (INPUT_TOKENS, OUTPUT_TOKENS, CACHED_TOKENS, (*COSTS, *COST_HALVES))
FIRST_TOKEN = ("gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token")
FINISH_REASONS = ("gen_ai.response.finish_reasons", "gen_ai.response.finish_reason", "llm.finish_reason")
STATUS_CODES = ("http.response.status_code", "http.status_code")
ERROR_TYPE = "error.type"
HTTP_ROUTE = "http.route"
OPERATION = "gen_ai.operation.name"
COHORTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("route", ROUTE_KEYS),
    ("prompt_name", PROMPT_NAME_KEYS),
    ("prompt_version", PROMPT_VERSION_KEYS),
    ("user_cohort", USER_COHORT_KEYS),
    ("service", SERVICE_KEYS),
    ("environment", ENVIRONMENT_KEYS),
)
_KIND_VALUES = (
    "openinference.span.kind",
    OPERATION,
    "traceloop.span.kind",
    "llm.request.type",
)
_KINDS = (
    *_KIND_VALUES,
    "gen_ai.tool.call.id",
    "gen_ai.tool.name",
    "tool.name",
    "db.vector.query.top_k",
)
# Keys whose presence alone says what a span is.
_PRESENT = (
    "gen_ai.prompt",
    "gen_ai.completion.",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "llm.input_messages.",
    "llm.output_messages.",
    "retrieval.documents.",
)
_ANNOTATIONS = tuple(
    f"{scope}{form}." for scope in ("", "trace.", "session.") for form in ("annotations", "evaluations")
)


class Shape:
    """What a set of keys is good for."""

    __slots__ = ("kind_keys", "kinds", "passed_down", "places", "present", "uses", "wanted")

    def __init__(
        self, uses: int, wanted: tuple[str, ...], passed_down: tuple[str, ...], present: tuple[str, ...]
    ) -> None:
        self.uses = uses
        self.wanted = wanted
        """Keys whose values matter."""
        self.passed_down = passed_down
        """Those among them that facts take from the answering span, or else from one above it."""
        self.present = dict.fromkeys(present, True)
        """Keys that matter only by being there."""
        self.kind_keys = tuple(key for key in _KIND_VALUES if key in wanted)
        self.kinds: dict[str | tuple[str, ...], tuple[Kind | None, bool]] = {}
        """What spans were by the values of ``kind_keys``, and whether they fetched a stored answer."""
        places = [next((key for key in names if key in wanted), None) for names in AMOUNTS]
        self.places = tuple("" if key in COST_HALVES else key for key in places)
        """Where each of :data:`AMOUNTS` is looked for first: ``None`` where there is none of it, empty where one key is
        not enough."""


class FactKeys:
    """Which attributes matter under given settings."""

    def __init__(self, settings: OperationsSettings, guardrail: tuple[str, ...]) -> None:
        uses: dict[str, int] = {}
        for bits, keys in (
            (KIND, _KINDS),
            (KIND | PASSED, (*REQUEST_MODEL, *RESPONSE_MODEL)),
            *((AMOUNT << number, names) for number, names in enumerate(AMOUNTS)),
            (FINISH, FINISH_REASONS),
            (ERROR, (ERROR_TYPE,)),
            (
                PASSED,
                (*SESSION_KEYS, *(key for _, names in COHORTS for key in names), *FIRST_TOKEN, ATTRIBUTE),
            ),
            (0, STATUS_CODES),
            (
                TELLING,
                (*guardrail, *settings.retry, *settings.fallback, *settings.cache_hit, *settings.escalation),
            ),
        ):
            for key in keys:
                uses[key] = uses.get(key, 0) | bits
        self._uses = uses

    def shape(self, names: Iterable[str]) -> Shape:
        """Return what spans with the keys ``names`` are good for."""
        uses = 0
        wanted: list[str] = []
        passed_down: list[str] = []
        present: list[str] = []
        for name in names:
            known = self._uses.get(name)
            if name.startswith(_PRESENT):
                uses |= KIND
                if known is None:
                    present.append(name)
            elif known is None and name.startswith(_ANNOTATIONS):
                uses |= ANNOTATED
            if known is not None:
                uses |= known
                wanted.append(name)
                if known & PASSED:
                    passed_down.append(name)
        return Shape(uses, tuple(wanted), tuple(passed_down), tuple(present))
