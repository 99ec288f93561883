"""The records that flow between the stages, and their JSON form.

Times are Unix nanoseconds (``time_unix_nano``, as in OTLP), ids are lower-case hex, probabilities lie in (0, 1].
``docs/records.md`` is the public description of what is defined here.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

TOPIC_SPANS = "otlp_spans"
TOPIC_LOGS = "otlp_logs"
TOPIC_FOREIGN_SPANS = "otlp_spans.foreign"  # of other producers, not redacted yet
TOPIC_FOREIGN_LOGS = "otlp_logs.foreign"
TOPIC_SAMPLED = "traces.sampled"
TOPIC_SCORES = "scores"
TOPIC_WINDOWS = "cohort_windows"
TOPIC_VERDICTS = "verdicts"
TOPIC_DEAD_LETTERS = "dead_letters"
TOPIC_QUARANTINE = (
    "quarantine"  # what could not be redacted, sealed: the only topic that may hold personal data
)

OPERATIONS_PREFIX = b'{"type":"operations"'
"""How an operations record on the ``scores`` topic begins; scores and heartbeats begin otherwise."""

# Header names on log records. Values are UTF-8.
HEADER_TENANT = "tenant"
HEADER_POLICY_VERSION = "redaction-policy"  # version of the redaction rules that cleaned the payload
HEADER_LANE = "lane"  # "uniform" or "triage"
HEADER_POLICY = "policy"  # sampling policy that is credited with keeping the trace
HEADER_PROBABILITY = "probability"  # inclusion probability in (0, 1], repr of a float
HEADER_LATE = "late"  # "1": spans that came after their trace was decided

Lane = Literal["uniform", "triage"]
ScoreStatus = Literal["scored", "skipped", "failed"]
EvaluatorKind = Literal["code", "judge", "external", "feedback"]


class Evaluator(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who gave a score. A changed judge model, prompt or version is another evaluator and starts a new baseline."""

    id: str
    kind: EvaluatorKind = "code"
    version: str = "1"
    model: str = ""
    prompt_hash: str = ""

    @property
    def identity(self) -> str:
        """What must stay equal for two scores to be compared."""
        return "/".join(part for part in (self.id, self.version, self.model, self.prompt_hash) if part)


class ScoreRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rubric's answer about one interaction, on the ``scores`` topic.

    ``value`` lies in [0, 1], higher is better, and is set exactly when ``status`` is ``"scored"``.
    ``probability`` is the inclusion probability of the trace; ``None`` when it is unknown (a rate-limited
    policy), and such a score never enters a test. ``unit_id`` is the session or conversation, else the trace.
    """

    type: Literal["score"] = "score"
    score_id: str
    tenant: str = "default"
    time_unix_nano: int
    trace_id: str
    span_id: str
    unit_id: str
    rubric: str
    evaluator: Evaluator
    status: ScoreStatus = "scored"
    value: float | None = None
    label: str = ""
    explanation: str = ""
    reason: str = ""  # why it was skipped or failed; a short word
    cost_usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    lane: Lane = "uniform"
    policy: str = ""
    probability: float | None = 1.0
    cohort: dict[str, str] = {}  # route, prompt_version, model, user_cohort, service, environment, ...
    anchor: str = ""  # id of the labelled example that was scored; such a score tells about the judge only
    reference: float | None = None  # what people gave that example, in [0, 1]


class TraceFacts(msgspec.Struct, frozen=True, array_like=True):
    """What one trace did, whether it was kept or not; ``None`` is "not reported"."""

    trace_id: str
    time_unix_nano: int  # when it ended
    unit_id: str = ""  # session or conversation; empty where there is none
    flags: list[str] = []  # error, timeout, retry, fallback, guardrail, negative_feedback, escalation
    latency_s: float | None = None
    first_token_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None
    tool_calls: int = 0
    tool_failures: int = 0
    cache_hit: bool | None = None


class OperationsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of all traces of one cohort that the sampler decided in one go, on the ``scores`` topic.

    They are taken before sampling, so each trace counts once, with probability 1.
    """

    type: Literal["operations"] = "operations"
    tenant: str = "default"
    cohort: dict[str, str] = {}
    traces: list[TraceFacts] = []


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """Says on the ``scores`` topic that event time has reached ``time_unix_nano`` though no score came.

    Silence is an alarm: heartbeats let the drift stage say ``no_data`` from the log alone, so that a replay
    of the log says it at the same place.
    """

    type: Literal["heartbeat"] = "heartbeat"
    time_unix_nano: int
    tenant: str = ""


VerdictState = Literal[
    "warming_up",
    "insufficient_data",
    "ok",
    "warn",
    "regressed",
    "non_inferior",
    "judge_changed",
    "sample_ratio_mismatch",
    "no_data",
    "over_budget",
]

Attribution = Literal["", "system", "judge", "both", "unknown"]
"""What moved: the application, the judge that scores it, both, or not known (yet). Empty where nothing is bad."""


class WindowEvidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How bad it is now: weighted (Hájek) means of one rolling window that ends at the verdict's time."""

    seconds: int
    incumbent_mean: float | None = None
    candidate_mean: float | None = None
    difference: float | None = None  # candidate minus incumbent
    standard_error: float | None = None
    incumbent_n: int = 0
    candidate_n: int = 0


class JudgeEvidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What labelled examples (anchors), scored again and again, say about a judge."""

    anchors: int = 0  # anchor scores since the judge's own baseline was learned
    guard_left: int = 0  # anchor scores still to come before "not the judge" may be said
    lower_value: float = 0.0  # e-SR against "the judge has not become stricter"
    higher_value: float = 0.0  # the same for more lenient
    threshold: float = 0.0
    shift: float | None = None  # mean change of its scores over the window, on the same anchors
    shift_error: float | None = None  # standard error of it
    bias: float | None = None  # judge minus people over the window
    remaining: float | None = (
        None  # change of the cohort since the alarm that the judge's shift does not explain
    )
    remaining_value: float = 0.0  # e-value against "it explains all of it"
    seconds: int = 0  # the window


class BudgetEvidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much of a budget is used up."""

    period: Literal["day", "month"] = "day"
    start_unix_nano: int = 0
    unit: Literal["usd", "tokens"] = "usd"
    used: float = 0.0
    limit: float = 0.0
    projected: float | None = None  # at the end of the period, if it goes on as it has


class DigestEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stream of a digest: a cohort and rubric over one period."""

    cohort: str
    rubric: str
    e_value: float
    worse: bool = False  # found by e-BH
    units: int = 0
    mean: float | None = None
    expected: float | None = None


class DigestEvidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """e-BH over all streams of a watch in one period."""

    start_unix_nano: int = 0
    end_unix_nano: int = 0
    streams: int = 0  # hypotheses, those without news included
    alpha: float = 0.0
    found: int = 0
    entries: list[DigestEntry] = []  # largest e-values first, at most 200


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a verdict rests on; enough for a person to check it and for a program to draw it."""

    e_value: float = 1.0
    e_threshold: float = 0.0
    sr_value: float = 0.0
    sr_threshold: float = 0.0
    alpha: float = 0.0
    margin: float = 0.0
    pairs: int = 0
    mean_difference: float | None = None  # mean of all paired differences since the start
    interval_low: float | None = None  # always-valid confidence sequence for the mean difference
    interval_high: float | None = None
    candidate_units: int = 0
    incumbent_units: int = 0
    effective_units: float = 0.0  # Kish effective number of candidate units
    sample_ratio_p: float | None = None
    contaminated_units: int = 0
    windows: list[WindowEvidence] = []
    worst_trace_ids: list[str] = []
    earlier_settings: list[str] = []  # that the gate had before those of the verdict, first to last
    first_offset: int = 0
    last_offset: int = 0
    lower_is_better: bool = False  # means and differences are in the rubric's own direction
    judge: JudgeEvidence | None = None
    budget: BudgetEvidence | None = None
    digest: DigestEvidence | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision about a rollout or a cohort, on the ``verdicts`` topic. The same records give the same verdict."""

    type: Literal["verdict"] = "verdict"
    verdict_id: str
    kind: Literal["canary", "drift", "budget", "digest"]
    tenant: str = "default"
    time_unix_nano: int
    rollout: str = ""  # name of the rollout (canary), the watch (drift, digest) or the budget
    route: str = ""
    prompt_name: str = ""
    rubric: str
    evaluator: str = ""  # Evaluator.identity
    arm: str = ""  # the attribute that tells the arms apart, for example prompt_version
    incumbent: str = ""
    candidate: str = ""
    state: VerdictState
    previous_state: VerdictState | None = None
    severity: Literal["none", "warn", "page"] = "none"
    action: Literal["none", "rollback", "promote"] = "none"
    attribution: Attribution = ""
    reason: str = ""  # one sentence for people
    settings: str = ""  # names the drift settings it was made with
    evidence: Evidence = Evidence()


class CohortWindow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rolling window of one cohort and rubric; a later ``version`` replaces an earlier one."""

    type: Literal["window"] = "window"
    tenant: str = "default"
    view: str
    cohort: str  # "key=value" pairs joined with ",", keys sorted; "(other)" for the overflow
    attributes: dict[str, str] = {}
    rubric: str
    evaluator: str = ""
    window_seconds: int
    end_unix_nano: int
    n: int
    n_eff: float
    mean: float | None = None
    standard_error: float | None = None
    pass_rate: float | None = None
    worst_decile_mean: float | None = None
    p5: float | None = None
    p50: float | None = None
    p95: float | None = None
    weight: float = 0.0  # sum of 1/probability
    levels: dict[str, int] = {}  # exact counts per score level
    version: int = 0  # log offset the window includes; grows with every correction


def stable_id(*parts: str) -> str:
    """Return a deterministic id of 32 hex digits (BLAKE2b-128 over length-prefixed UTF-8 parts)."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()
