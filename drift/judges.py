"""All judges of a partition that score labelled examples, and verdicts about the judges themselves."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from drift.anchors import JudgeMonitor
from drift.observations import Observations
from drift.part import part_of
from drift.settings import AnchorSettings
from stream.records import Evidence, ScoreRecord, Verdict, VerdictState, stable_id

_PREFIX = "judge/"
_JUDGED = "judged"
_JUDGES = ("judge", "external")  # what scores elsewhere may be a model too
_MAX_JUDGES = 256
_MAX_NOTED = 4 * _MAX_JUDGES
_FORGET = 8 * 86400 * 1_000_000_000
ROLLOUT = "anchors"
"""Stands where a verdict names a rollout or watch."""


class _Kept(msgspec.Struct):
    rubric: str
    evaluator: str
    monitor: JudgeMonitor


class Judges:
    """One :class:`drift.anchors.JudgeMonitor` per rubric and evaluator, over all tenants and routes of a partition."""

    def __init__(self, settings: AnchorSettings, partition: int = 0) -> None:
        self.settings = settings
        self._part = part_of(partition)
        self._monitors: dict[tuple[str, str], JudgeMonitor] = {}
        self._judged: set[str] = set()  # evaluators that are judges
        self._changed: dict[tuple[str, str], None] = {}
        self._judged_changed = False

    def note(self, seen: Observations) -> None:
        """Remember which evaluators are judges: only those can drift by themselves."""
        fresh = {
            group.origin.identity
            for group in seen.groups
            if group.origin.evaluator.kind in _JUDGES and group.origin.identity not in self._judged
        }
        if not fresh:
            return
        self._judged_changed = True
        if len(self._judged) + len(fresh) <= _MAX_NOTED:
            self._judged |= fresh
            return
        for (
            origin
        ) in seen.origins:  # one by one, so that nothing depends on how the scores were cut into batches
            if origin.evaluator.kind in _JUDGES and origin.identity not in self._judged:
                if len(self._judged) >= _MAX_NOTED:
                    self._judged.clear()
                self._judged.add(origin.identity)

    def is_judge(self, evaluator: str) -> bool:
        """Whether scores of ``evaluator`` may move although the application does not."""
        return evaluator in self._judged

    def take(self, score: ScoreRecord, evaluator: str) -> str:
        """Take one score of an anchor by ``evaluator`` (identity); return why it was left out, if it was."""
        if score.reference is None or not 0.0 <= score.reference <= 1.0:
            return "anchor_without_label"
        place = (score.rubric, evaluator)
        monitor = self._monitors.get(place)
        if monitor is None:
            if len(self._monitors) >= _MAX_JUDGES:
                return "too_many_judges"
            monitor = self._monitors[place] = JudgeMonitor()
        monitor.take(
            score.anchor, score.time_unix_nano, score.value or 0.0, score.reference, self.settings
        )  # fmt: skip
        self._changed[place] = None
        return ""

    def find(self, rubric: str, evaluator: str) -> JudgeMonitor | None:
        """Return what anchors say about ``evaluator``, None if it scores none."""
        return self._monitors.get((rubric, evaluator))

    def tick(self, now: int, offset: int) -> list[Verdict]:
        """Return a verdict for every judge whose state changed."""
        out = []
        for place, monitor in sorted(self._monitors.items()):
            if monitor.last < now - _FORGET:
                del self._monitors[place]
                self._changed[place] = None
                continue
            state: VerdictState = "warming_up"
            if monitor.ready:
                state = "judge_changed" if monitor.changed(self.settings) else "ok"
            if state == monitor.state:
                continue
            out.append(self._verdict(*place, monitor, state, now, offset))
            monitor.state = state
            self._changed[place] = None
        return out

    def _verdict(
        self, rubric: str, evaluator: str, monitor: JudgeMonitor, state: VerdictState, now: int, offset: int
    ) -> Verdict:
        told = monitor.evidence(now, self.settings)
        if state == "judge_changed":
            shift = f" by {told.shift:+.3f}" if told.shift is not None else ""
            reason = f"{evaluator} scores the same labelled examples differently from before{shift}; scores moved with it."
        else:
            reason = f"{evaluator} scores labelled examples as it did when its baseline was learned."
        return Verdict(
            verdict_id=stable_id("judge", rubric, evaluator, state, monitor.state, str(now), *self._part),
            kind="drift",
            time_unix_nano=now,
            rollout=ROLLOUT,
            rubric=rubric,
            evaluator=evaluator,
            candidate=",".join([evaluator, *self._part]),
            state=state,
            previous_state=monitor.state,  # type: ignore[arg-type]
            severity="warn" if state == "judge_changed" else "none",
            attribution="judge" if state == "judge_changed" else "",
            reason=reason,
            evidence=Evidence(judge=told, last_offset=offset),
        )

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out: dict[str, bytes | None] = {}
        for rubric, evaluator in self._changed:
            monitor = self._monitors.get((rubric, evaluator))
            key = _PREFIX + stable_id(rubric, evaluator)
            out[key] = None if monitor is None else msgspec.msgpack.encode(_Kept(rubric, evaluator, monitor))
        self._changed.clear()
        if self._judged_changed:
            out[_JUDGED] = msgspec.msgpack.encode(sorted(self._judged))
            self._judged_changed = False
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        for key, value in state.items():
            if key.startswith(_PREFIX):
                kept = msgspec.msgpack.decode(value, type=_Kept)
                self._monitors[kept.rubric, kept.evaluator] = kept.monitor
        if _JUDGED in state:
            self._judged = set(msgspec.msgpack.decode(state[_JUDGED], type=list[str]))
