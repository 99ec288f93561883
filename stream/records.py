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
TOPIC_SAMPLED = "traces.sampled"
TOPIC_SCORES = "scores"
TOPIC_WINDOWS = "cohort_windows"
TOPIC_VERDICTS = "verdicts"
TOPIC_DEAD_LETTERS = "dead_letters"

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
]


class WindowEvidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How bad it is now: weighted (Hájek) means of one rolling window that ends at the verdict's time."""

    seconds: int
    incumbent_mean: float | None = None
    candidate_mean: float | None = None
    difference: float | None = None  # candidate minus incumbent
    standard_error: float | None = None
    incumbent_n: int = 0
    candidate_n: int = 0


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
    first_offset: int = 0
    last_offset: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision about a rollout or a cohort, on the ``verdicts`` topic. The same records give the same verdict."""

    type: Literal["verdict"] = "verdict"
    verdict_id: str
    kind: Literal["canary", "drift"]
    tenant: str = "default"
    time_unix_nano: int
    rollout: str = ""  # name of the rollout (canary) or of the cohort view (drift)
    route: str = ""
    rubric: str
    evaluator: str = ""  # Evaluator.identity
    arm: str = ""  # the attribute that tells the arms apart, for example prompt_version
    incumbent: str = ""
    candidate: str = ""
    state: VerdictState
    previous_state: VerdictState | None = None
    severity: Literal["none", "warn", "page"] = "none"
    action: Literal["none", "rollback", "promote"] = "none"
    reason: str = ""  # one sentence for people
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
