"""All watched cohorts of a partition: puts scores into units, units into watches, and their states into verdicts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from drift.by_origin import ByOrigin
from drift.change_detector import Task, update_all
from drift.digests import Digests, WatchedCohort
from drift.direction import in_own_direction
from drift.judges import Judges
from drift.observations import Observations
from drift.origins import Origin
from drift.pairing import UnitMean
from drift.present import PresentWindows
from drift.settings import DriftSettings, WatchSettings, nanos
from drift.unit_journal import Place
from drift.units import UnitTable
from drift.watch import Watch
from stream.records import Attribution, Evidence, JudgeEvidence, Verdict, VerdictState, stable_id

_COHORT = "watched/"
_SEVERITY: dict[VerdictState, Literal["none", "warn", "page"]] = {"regressed": "page", "warn": "warn"}

Count = Callable[..., None]


class Watches:
    """Watched cohorts of one partition and their open units."""

    def __init__(self, settings: DriftSettings, judges: Judges | None = None) -> None:
        self._judges = judges or Judges(settings.anchors)
        self._anchors = settings.anchors
        self._digests = Digests(settings)
        self._watches = {watch.name: watch for watch in settings.watches}
        self._rubrics = {watch.name: frozenset(watch.rubrics) for watch in settings.watches}
        self._step = nanos(settings.bucket)
        self._cohorts: dict[str, WatchedCohort] = {}
        self._keys: dict[tuple[str, ...], str] = {}  # (tenant, watch, values) -> key
        self._count = dict.fromkeys(self._watches, 0)
        self._units = UnitTable(settings.units, prefix="watch-")
        self._changed: dict[str, None] = {}
        self._places = ByOrigin(self._places_of)

    def add(self, seen: Observations, count: Count) -> None:
        """Put usable scores into their units, per watch."""
        if not self._watches:
            return
        for group, (_, refused) in self._places.groups(seen):
            if refused:
                count("watch_scores_excluded.too_many_cohorts", refused * len(group.rows))
        places: list[Place] = []
        rows: list[int] = []
        for row, origin in enumerate(seen.origins):
            for place in self._places.known[origin.number][0]:
                places.append(place)
                rows.append(row)
        _, _, refusals = self._units.add_all(places, rows, seen)
        for reason, number in refusals.items():
            count(f"watch_scores_excluded.{reason}", number)

    def _places_of(self, origin: Origin, time_ns: int) -> tuple[list[Place], int]:
        """Return where the scores of one origin belong, and in how many watches there is no room for them.

        What is remembered here is forgotten when a tick gives up a cohort.
        """
        places: list[Place] = []
        refused = 0
        for name, watch in self._watches.items():
            if any(origin.cohort.get(attribute) != value for attribute, value in watch.match.items()):
                continue
            cohort = self._cohort(origin, name, watch, time_ns)
            if cohort is None:
                refused += 1
                continue
            watched = origin.rubric in self._rubrics[name]
            places.append(
                Place(
                    scope=cohort.key,
                    arm="",
                    close_step=self._step,
                    rubric=origin.rubric if watched else "",
                    evaluator=origin.identity if watched else "",
                )
            )
        return places, refused

    def _cohort(self, origin: Origin, name: str, watch: WatchSettings, time_ns: int) -> WatchedCohort | None:
        values = tuple(origin.cohort.get(attribute, "") for attribute in watch.cohort)
        place = (origin.tenant, name, *values)
        key = self._keys.get(place)
        if key is None:
            if self._count[name] >= watch.max_cohorts:
                return None
            self._count[name] += 1
            key = stable_id("watch", *place)
            self._keys[place] = key
            self._cohorts[key] = WatchedCohort(
                key=key,
                tenant=origin.tenant,
                watch=name,
                attributes=dict(zip(watch.cohort, values, strict=True)),
                last=time_ns,
                rubrics=[Watch(rubric=rubric, present=self._present(watch)) for rubric in watch.rubrics],
            )
            self._changed[key] = None
        return self._cohorts[key]

    def _present(self, watch: WatchSettings) -> PresentWindows:
        return PresentWindows.over(nanos(watch.present_window) / 1e9, self._step)

    def tick(self, now: int, horizon: int, offset: int, count: Count) -> list[Verdict]:
        """Close what is over at ``horizon``, judge every watched cohort at ``now``, return the verdicts to publish."""
        verdicts: list[Verdict] = []
        while (end := self._units.next_end(horizon)) is not None:
            verdicts += self._digests.due(end - 1, self._cohorts, self._changed, offset)
            self._close(end, offset, count)
        verdicts += self._digests.due(horizon, self._cohorts, self._changed, offset)
        streams: dict[str, int] = {}
        for cohort in self._cohorts.values():
            active = sum(one.baseline is not None for one in cohort.rubrics)
            streams[cohort.watch] = streams.get(cohort.watch, 0) + active
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
        tasks: list[Task] = []
        for (key, rubric), items in units.items():
            cohort = self._cohorts.get(key)
            if cohort is None:
                continue
            settings = self._watches[cohort.watch]
            for watch in cohort.rubrics:
                if watch.rubric == rubric:
                    watch.take(end, items, settings, offset, tasks)
        update_all(tasks)

    def _judge(
        self, cohort: WatchedCohort, now: int, horizon: int, streams: Mapping[str, int], offset: int
    ) -> list[Verdict]:
        settings = self._watches[cohort.watch]
        report = nanos(settings.report_every)
        out = []
        for watch in cohort.rubrics:
            if not watch.evaluator:
                continue  # never scored
            before = watch.recovery is None, watch.worst, watch.rise.log_sums
            state, reason, evidence = watch.judge(now, horizon, streams[cohort.watch], settings, offset)
            if before != (watch.recovery is None, watch.worst, watch.rise.log_sums):
                self._changed[cohort.key] = None
            previous, watch.state = watch.state, state
            known = watch.attribution
            told, sentence = self._attributed(watch, evidence, now, settings)
            if told is not None:
                self._changed[cohort.key] = None  # the remainder took what anchors said since the last tick
            due = now // report > watch.reported // report
            if state == previous and not due and watch.attribution == known:
                continue
            watch.reported = now
            self._changed[cohort.key] = None
            attribution: Attribution = watch.attribution if state in ("regressed", "warn") else ""
            out.append(
                Verdict(
                    verdict_id=stable_id(
                        "drift", cohort.key, watch.rubric, state, previous or "", attribution, str(now)
                    ),
                    kind="drift",
                    tenant=sys.intern(cohort.tenant),  # see rollouts._verdict
                    time_unix_nano=now,
                    rollout=cohort.watch,
                    route=cohort.attributes.get("route", ""),
                    prompt_name=cohort.attributes.get("prompt_name", ""),
                    rubric=watch.rubric,
                    evaluator=watch.evaluator,
                    incumbent=f"baseline {watch.version}",
                    candidate=cohort.name,
                    state=state,
                    previous_state=previous,
                    severity=_SEVERITY.get(state, "none"),
                    attribution=attribution,
                    reason=reason + sentence,
                    evidence=in_own_direction(watch.rubric, msgspec.structs.replace(evidence, judge=told)),
                )
            )
        return out

    def _attributed(
        self, watch: Watch, evidence: Evidence, now: int, settings: WatchSettings
    ) -> tuple[JudgeEvidence | None, str]:
        if not self._judges.is_judge(watch.evaluator):
            # Code does not change its mind: a new version of it is another evaluator.
            watch.attribution = "system" if watch.state in ("regressed", "warn") else ""
            return None, ""
        judge = self._judges.find(watch.rubric, watch.evaluator)
        return watch.attribute(judge, evidence, now, self._anchors, settings.page_size)

    def _forget(self, now: int) -> None:
        for place, key in list(self._keys.items()):
            cohort = self._cohorts[key]
            if cohort.last < now - nanos(self._watches[cohort.watch].forget_after):
                self._count[cohort.watch] -= 1
                del self._cohorts[key], self._keys[place]
                self._changed[key] = None
                self._places.forget()

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out = self._units.save()
        out.update(self._digests.save())
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
            for one in cohort.rubrics:
                if one.present.seconds != (present := self._present(watch)).seconds:
                    one.present = present
                    self._changed[cohort.key] = None
            self._cohorts[cohort.key] = cohort
            self._count[cohort.watch] += 1
            self._keys[(cohort.tenant, cohort.watch, *cohort.attributes.values())] = cohort.key
        self._digests.restore(state)
        self._units.restore(state)
