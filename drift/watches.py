"""All watched cohorts of a partition: puts scores into units, units into watches, and their states into verdicts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from drift.pairing import UnitMean
from drift.present import PresentWindows
from drift.seen import id_hash
from drift.settings import DriftSettings, WatchSettings, nanos
from drift.units import Entry, UnitTable
from drift.watch import Watch
from stream.records import ScoreRecord, Verdict, VerdictState, stable_id

_COHORT = "watched/"
_SEVERITY: dict[VerdictState, Literal["none", "warn", "page"]] = {"regressed": "page", "warn": "warn"}

Count = Callable[..., None]


class WatchedCohort(msgspec.Struct):
    """The rubrics of one cohort of one watch."""

    key: str
    tenant: str
    watch: str
    attributes: dict[str, str]
    last: int = 0
    rubrics: list[Watch] = []

    @property
    def name(self) -> str:
        """As in cohort windows: ``key=value`` pairs, keys sorted."""
        return ",".join(f"{name}={self.attributes[name]}" for name in sorted(self.attributes))


class Watches:
    """Watched cohorts of one partition and their open units."""

    def __init__(self, settings: DriftSettings) -> None:
        self._watches = {watch.name: watch for watch in settings.watches}
        self._rubrics = {watch.name: frozenset(watch.rubrics) for watch in settings.watches}
        self._step = nanos(settings.bucket)
        self._cohorts: dict[str, WatchedCohort] = {}
        self._keys: dict[tuple[str, ...], str] = {}  # (tenant, watch, values) -> key
        self._count = dict.fromkeys(self._watches, 0)
        self._units = UnitTable(settings.units, prefix="watch-")
        self._changed: dict[str, None] = {}

    def add(self, score: ScoreRecord, weight: float, count: Count) -> None:
        """Put one usable score into its unit, per watch."""
        for name, watch in self._watches.items():
            if any(score.cohort.get(attribute) != value for attribute, value in watch.match.items()):
                continue
            cohort = self._cohort(score, name, watch)
            if cohort is None:
                count("watch_scores_excluded.too_many_cohorts")
                continue
            watched = score.rubric in self._rubrics[name]
            outcome, _ = self._units.add(
                id_hash(cohort.key, score.unit_id),
                cohort.key,
                "",
                Entry(
                    time_ns=score.time_unix_nano,
                    rubric=score.rubric if watched else "",
                    evaluator=score.evaluator.identity if watched else "",
                    value=score.value or 0.0,
                    weight=weight,
                    trace_id=score.trace_id if watched else "",
                ),
                is_session=score.unit_id != score.trace_id,
                close_step=self._step,
            )
            if outcome and outcome != "opened":
                count(f"watch_scores_excluded.{outcome}")

    def _cohort(self, score: ScoreRecord, name: str, watch: WatchSettings) -> WatchedCohort | None:
        values = tuple(score.cohort.get(attribute, "") for attribute in watch.cohort)
        place = (score.tenant, name, *values)
        key = self._keys.get(place)
        if key is None:
            if self._count[name] >= watch.max_cohorts:
                return None
            self._count[name] += 1
            key = stable_id("watch", *place)
            self._keys[place] = key
            present = nanos(watch.present_window) / 1e9
            self._cohorts[key] = WatchedCohort(
                key=key,
                tenant=score.tenant,
                watch=name,
                attributes=dict(zip(watch.cohort, values, strict=True)),
                last=score.time_unix_nano,
                rubrics=[
                    Watch(rubric=rubric, present=PresentWindows.over(present, self._step))
                    for rubric in watch.rubrics
                ],
            )
            self._changed[key] = None
        return self._cohorts[key]

    def tick(self, now: int, horizon: int, offset: int, count: Count) -> list[Verdict]:
        """Close what is over at ``horizon``, judge every watched cohort at ``now``, return the verdicts to publish."""
        while (end := self._units.next_end(horizon)) is not None:
            self._close(end, offset, count)
        streams: dict[str, int] = {}
        for cohort in self._cohorts.values():
            active = sum(one.baseline is not None for one in cohort.rubrics)
            streams[cohort.watch] = streams.get(cohort.watch, 0) + active
        verdicts = []
        for key in sorted(self._cohorts):
            verdicts += self._judge(self._cohorts[key], now, horizon, streams, offset)
        self._units.forget(now)
        self._forget(now)
        return verdicts

    def _close(self, end: int, offset: int, count: Count) -> None:
        units: dict[tuple[str, str], list[tuple[str, UnitMean]]] = {}
        for unit in self._units.close(end):
            count("watch_units_closed")
            cohort = self._cohorts.get(unit.scope)
            if cohort is not None:
                cohort.last = max(cohort.last, unit.end)
                self._changed[cohort.key] = None
            for rubric, item in unit.means.items():
                units.setdefault((unit.scope, rubric), []).append(item)
        for (key, rubric), items in units.items():
            cohort = self._cohorts.get(key)
            if cohort is None:
                continue
            settings = self._watches[cohort.watch]
            for watch in cohort.rubrics:
                if watch.rubric == rubric:
                    watch.take(end, items, settings, offset)

    def _judge(
        self, cohort: WatchedCohort, now: int, horizon: int, streams: Mapping[str, int], offset: int
    ) -> list[Verdict]:
        settings = self._watches[cohort.watch]
        report = nanos(settings.report_every)
        out = []
        for watch in cohort.rubrics:
            if not watch.evaluator:
                continue  # never scored
            alarm = watch.recovery is not None
            state, reason, evidence = watch.judge(now, horizon, streams[cohort.watch], settings, offset)
            if alarm != (watch.recovery is not None):
                self._changed[cohort.key] = None
            previous, watch.state = watch.state, state
            due = now // report > watch.reported // report
            if state == previous and not due:
                continue
            watch.reported = now
            self._changed[cohort.key] = None
            out.append(
                Verdict(
                    verdict_id=stable_id("drift", cohort.key, watch.rubric, state, previous or "", str(now)),
                    kind="drift",
                    tenant=sys.intern(cohort.tenant),  # see rollouts._verdict
                    time_unix_nano=now,
                    rollout=cohort.watch,
                    route=cohort.attributes.get("route", ""),
                    rubric=watch.rubric,
                    evaluator=watch.evaluator,
                    incumbent=f"baseline {watch.version}",
                    candidate=cohort.name,
                    state=state,
                    previous_state=previous,
                    severity=_SEVERITY.get(state, "none"),
                    reason=reason,
                    evidence=evidence,
                )
            )
        return out

    def _forget(self, now: int) -> None:
        for place, key in list(self._keys.items()):
            cohort = self._cohorts[key]
            if cohort.last < now - nanos(self._watches[cohort.watch].forget_after):
                self._count[cohort.watch] -= 1
                del self._cohorts[key], self._keys[place]
                self._changed[key] = None

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out = self._units.save()
        for key in self._changed:
            cohort = self._cohorts.get(key)
            out[_COHORT + key] = None if cohort is None else msgspec.msgpack.encode(cohort)
        self._changed.clear()
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state. Cohorts of watches that are no longer configured like this start anew."""
        for key, value in sorted(state.items()):
            if not key.startswith(_COHORT):
                continue
            cohort = msgspec.msgpack.decode(value, type=WatchedCohort)
            watch = self._watches.get(cohort.watch)
            if (
                watch is None
                or list(cohort.attributes) != watch.cohort
                or [one.rubric for one in cohort.rubrics] != watch.rubrics
            ):
                self._changed[cohort.key] = None
                continue
            self._cohorts[cohort.key] = cohort
            self._count[cohort.watch] += 1
            self._keys[(cohort.tenant, cohort.watch, *cohort.attributes.values())] = cohort.key
        self._units.restore(state)
