"""What the drift stage can be told: views, windows, units and rollouts. Every default works without a file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from drift.direction import STREAMS
from stream.settings import Seconds, Settings

NANOS = 1_000_000_000
AUTO = "auto"
_FIFTH = 0.2  # of alpha, for severe rubrics and for operational streams each

Positive = Annotated[Seconds, Field(ge=0.1, le=366 * 86400)]


def nanos(seconds: float) -> int:
    """Return a duration in seconds as whole nanoseconds."""
    return round(seconds * NANOS)


def known_streams(value: list[str]) -> list[str]:
    """Return ``value`` if it names operational streams, each once; raises ValueError otherwise."""
    if unknown := set(value) - set(STREAMS):
        raise ValueError(f"{min(unknown)!r} is no operational stream; known: {', '.join(sorted(STREAMS))}")
    if len(set(value)) != len(value):
        raise ValueError("a stream is named twice")
    return value


class UnitSettings(Settings):
    """When the scores of one session are complete and become one observation."""

    idle: Positive = 120.0
    """A session is over when it has been silent for this long in event time."""
    trace_idle: Positive = 10.0
    """The same for a unit that is a single trace, which arrives whole; never longer than ``idle``."""
    max: Positive = 1800.0
    """A session is cut off this long after its first score."""
    remember: Positive = 7200.0
    """A session that comes back within this time after it was closed is not counted a second time."""
    max_open: int = Field(default=50_000, ge=100, le=5_000_000)
    """Open units kept per partition; further ones are refused and counted."""
    max_scores: int = Field(default=256, ge=1, le=10_000)
    """Scores kept per unit; further ones are left out and counted."""


class RolloutSettings(Settings):
    """One comparison of a candidate with an incumbent, made for every route (see ``scope``) on its own."""

    name: str = Field(default="prompt", min_length=1, max_length=128)
    """Name of the rollout in verdicts, incidents and rollback calls."""
    match: dict[str, str] = Field(default={}, max_length=32)
    """Only scores whose cohort has all these attributes take part, for example ``{route: support}``."""
    arm: str = Field(default="prompt_version", min_length=1, max_length=128)
    """The cohort attribute that tells candidate and incumbent apart."""
    scope: list[str] = Field(default=["route", "prompt_name"], max_length=8)
    """Only units that are equal in these attributes are compared; must contain ``route``, the key of the topic."""
    strata: list[str] = Field(default=[], max_length=4)
    """Cohort attributes within which units are paired, for example ``[user_cohort]`` or an intent. Name what is known
    about a request before it is answered and explains its score: decisions come sooner. Few values each."""
    incumbent: str = AUTO
    """Value of the arm attribute to compare with; ``auto``: the one with most recent units when a second appears."""
    candidate: str = AUTO
    """Value under test; ``auto``: every other value that appears next to the incumbent, each with its own gate."""
    rubrics: list[str] = Field(default=["groundedness_lexical", "refusal"], max_length=16)
    """The rubrics that may roll a candidate back. Few and named: the more rubrics, the more evidence each needs."""
    severe: list[str] = Field(default=[], max_length=16)
    """Rubrics of severe harm, for example a judge's ``toxicity`` or ``policy_compliance``: each is tested on its own,
    beside ``rubrics``, and may roll back after ``severe_min_units``."""
    severe_alpha: float | None = Field(default=None, gt=0.0, le=0.5)
    """Part of ``alpha`` for the rubrics in ``severe``: the largest probability that a candidate that is not worse is ever
    called ``regressed`` on any of them; default: a fifth of ``alpha``. Nothing is spent where ``severe`` is empty."""
    severe_min_units: int = Field(default=10, ge=2, le=1_000_000)
    """Units each arm must have before a decision about a rubric in ``severe``."""
    operations: list[str] = Field(default=["error_rate"], max_length=16)
    """Operational streams that may roll a candidate back, measured on all traffic before sampling: each is tested on
    its own, like ``severe``."""
    operations_alpha: float | None = Field(default=None, gt=0.0, le=0.5)
    """The same as ``severe_alpha`` for ``operations``. ``rubrics`` get what is left of ``alpha``."""
    margin: float = Field(default=0.02, ge=0.0, le=0.5)
    """A mean drop up to this size is tolerated: the hypothesis tested is "not worse by more than the margin"."""
    alpha: float = Field(default=0.05, gt=0.0, le=0.5)
    """Largest probability that a candidate that is not worse is ever called ``regressed``, and so rolled back, by anything:
    ``rubrics``, ``severe`` and ``operations`` together."""
    late_share: float = Field(default=0.55, gt=0.0, lt=1.0)
    """Share of each part of alpha for the e-SR detector (finds late regressions); the rest is for the e-process from the start."""
    max_units: int = Field(default=5000, ge=10, le=100_000_000)
    """N_max: pairs over which e-SR keeps its full sensitivity. Later it falls slowly; alpha holds at any length."""
    min_units: int = Field(default=30, ge=2, le=1_000_000)
    """Units each arm must have before any decision."""
    bucket: Positive | None = None
    """Candidate and incumbent units are paired when they end in the same bucket; default: the stage's bucket."""
    present_window: Positive = 900.0
    """The window that says how bad it is now; one four times as long is used where it holds too few units."""
    warn_size: float = Field(default=0.02, ge=0.0, le=1.0)
    """Present drop from which a rollout with some evidence (``warn_alpha``) is in state ``warn``."""
    page_size: float | None = Field(default=None, ge=0.0, le=1.0)
    """Present drop from which a proven regression pages and rolls back; default: the margin. With 0.05, smaller
    proven drops only warn."""
    warn_alpha: float = Field(default=0.1, gt=0.0, le=1.0)
    """Largest probability that a candidate that is not worse is ever in state ``warn`` for want of luck; for ``rubrics``,
    for ``severe`` and for ``operations`` each."""
    expected_share: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Intended share of the candidate among units of both arms; switches the sample-ratio check on. Leave it out
    while weights are being changed."""
    srm_alpha: float = Field(default=0.001, gt=0.0, le=0.1)
    """Largest probability that the sample-ratio check ever fires on a split that is as intended."""
    max_weight_ratio: float = Field(default=10.0, ge=1.0, le=1000.0)
    """Sampling weights above this multiple of the smallest recent weight are cut; bounds the loss of power."""
    no_data_after: Positive = 600.0
    """Event time without a score in an arm after which the state is ``no_data``, counted to where nothing older is awaited
    (``lateness`` behind the latest record)."""
    forget_after: Positive = 7 * 86400.0
    """Event time without a unit after which an arm, and the gate of a candidate, are forgotten."""
    max_arms: int = Field(default=16, ge=2, le=256)
    """Values of the arm attribute followed per scope; scores of further ones take no part and are counted."""

    @field_validator("scope")
    @classmethod
    def _scope_has_route(cls, value: list[str]) -> list[str]:
        if "route" not in value:
            raise ValueError(
                "scope must contain route: scores of different routes may be on different partitions"
            )
        return value

    @field_validator("operations")
    @classmethod
    def _known_operations(cls, value: list[str]) -> list[str]:
        return known_streams(value)

    @model_validator(mode="after")
    def _consistent(self) -> RolloutSettings:
        gated = [*self.rubrics, *self.severe, *self.operations]
        if wrong := (set(self.rubrics) | set(self.severe)) & set(STREAMS):
            raise ValueError(f"{min(wrong)!r} is an operational stream: name it in operations")
        if len(set(gated)) != len(gated):
            raise ValueError("a rubric is named twice")
        if not gated:
            raise ValueError("a rollout needs a rubric, a severe rubric or an operational stream")
        if self.arm in self.scope:
            raise ValueError(f"{self.arm!r} tells the arms apart and so cannot be in scope too")
        if self.arm in self.strata:
            raise ValueError(f"{self.arm!r} tells the arms apart: units of one stratum would never meet")
        if self.incumbent != AUTO and self.incumbent == self.candidate:
            raise ValueError("incumbent and candidate are the same")
        left = self._left()
        if left < 0.0 or (self.rubrics and left == 0.0):
            shares = {"severe_alpha": self.severe_share, "operations_alpha": self.operations_share}
            spent = " and ".join(f"{name} {share:g}" for name, share in shares.items() if share)
            raise ValueError(
                f"{spent} must together be {'less' if self.rubrics else 'no more'} than alpha {self.alpha:g}, which covers "
                "everything that can roll a candidate back; rubrics get what is left. Raise alpha, or lower the part (a "
                "fifth of alpha if you leave it out)"
            )
        return self

    def _left(self) -> float:
        # Rounded, so that .06 - .01 is .05: thresholds are printed and compared to the byte.
        return round(self.alpha - self.severe_share - self.operations_share, 12)

    @property
    def rubric_alpha(self) -> float:
        """Part of alpha for ``rubrics``: what severe rubrics and operational streams leave."""
        return self._left()

    @property
    def severe_share(self) -> float:
        """Part of alpha for ``severe``; 0 where there are none."""
        return self._share(self.severe_alpha) if self.severe else 0.0

    @property
    def operations_share(self) -> float:
        """Part of alpha for ``operations``; 0 where there are none."""
        return self._share(self.operations_alpha) if self.operations else 0.0

    def _share(self, given: float | None) -> float:
        return round(_FIFTH * self.alpha, 12) if given is None else given

    @property
    def size(self) -> float:
        """Present drop that a rollback needs."""
        return self.margin if self.page_size is None else self.page_size


class DigestSettings(Settings):
    """A summary over many cohorts in which the share of wrong findings is controlled (e-BH)."""

    period: Literal["off", "hour", "day"] = "day"
    """Stretch of event time, in UTC, that a digest is about."""
    alpha: float = Field(default=0.1, gt=0.0, le=0.5)
    """Largest expected share of cohorts that are not worse among those a digest names."""
    notify: bool = False
    """Whether a digest that names anything is a warning to the channels; `driftgate digest` shows it in any case."""


class BudgetSettings(Settings):
    """Money or tokens that may be spent in a period, summed over all traffic before sampling."""

    name: str = Field(default="budget", min_length=1, max_length=128)
    """Name of the budget in verdicts and incidents."""
    of: Literal["application", "judges"] = "application"
    """What is summed: what the watched application spends, or what judges spend on scoring it."""
    match: dict[str, str] = Field(default={}, max_length=32)
    """Only what has all these cohort attributes is summed."""
    per: list[str] = Field(default=["route"], max_length=8)
    """Every combination of these cohort attributes has the budget for itself, and every tenant; with ``of: judges`` also
    ``evaluator``. Without ``route``, and with several partitions, every partition has it for itself."""
    usd: float | None = Field(default=None, gt=0.0)
    """US dollars; give either this or tokens."""
    tokens: int | None = Field(default=None, gt=0)
    """Input and output tokens."""
    period: Literal["day", "month"] = "day"
    """UTC day or month of the event time."""
    warn_at: float = Field(default=0.8, gt=0.0, lt=1.0)
    """Share of the budget from which the state is ``warn``; at all of it the state is ``over_budget``, which pages."""
    max_entries: int = Field(default=1000, ge=1, le=100_000)
    """Combinations followed per partition; what belongs to further ones is not summed, and counted."""

    @model_validator(mode="after")
    def _one_limit(self) -> BudgetSettings:
        if (self.usd is None) == (self.tokens is None):
            raise ValueError("give either usd or tokens")
        if len(set(self.per)) != len(self.per):
            raise ValueError("per: an attribute is named twice")
        return self


class OperationSettings(Settings):
    """Operational streams: what every trace did, kept or not, as values in [0, 1]."""

    streams: list[str] = Field(default=list(STREAMS), max_length=32)
    """The streams that get rolling windows. A stream of which a trace reports nothing has no value for it."""
    metrics: list[Literal["latency_s", "first_token_s", "tokens_used", "cost_usd"]] = Field(
        default=["latency_s", "first_token_s", "tokens_used", "cost_usd"], max_length=4
    )
    """Metrics in their own units that get rolling windows too, with mean and quantiles. They are not tested."""
    slow: Positive = 10.0
    """``slow_rate`` is the share of traces that take longer: their 95th percentile is above it when the rate is above
    .05."""
    slow_first_token: Positive = 3.0
    """The same for the time to the first token, ``slow_first_token_rate``."""
    tokens: int = Field(default=20_000, ge=1, le=1_000_000_000)
    """``tokens`` is the number of input and output tokens of a trace over this, at most 1."""
    cost: float = Field(default=0.2, gt=0.0, le=1e9)
    """``cost`` is the cost of a trace in US dollars over this, at most 1."""

    _known = field_validator("streams")(known_streams)


class AnchorSettings(Settings):
    """How re-scored examples with human labels (scorers.anchors) tell a changed judge from a changed application."""

    learn: int = Field(default=200, ge=20, le=1_000_000)
    """Anchor scores of a judge and rubric from which its own baseline is learned, then frozen."""
    margin: float = Field(default=0.02, gt=0.0, le=0.5)
    """A shift of the judge up to this size is not looked for."""
    threshold: float = Field(default=10_000.0, ge=100.0, le=1e12)
    """e-SR threshold: a judge that has not changed is called changed once in so many anchor scores at most, on
    average, in each direction."""
    guard: int = Field(default=200, ge=1, le=1_000_000)
    """Anchor scores that must follow an alarm without a sign of the judge before it is attributed to the system."""
    window: Positive = 3600.0
    """Stretch of time over which the judge's shift is estimated."""


class WatchSettings(Settings):
    """Cohorts that are compared with their own past: a frozen baseline per hour of the week."""

    name: str = Field(default="cohorts", min_length=1, max_length=128)
    """Name of the watch in verdicts and incidents."""
    match: dict[str, str] = Field(default={}, max_length=32)
    """Only scores whose cohort has all these attributes take part."""
    cohort: list[str] = Field(default=["route", "prompt_version"], max_length=8)
    """Every combination of these attributes is watched on its own. Contains ``route``, the key of the topic; with
    ``prompt_version`` (or ``model``) a new version is another cohort and learns its own baseline."""
    rubrics: list[str] = Field(default=["groundedness_lexical", "refusal"], max_length=16)
    """The rubrics that are watched."""
    operations: list[str] = Field(
        default=["error_rate", "slow_rate", "cost", "tool_success_rate"], max_length=16
    )
    """The operational streams that are watched, on all traffic before sampling."""
    learn: Positive = 7 * 86400.0
    """Event time over which a baseline is learned; a week sees every hour of the week once."""
    min_units: int = Field(default=500, ge=50, le=100_000_000)
    """Units a baseline needs, over all hours, and in an hour of the week before that hour is expected to differ."""
    margin: float = Field(default=0.02, ge=0.001, le=0.5)
    """A drop below the baseline up to this size is not looked for; covers the baseline's own error too."""
    warn_size: float = Field(default=0.02, ge=0.0, le=1.0)
    """Present drop from which a proven drift warns."""
    page_size: float = Field(default=0.05, ge=0.0, le=1.0)
    """Present drop from which a proven drift pages."""
    false_pages_per_week: float = Field(default=1.0, gt=0.0, le=1000.0)
    """Alarm budget: false alarms per week, at most and on average, over all cohorts and rubrics of the watch on a
    partition. The threshold of each is their number times its units per week over this budget, at least 10,000."""
    present_window: Positive = 3600.0
    """The window that says how bad it is now; one four times as long is used where it holds too few units."""
    min_present: int = Field(default=30, ge=2, le=1_000_000)
    """Units the present window needs; below, the state is ``insufficient_data``. Also the units in a row that another
    evaluator alone must have scored before a new baseline is begun."""
    advisory: list[Literal["adwin", "page_hinkley"]] = Field(default=[], max_length=2)
    """Detectors of the river library that say in the reason of verdicts that scores moved; they need no baseline, their
    error rate is not controlled, and they never warn or page."""
    max_weight_ratio: float = Field(default=10.0, ge=1.0, le=1000.0)
    """Sampling weights above this multiple of the smallest one of the baseline are cut."""
    no_data_after: Positive = 3600.0
    """Event time without a unit after which the state is ``no_data`` (never notified: nights are silent)."""
    forget_after: Positive = 8 * 86400.0
    """Event time without a unit after which a cohort and its baseline are forgotten."""
    report_every: Positive = 3600.0
    """Event time between two progress verdicts of a rubric whose state has not changed."""
    digest: DigestSettings = DigestSettings()
    """Which of all cohorts and rubrics of the watch got worse in a period, found together."""
    max_cohorts: int = Field(default=200, ge=1, le=100_000)
    """Cohorts watched per partition; scores of further ones take no part and are counted."""

    @field_validator("cohort")
    @classmethod
    def _cohort_has_route(cls, value: list[str]) -> list[str]:
        if "route" not in value or len(set(value)) != len(value):
            raise ValueError("cohort is a list of different attributes and contains route")
        return value

    @field_validator("operations")
    @classmethod
    def _known_operations(cls, value: list[str]) -> list[str]:
        return known_streams(value)

    @model_validator(mode="after")
    def _consistent(self) -> WatchSettings:
        if len(set(self.rubrics)) != len(self.rubrics):
            raise ValueError("a rubric is named twice")
        if wrong := set(self.rubrics) & set(STREAMS):
            raise ValueError(f"{min(wrong)!r} is an operational stream: name it in operations")
        if not self.rubrics and not self.operations:
            raise ValueError("a watch needs a rubric or an operational stream")
        if self.page_size < self.warn_size:
            raise ValueError("page_size is smaller than warn_size")
        return self


class DriftSettings(Settings):
    """Stage 3: rolling windows per cohort, and a gate for every rollout."""

    views: list[list[str]] = Field(
        default=[["route"], ["route", "prompt_version"], ["route", "model"], ["route", "user_cohort"]],
        max_length=32,
    )
    """Each view is a list of cohort attributes; every combination of their values is a cohort with its own windows.
    A view contains ``route``, the key of the topic."""
    max_cohorts: int = Field(default=200, ge=1, le=100_000)
    """Live cohorts per tenant and view; scores of further ones go to one cohort called ``(other)``."""
    max_streams: int = Field(default=4000, ge=10, le=1_000_000)
    """Cohort and rubric combinations kept per partition (about 1 KB each for a rubric of five levels, 20 KB at most);
    further ones are counted."""
    windows: list[Positive] = Field(default=[900.0, 3600.0, 86400.0, 7 * 86400.0], max_length=16)
    """Lengths of the rolling windows."""
    bucket: Positive = 60.0
    """Length of the smallest pane of a window, and the step in which the stage acts."""
    lateness: Annotated[Seconds, Field(ge=0.0, le=86400.0)] = 120.0
    """How far event time may run ahead of a score that still counts; later ones are excluded and counted."""
    max_skew: Positive = 300.0
    """A record whose event time is this far ahead of the time the log took it is rejected: a wrong clock."""
    pass_threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    """A score passes when it is at least this; a value of a stream where lower is better, when 1 minus it is."""
    report_every: Positive = 60.0
    """Event time between two progress verdicts of a gate whose state has not changed."""
    units: UnitSettings = UnitSettings()
    """Session units."""
    rollouts: list[RolloutSettings] = Field(default=[RolloutSettings()], max_length=64)
    """The comparisons to make."""
    watches: list[WatchSettings] = Field(default=[], max_length=64)
    """Cohorts to compare with their own past, for example ``[{}]`` for the defaults; none unless named."""
    operations: OperationSettings = OperationSettings()
    """Operational streams, on all traffic."""
    budgets: list[BudgetSettings] = Field(default=[], max_length=64)
    """Budgets of money or tokens; none unless named."""
    anchors: AnchorSettings = AnchorSettings()
    """Judge or system: needs ``scorers.anchors``."""
    max_scopes: int = Field(default=1000, ge=1, le=100_000)
    """Routes (scopes) followed per partition over all rollouts; scores of further ones take no part and are counted."""

    @field_validator("views")
    @classmethod
    def _views_have_route(cls, value: list[list[str]]) -> list[list[str]]:
        for view in value:
            if "route" not in view or len(set(view)) != len(view):
                raise ValueError("a view is a list of different cohort attributes and contains route")
        if len({tuple(view) for view in value}) != len(value):
            raise ValueError("a view is listed twice")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> DriftSettings:
        names = [rollout.name for rollout in self.rollouts]
        if len(set(names)) != len(names):
            raise ValueError("two rollouts have the same name")
        if not self.windows or any(window < self.bucket for window in self.windows):
            raise ValueError("windows: at least one, and none shorter than the bucket")
        if len(set(self.windows)) != len(self.windows):
            raise ValueError("a window is listed twice")
        budgets = [budget.name for budget in self.budgets]
        if len(set(budgets)) != len(budgets):
            raise ValueError("two budgets have the same name")
        watches = [watch.name for watch in self.watches]
        if len(set(watches)) != len(watches):
            raise ValueError("two watches have the same name")
        for rollout in self.rollouts:
            if rollout.bucket is not None and rollout.bucket < self.bucket:
                raise ValueError(f"rollout {rollout.name!r}: its bucket is shorter than the stage's bucket")
        return self
