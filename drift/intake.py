"""Turn one log record into a score or a heartbeat, or say why it will never be one."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from stream.errors import Permanent
from stream.records import Heartbeat, ScoreRecord
from stream.stage import Record

MAX_RECORD_BYTES = 1 << 20
_MAX_TEXT = 512  # ids, rubric, evaluator, cohort keys and values
_MAX_ATTRIBUTES = 32
_LAST_TIME_NS = 4_102_444_800 * 1_000_000_000  # the year 2100: nothing honest is later


class _Beat(msgspec.Struct):
    """A heartbeat that says so: without a required ``type`` any broken score with a time would pass for one."""

    type: Literal["heartbeat"]
    time_unix_nano: int
    tenant: str = ""


_scores = msgspec.json.Decoder(ScoreRecord)
_heartbeats = msgspec.json.Decoder(_Beat)


def decode(record: Record, max_skew_ns: int) -> ScoreRecord | Heartbeat:
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
        # Scores are nearly all there is; only what fails as one is tried as a heartbeat.
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


def _check(score: ScoreRecord) -> None:
    if score.status == "scored":
        value = score.value
        if value is None or not math.isfinite(value) or not 0.0 <= value <= 1.0:
            raise Permanent("bad_value", "value of a scored record must be a number in [0, 1]")
    p = score.probability
    if p is not None and (not math.isfinite(p) or not 0.0 < p <= 1.0):
        raise Permanent("bad_probability", "probability must be in (0, 1] or null")
    if not (score.score_id and score.unit_id and score.rubric):
        raise Permanent("bad_id", "score_id, unit_id and rubric must not be empty")
    evaluator = score.evaluator
    texts = (
        score.score_id, score.unit_id, score.rubric, score.tenant, score.trace_id, score.span_id,
        evaluator.id, evaluator.version, evaluator.model, evaluator.prompt_hash, *score.cohort, *score.cohort.values(),
    )  # fmt: skip
    if len(score.cohort) > _MAX_ATTRIBUTES or max(map(len, texts)) > _MAX_TEXT:
        raise Permanent(
            "too_long", f"at most {_MAX_ATTRIBUTES} cohort attributes and {_MAX_TEXT} characters per text"
        )
