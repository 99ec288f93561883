"""How a verdict came about: its input run again, and what was seen on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from drift.replay import Replay, Replayed
from drift.settings import DriftSettings
from stream.records import ScoreRecord, Verdict
from stream.stage import Record

_EXAMPLES = 3  # traces named per reason
_BINS = 30  # points of an arm's curve
_scores = msgspec.json.Decoder(ScoreRecord)


class Left(msgspec.Struct):
    """Scores that were left out for one reason."""

    count: int = 0
    traces: list[str] = []


class Point(msgspec.Struct, frozen=True):
    """Mean of the units of one stretch of time, with its 95 % interval."""

    time_ns: int  # its middle
    mean: float
    low: float
    high: float
    units: int


class Story(msgspec.Struct):
    """What led to one verdict.

    ``history`` holds the verdicts about the same rubric and arms up to this one, oldest first. ``differences`` is what the
    replay gave otherwise (empty: reproduced to the byte), ``None`` if there was no input to run.
    """

    verdict: Verdict
    history: list[Verdict] = []
    differences: list[str] | None = None
    source: str = ""
    scores: int = 0  # of the rubric, in the verdict's scope
    left: dict[str, Left] = {}
    arms: dict[str, list[Point]] = {}


def tested(history: list[Verdict]) -> list[Verdict]:
    """Return ``history`` without the time in which the last baseline was still being learned."""
    learning = [
        place for place, one in enumerate(history) if one.kind == "drift" and not one.evidence.candidate_units
    ]
    rest = history[learning[-1] + 1 :] if learning else history
    return rest or history[-1:]


def same_stream(one: Verdict, other: Verdict) -> bool:
    """Whether two verdicts are about the same rubric of the same arms."""
    return _stream(one) == _stream(other)


def _stream(verdict: Verdict) -> tuple[str, ...]:
    return (
        verdict.kind, verdict.tenant, verdict.rollout, verdict.route, verdict.rubric, verdict.arm, verdict.candidate,
        # A baseline that was learned anew is part of the same story.
        verdict.incumbent if verdict.kind == "canary" else "",
    )  # fmt: skip


class Reader:
    """Runs the input of a verdict and notes what belongs to it."""

    def __init__(self, verdict: Verdict, settings: DriftSettings) -> None:
        self._verdict = verdict
        self._settings = settings
        self.story = Story(verdict)
        self.counters: dict[str, int] = {}
        self._units: dict[tuple[str, str], list[float]] = {}  # (arm, unit) -> sum wx, sum w, n, last time

    def read(self, records: Iterable[Record]) -> Replayed | None:
        """Replay until the verdict comes; return it, ``None`` if it never does."""
        replay = Replay(self._settings)
        self.counters = replay.counters
        found = None
        for record in records:
            verdicts, counted = replay.apply([record])
            self._note(record, counted)
            for item in verdicts:
                if same_stream(item.verdict, self._verdict):
                    self.story.history.append(item.verdict)
                if item.verdict.verdict_id == self._verdict.verdict_id:
                    found = item
            if found is not None:
                break
        self._draw_arms()
        return found

    def _note(self, record: Record, counted: Mapping[str, int]) -> None:
        try:
            score = _scores.decode(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        arm = self._arm(score)
        if arm is None:
            return
        self.story.scores += 1
        reasons = [name for name in counted if name.startswith(self._reasons())]
        for name in reasons:
            left = self.story.left.setdefault(name.partition(".")[2], Left(traces=[]))
            left.count += 1
            if len(left.traces) < _EXAMPLES:
                left.traces.append(score.trace_id)
        if not reasons and score.value is not None and score.probability:
            sums = self._units.setdefault((arm, score.unit_id), [0.0, 0.0, 0.0, 0.0])
            weight = 1.0 / score.probability
            sums[0] += weight * score.value
            sums[1] += weight
            sums[2] += 1.0
            sums[3] = max(sums[3], float(score.time_unix_nano))

    def _reasons(self) -> tuple[str, ...]:
        own = "watch_scores_excluded." if self._verdict.kind == "drift" else "unit_scores_excluded."
        return "scores_excluded.", "scores_rejected.", own

    def _arm(self, score: ScoreRecord) -> str | None:
        """Return the arm that ``score`` belongs to; ``None`` if it has nothing to do with the verdict."""
        verdict = self._verdict
        if score.rubric != verdict.rubric or score.tenant != verdict.tenant:
            return None
        if verdict.kind == "canary":
            arm = score.cohort.get(verdict.arm, "")
            here = score.cohort.get("route", "") == verdict.route
            return arm if here and arm in (verdict.candidate, verdict.incumbent) else None
        for watch in self._settings.watches:
            if watch.name == verdict.rollout:
                name = ",".join(f"{one}={score.cohort.get(one, '')}" for one in sorted(watch.cohort))
                return name if name == verdict.candidate else None
        return None

    def _draw_arms(self) -> None:
        if not self._units or not self.story.history:
            return
        first = tested(self.story.history)[0]
        window = max((one.seconds for one in first.evidence.windows), default=900)
        start = min((sums[3] for sums in self._units.values()), default=0.0)
        start = max(start, first.time_unix_nano - window * 1e9)
        end = float(self._verdict.time_unix_nano)
        width = max((end - start) / _BINS, 1.0)
        bins: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for (arm, _), (wx, w, n, last) in self._units.items():
            if start <= last <= end:
                bins.setdefault((arm, min(_BINS - 1, int((last - start) / width))), []).append(
                    (wx / w, w / n)
                )
        for (arm, place), units in sorted(bins.items()):
            point = _point(round(start + (place + 0.5) * width), units)
            if point is not None:
                self.story.arms.setdefault(arm, []).append(point)


def _point(time_ns: int, units: list[tuple[float, float]]) -> Point | None:
    if len(units) < 2:
        return None
    total = math.fsum(w for _, w in units)
    mean = math.fsum(w * x for x, w in units) / total
    spread = math.fsum((w * (x - mean)) ** 2 for x, w in units) / total**2 * len(units) / (len(units) - 1)
    error = 1.96 * math.sqrt(spread)
    return Point(time_ns, mean, max(0.0, mean - error), min(1.0, mean + error), len(units))
