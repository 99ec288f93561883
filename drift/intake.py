"""Turn log records into scores, heartbeats and facts, or say why they will never be any.

:func:`decode` takes one record and names what is wrong with it. :func:`read` takes a batch at once and only tells which
records are scores in order, so that nearly all of them never come to :func:`decode`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.observations import Floats, Ints, Observations
from drift.origins import MAX_ATTRIBUTES, MAX_TEXT, Origin, Origins
from stream.errors import Permanent
from stream.records import (
    OPERATIONS_PREFIX,
    Evaluator,
    Heartbeat,
    OperationsRecord,
    ScoreRecord,
    TraceFacts,
)
from stream.stage import Record

MAX_RECORD_BYTES = 1 << 20
_LEAST_PROBABILITY = (
    2.0**-56
)  # of the sampling of OpenTelemetry; squares of far larger weights would be infinite
_MOST = 2**53  # above it a sum of doubles would not notice an addition
_LAST_TIME_NS = 4_102_444_800 * 1_000_000_000  # the year 2100: nothing honest is later


class _Kind(msgspec.Struct):
    type: str = ""


class _Beat(msgspec.Struct):
    """A heartbeat that says so: without a required ``type`` any broken score with a time would pass for one."""

    type: Literal["heartbeat"]
    time_unix_nano: int
    tenant: str = ""


_MAX_TRACES = 20_000
_KIND = msgspec.json.Decoder(_Kind)
_operations = msgspec.json.Decoder(OperationsRecord)
_scores = msgspec.json.Decoder(ScoreRecord)
_heartbeats = msgspec.json.Decoder(_Beat)


def decode(record: Record, max_skew_ns: int) -> ScoreRecord | Heartbeat | OperationsRecord:
    """Return the checked content of ``record``.

    Raises
    ------
    stream.errors.Permanent
        ``too_large``, ``undecodable``, ``bad_value``, ``bad_probability``, ``bad_time``, ``bad_id``, ``too_long``, or
        ``clock_skew`` (event time further ahead of the log's own time than ``max_skew_ns``). JSON knows neither NaN nor
        infinity, so a record that contains one is ``undecodable``.
    """
    if len(record.value) > MAX_RECORD_BYTES:
        raise Permanent("too_large", f"a score record is at most {MAX_RECORD_BYTES} bytes")
    item: ScoreRecord | Heartbeat
    try:
        item = _scores.decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # Scores are nearly all there is; only what fails as one is tried as something else.
        if (found := _as_operations(record)) is not None:
            return found
        try:
            beat = _heartbeats.decode(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Permanent("undecodable", "not a score record or heartbeat as in docs/records.md") from error
        item = Heartbeat(time_unix_nano=beat.time_unix_nano, tenant=beat.tenant)
    time_ns = item.time_unix_nano
    if not 0 < time_ns <= _LAST_TIME_NS:
        raise Permanent("bad_time", "time_unix_nano is not between 1970 and 2100")
    if record.timestamp_ns and time_ns > record.timestamp_ns + max_skew_ns:
        raise Permanent("clock_skew", "time_unix_nano is too far ahead of the time the log took the record")
    if isinstance(item, ScoreRecord):
        _check(item)
    return item


def _as_operations(record: Record) -> OperationsRecord | None:
    try:
        if not record.value.startswith(OPERATIONS_PREFIX) and _KIND.decode(record.value).type != "operations":
            return None
        found = _operations.decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    texts = (found.tenant, *found.cohort, *found.cohort.values())
    if (
        len(found.cohort) > MAX_ATTRIBUTES
        or max(map(len, texts)) > MAX_TEXT
        or len(found.traces) > _MAX_TRACES
    ):
        raise Permanent(
            "too_long",
            f"at most {MAX_ATTRIBUTES} cohort attributes, {MAX_TEXT} characters per text and {_MAX_TRACES} traces",
        )
    return found


def bad_facts(facts: TraceFacts, record: Record, max_skew_ns: int) -> str:
    """Return why the facts of one trace cannot be used: ``bad_time``, ``clock_skew``, ``bad_id``, ``bad_value``; else ""."""
    time_ns = facts.time_unix_nano
    if not 0 < time_ns <= _LAST_TIME_NS:
        return "bad_time"
    if record.timestamp_ns and time_ns > record.timestamp_ns + max_skew_ns:
        return "clock_skew"
    if (
        not facts.trace_id
        or max(len(facts.trace_id), len(facts.unit_id)) > MAX_TEXT
        or len(facts.flags) > MAX_ATTRIBUTES
    ):
        return "bad_id"
    numbers = (
        facts.latency_s, facts.first_token_s, facts.input_tokens, facts.output_tokens, facts.cached_tokens,
        facts.cost_usd, facts.tool_calls, facts.tool_failures,
    )  # fmt: skip
    if any(number is not None and not 0 <= number <= _MOST for number in numbers):
        return "bad_value"
    return "bad_value" if facts.tool_failures > facts.tool_calls else ""


def _check(score: ScoreRecord) -> None:
    if score.status == "scored":
        value = score.value
        if value is None or not math.isfinite(value) or not 0.0 <= value <= 1.0:
            raise Permanent("bad_value", "value of a scored record must be a number in [0, 1]")
    if not all(0 <= number < _MOST for number in (score.cost_usd, score.input_tokens, score.output_tokens)):
        raise Permanent("bad_value", "cost_usd, input_tokens and output_tokens must be in [0, 2^53)")
    p = score.probability
    if p is not None and not _LEAST_PROBABILITY <= p <= 1.0:
        raise Permanent("bad_probability", "probability must be in [2^-56, 1] or null")
    if not (score.score_id and score.unit_id and score.rubric):
        raise Permanent("bad_id", "score_id, unit_id and rubric must not be empty")
    evaluator = score.evaluator
    texts = (
        *_own_texts(score), evaluator.id, evaluator.version, evaluator.model, evaluator.prompt_hash,
        *score.cohort, *score.cohort.values(),
    )  # fmt: skip
    if len(score.cohort) > MAX_ATTRIBUTES or max(map(len, texts)) > MAX_TEXT:
        raise Permanent(
            "too_long", f"at most {MAX_ATTRIBUTES} cohort attributes and {MAX_TEXT} characters per text"
        )


class _Draft(ScoreRecord, frozen=True, kw_only=True, gc=False):
    """A score whose evaluator and cohort are left as JSON: few different ones come again and again."""

    evaluator: msgspec.Raw  # type: ignore[assignment]
    cohort: msgspec.Raw = msgspec.Raw(b"{}")  # type: ignore[assignment]


_MAX_WHOLE = 2**63 - 1
_drafts = msgspec.json.Decoder(_Draft)
_BLANK = _Draft(
    score_id="-", time_unix_nano=1, trace_id="", span_id="", unit_id="-", rubric="-", value=0.0,
    evaluator=msgspec.Raw(b'{"id":""}'),
)  # fmt: skip


class Columns(NamedTuple):
    """Scores of a batch, row i for record i. Where ``good`` is false the record must go through :func:`decode`.

    Of ``scores`` all but ``evaluator`` and ``cohort`` may be read; these are in ``origins``.
    """

    good: NDArray[np.bool_]
    scores: Sequence[ScoreRecord]
    origins: Sequence[Origin]
    times: Ints
    values: Floats
    weights: Floats  # NaN where the probability is unknown
    plain: NDArray[np.bool_]  # scored, no anchor, of the uniform lane, with a known probability

    def cut(self, start: int, end: int) -> Columns:
        """Return the rows from ``start`` to before ``end``."""
        if start == 0 and end == len(self.scores):
            return self
        return Columns._make(column[start:end] for column in self)

    def observations(self, rows: Sequence[int]) -> Observations:
        """Return ``rows``, which are plain."""
        scores = self.scores
        if len(rows) == len(scores):
            origins, values, weights, times = self.origins, self.values, self.weights, self.times
        else:
            scores, origins = [scores[row] for row in rows], [self.origins[row] for row in rows]
            values, weights, times = self.values[rows], self.weights[rows], self.times[rows]
        return Observations(
            origins,
            times.tolist(),
            values.tolist(),
            weights.tolist(),
            [score.unit_id for score in scores],
            [score.trace_id for score in scores],
        )


def read(records: Sequence[Record], max_skew_ns: int, origins: Origins) -> Columns:
    """Decode and check a batch at once.

    A record is good only if :func:`decode` would return it as a score; which of its checks fails is left to it.
    """
    drafts: list[_Draft] = []
    for record in records:
        try:
            drafts.append(_drafts.decode(record.value))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            drafts.append(_BLANK)
    good = np.array([draft is not _BLANK for draft in drafts], dtype=np.bool_)
    times = _whole([draft.time_unix_nano for draft in drafts])
    logged = _whole([record.timestamp_ns for record in records])
    good &= (times > 0) & (times <= _LAST_TIME_NS)
    good &= (logged == 0) | (times - max_skew_ns <= logged)
    values = np.array([draft.value for draft in drafts], dtype=np.float64)
    for row in np.flatnonzero(~((values >= 0.0) & (values <= 1.0))).tolist():
        good[row] &= drafts[row].status != "scored"
    probabilities = np.array([draft.probability for draft in drafts], dtype=np.float64)
    unknown = np.isnan(probabilities)  # of null: JSON has no NaN
    good &= unknown | ((probabilities >= _LEAST_PROBABILITY) & (probabilities <= 1.0))
    for spent in (
        [draft.cost_usd for draft in drafts],
        [draft.input_tokens for draft in drafts],
        [draft.output_tokens for draft in drafts],
    ):
        numbers = np.array(spent, dtype=np.float64)
        good &= (numbers >= 0.0) & (numbers < _MOST)
    if not all(draft.score_id and draft.unit_id and draft.rubric for draft in drafts):
        good &= [bool(draft.score_id and draft.unit_id and draft.rubric) for draft in drafts]
    # A text has at most as many characters as its record has bytes.
    sizes = [len(record.value) for record in records]
    if max(sizes, default=0) > MAX_TEXT:
        good &= [
            size <= MAX_TEXT or (size <= MAX_RECORD_BYTES and max(map(len, _own_texts(draft))) <= MAX_TEXT)
            for size, draft in zip(sizes, drafts, strict=True)
        ]
    found = _origins_of(drafts, good, origins)
    return Columns(
        good=good,
        scores=drafts,
        origins=found,
        times=times,
        values=values + 0.0,  # no negative zero
        weights=1.0 / np.where(good, probabilities, 1.0),
        plain=np.array(
            [draft.status == "scored" and draft.lane == "uniform" and not draft.anchor for draft in drafts],
            dtype=np.bool_,
        )
        & ~unknown,
    )


def _whole(numbers: list[int]) -> Ints:
    try:
        return np.array(numbers, dtype=np.int64)
    except (
        OverflowError
    ):  # JSON knows whole numbers of any size; the largest of 64 bits is no honest time either
        return np.array([max(-_MAX_WHOLE, min(_MAX_WHOLE, number)) for number in numbers], dtype=np.int64)


def one(score: ScoreRecord, origins: Origins) -> Columns:
    """Return a score that :func:`decode` returned as a batch of its own."""
    p = score.probability
    plain = score.status == "scored" and score.lane == "uniform" and not score.anchor and p is not None
    return Columns(
        good=np.ones(1, dtype=np.bool_),
        scores=[score],
        origins=[origins.of(score.tenant, score.rubric, score.evaluator, score.cohort)],
        times=np.array([score.time_unix_nano]),
        values=np.array([score.value or 0.0]),
        weights=np.array([np.nan if p is None else 1.0 / p]),
        plain=np.array([plain]),
    )


def _origins_of(drafts: Sequence[_Draft], good: NDArray[np.bool_], origins: Origins) -> list[Origin]:
    """Return the origins of ``drafts``; a row whose evaluator or cohort is bad is good no longer."""
    nowhere = origins.of("", "", Evaluator(id=""), {})
    known = origins.known
    found = []
    for row, (draft, is_good) in enumerate(zip(drafts, good.tolist(), strict=True)):
        evaluator, cohort = bytes(draft.evaluator), bytes(draft.cohort)
        origin = known.get((draft.tenant, draft.rubric, evaluator, cohort))
        if origin is None and is_good:
            try:
                origin = origins.written(draft.tenant, draft.rubric, evaluator, cohort)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                origin = None
        if origin is None:
            good[row] = False
            origin = nowhere
        found.append(origin)
    return found


def _own_texts(score: ScoreRecord) -> tuple[str, ...]:
    return (
        score.score_id, score.unit_id, score.rubric, score.tenant, score.trace_id, score.span_id, score.anchor,
    )  # fmt: skip
