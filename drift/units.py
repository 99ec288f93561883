"""Units: all scores of one session (else trace) in one scope become one observation.

Scores of one session are alike; a test that took each for independent evidence would roll back healthy candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, ne

import msgspec

from drift.observations import Observations
from drift.pairing import UnitMean
from drift.seen import framed, id_hashes
from drift.settings import UnitSettings, nanos
from drift.unit_journal import Place, Step, UnitJournal

_OPEN = "unit/"
_CLOSED = "closed/"
_JOURNAL = "units/"


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One score inside a unit."""

    time_ns: int
    rubric: str  # "" for a rubric that is not gated: it keeps the unit open and has no value
    evaluator: str
    value: float
    weight: float
    trace_id: str
    stratum: int = 0  # hash of the covariates within which units are paired


class Unit(msgspec.Struct, array_like=True, gc=False):
    """A session that is still open.

    ``start`` to ``end`` is the unbroken run of scores from the first one on: no gap longer than the idle time, no score
    later than the maximum length after the first. It is found from event times alone, so it does not depend on the
    order in which the scores arrive.
    """

    key: int
    scope: str
    arm: str
    close_step: int  # units close in buckets of this length (nanoseconds)
    idle: int
    start: int
    end: int
    whole: bool = True  # every entry belongs to the run
    contaminated: bool = False
    entries: list[Entry] = []

    def due(self, longest: int) -> int:
        """When it closes."""
        return min(self.end + self.idle, self.start + longest)

    def add(self, entry: Entry, longest: int) -> None:
        """Take one more score."""
        self.entries.append(entry)
        time = entry.time_ns
        if self.whole and self.start <= time <= self.start + longest and time - self.end <= self.idle:
            self.end = max(self.end, time)
            return
        times = sorted(one.time_ns for one in self.entries)
        self.start = self.end = times[0]
        run = 0
        for moment in times:
            if moment - self.end > self.idle or moment > self.start + longest:
                break
            self.end = moment
            run += 1
        self.whole = run == len(times)


_Seed = tuple[Place, int, float, float, str, bool]
"""A unit of one score: where it belongs, its time, value, weight and trace, and whether it is a session. Most units of traces
never become more, and a tuple costs a fifth of a :class:`Unit`."""


class ClosedUnit(msgspec.Struct, frozen=True, gc=False):
    """A unit at its end."""

    key: int
    scope: str
    arm: str
    start: int
    end: int
    contaminated: bool
    left_out: int  # scores that came after the session's end
    mixed: int  # rubrics left out because two evaluators scored the session
    means: dict[str, tuple[str, UnitMean]]  # rubric -> (evaluator identity, mean)
    stratum: int = 0  # that of its first score


class UnitTable:
    """Open units of a partition, and the keys of those that closed a short while ago."""

    def __init__(self, settings: UnitSettings, prefix: str = "") -> None:
        self._open_key, self._closed_key = prefix + _OPEN, prefix + _CLOSED
        self._idle = nanos(settings.idle)
        self._trace_idle = min(self._idle, nanos(settings.trace_idle))
        self._longest = nanos(settings.max)
        self._remember = nanos(settings.remember)
        self._max_open = settings.max_open
        self._max_scores = settings.max_scores
        self._max_remembered = 4 * settings.max_open
        self._open: dict[int, Unit | _Seed] = {}
        self._due: dict[int, list[int]] = {}  # end of the closing bucket -> keys, some of them more than once
        self._closed: dict[int, str] = {}  # key -> arm
        self._closed_by_end: dict[int, list[int]] = {}
        self._entries = 0  # of all open units
        self._journal = UnitJournal(prefix + _JOURNAL)
        self._changed_ends: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(
        self, key: int, scope: str, arm: str, entry: Entry, *, is_session: bool, close_step: int
    ) -> tuple[str, bool]:
        """Put one score into its unit.

        Returns
        -------
        (refusal, contaminated)
            A short word saying why the score was not taken (``unit_closed``, ``other_arm_after_close``, ``unit_full``,
            ``too_many_units``), or "opened" or "" when it was; and whether this score showed an open unit to be in two
            arms.
        """
        outcome, newly = self._take(key, scope, arm, entry, is_session, close_step)
        if outcome in ("", "opened") or newly:
            place = Place(scope, arm, close_step, entry.rubric, entry.evaluator, entry.stratum)
            self._journal.note(
                Step(
                    [place],
                    [0],
                    [key],
                    [is_session],
                    [entry.time_ns],
                    [entry.value],
                    [entry.weight],
                    [entry.trace_id],
                )
            )
        return outcome, newly

    def _take(
        self, key: int, scope: str, arm: str, entry: Entry, is_session: bool, close_step: int
    ) -> tuple[str, bool]:
        unit = self._open.get(key)
        if unit is None:
            if (earlier := self._closed.get(key)) is not None:
                return ("unit_closed" if earlier == arm else "other_arm_after_close"), False
            if len(self._open) >= self._max_open:
                return "too_many_units", False
            place = Place(scope, arm, close_step, entry.rubric, entry.evaluator, entry.stratum)
            self._begin(key, (place, entry.time_ns, entry.value, entry.weight, entry.trace_id, is_session))
            return "opened", False
        if type(unit) is tuple:
            unit = self._open[key] = self._grown(key, unit)
        assert isinstance(unit, Unit)
        newly = not unit.contaminated and unit.arm != arm
        if newly:
            unit.contaminated = True
        if len(unit.entries) >= self._max_scores:
            return "unit_full", newly
        before = unit.due(self._longest)
        unit.add(entry, self._longest)
        self._entries += 1
        # A later end is noticed when the bucket comes up; only an earlier one must be entered now.
        if unit.due(self._longest) < before:
            self._schedule(unit)
        return "", newly

    def _begin(self, key: int, seed: _Seed) -> None:
        place, time, *_, is_session = seed
        self._open[key] = seed
        self._entries += 1
        step = place.close_step
        end = (
            time + min(self._idle if is_session else self._trace_idle, self._longest)
        ) // step * step + step
        if end in self._due:
            self._due[end].append(key)
        else:
            self._due[end] = [key]

    def _grown(self, key: int, seed: _Seed) -> Unit:
        place, time, value, weight, trace, is_session = seed
        entry = Entry(time, place.rubric, place.evaluator, value, weight, trace, place.stratum)
        idle = self._idle if is_session else self._trace_idle
        return Unit(key, place.scope, place.arm, place.close_step, idle, time, time, True, False, [entry])

    def add_all(
        self, places: Sequence[Place], rows: Sequence[int], seen: Observations
    ) -> tuple[list[int], list[int], dict[str, int]]:
        """Put scores into their units, in order: ``rows`` of ``seen``, each where ``places`` says.

        Returns
        -------
        (opened, contaminated, refused)
            Which of ``places`` opened a unit and which showed an open one to be in two arms; how many scores were not taken,
            by the words of :meth:`add`.
        """
        if not places:
            return [], [], {}
        columns = seen.unit_ids, seen.times, seen.values, seen.weights, seen.trace_ids
        # Mostly it is every score once.
        if len(rows) != len(seen) or rows != list(range(len(seen))):
            columns = tuple([column[row] for row in rows] for column in columns)  # type: ignore[assignment]
        unit_ids, times, values, weights, trace_ids = columns
        sessions = list(map(ne, unit_ids, trace_ids))
        used = list({id(place): place for place in places}.values())
        number_of = {id(place): number for number, place in enumerate(used)}
        traces = [trace if place.rubric else "" for place, trace in zip(places, trace_ids, strict=True)]
        keys = _keys(places, used, unit_ids)
        opened: list[int] = []
        contaminated: list[int] = []
        refused: dict[str, int] = {}
        refusals: set[int] = set()
        known, earlier = self._open, self._closed
        # Units begin all at once where nothing can be refused for want of room; what is more than the first score of a
        # new unit comes after, in order.
        rest: Iterable[int] = range(len(keys))
        if len(known) + len(keys) <= self._max_open:
            first = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
            for key in [*(first.keys() & known.keys()), *(first.keys() & earlier.keys())]:
                del first[key]
            opened = sorted(first.values())
            seeds = list(zip(places, times, values, weights, traces, sessions, strict=True))
            due = self._due
            idle, trace_idle = min(self._idle, self._longest), min(self._trace_idle, self._longest)
            for number in opened:
                key, step = keys[number], places[number].close_step
                known[key] = seeds[number]
                end = (times[number] + (idle if sessions[number] else trace_idle)) // step * step + step
                if end in due:
                    due[end].append(key)
                else:
                    due[end] = [key]
            self._entries += len(opened)
            begun = set(opened)
            rest = [number for number in rest if number not in begun]
        for number in rest:
            place, time = places[number], times[number]
            entry = Entry(
                time,
                place.rubric,
                place.evaluator,
                values[number],
                weights[number],
                traces[number],
                place.stratum,
            )
            outcome, newly = self._take(
                keys[number], place.scope, place.arm, entry, sessions[number], place.close_step
            )
            if newly:
                contaminated.append(number)
            if outcome == "opened":
                opened.append(number)
            elif outcome:
                refused[outcome] = refused.get(outcome, 0) + 1
                if not newly:
                    refusals.add(number)
        taken = Step(
            used, [number_of[id(place)] for place in places], keys, sessions, times, values, weights, traces
        )
        if refusals:
            taken = taken.without(refusals)
        if taken.keys:
            self._journal.note(taken)
        return opened, contaminated, refused

    def _schedule(self, unit: Unit) -> None:
        end = (unit.due(self._longest) // unit.close_step + 1) * unit.close_step
        self._due.setdefault(end, []).append(unit.key)

    def next_end(self, horizon: int) -> int | None:
        """Return the end of the oldest bucket that can be closed, if there is one."""
        end = min(self._due, default=None)
        return end if end is not None and end <= horizon else None

    def close(self, end: int) -> list[ClosedUnit]:
        """Close the units whose time ends in the bucket that ends at ``end``, in the order of their keys."""
        closed = []
        entries = 0
        longest = self._longest
        idle, trace_idle = min(self._idle, longest), min(self._trace_idle, longest)
        for key in self._due.pop(end, ()):
            unit = self._open.get(key)
            if unit is None:
                continue
            if type(unit) is tuple:
                if unit[1] + (idle if unit[5] else trace_idle) >= end:
                    continue  # not its own time, but one of an earlier unit of this key, which was due twice
                self._closed[key] = unit[0].arm
                entries += 1
                closed.append(_close_seed(key, unit))
            else:
                assert isinstance(unit, Unit)
                if unit.end + unit.idle >= end and unit.start + longest >= end:
                    self._schedule(unit)
                    continue
                self._closed[key] = unit.arm
                entries += len(unit.entries)
                closed.append(_close(unit))
            del self._open[key]
        self._entries -= entries
        closed.sort(key=_key_of)
        if closed:
            keys = [unit.key for unit in closed]
            self._closed_by_end.setdefault(end, []).extend(keys)
            self._changed_ends[end] = None
            self._journal.note(Step([], [], [], [], [], [], [], [], keys))
        return closed

    def forget(self, now: int) -> None:
        """Drop what is remembered longer than needed, oldest first, and beyond the bound."""
        for end in sorted(self._closed_by_end):
            if end + self._remember > now and len(self._closed) <= self._max_remembered:
                return
            for key in self._closed_by_end.pop(end):
                self._closed.pop(key, None)
            self._changed_ends[end] = None

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out = self._journal.save(self._units(), self._entries)
        for end in self._changed_ends:
            keys = self._closed_by_end.get(end)
            out[f"{self._closed_key}{end}"] = (
                None if keys is None else msgspec.msgpack.encode([(key, self._closed[key]) for key in keys])
            )
        self._changed_ends.clear()
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        old = [key for key in state if key.startswith(self._open_key)]
        for key in old:
            self._restore_unit(state[key])
        for item in self._journal.restore(state, old):
            if isinstance(item, Step):
                self._repeat(item)
            else:
                self._restore_unit(item)
        self._due.clear()
        for unit in self._units():
            self._schedule(unit)
        for key, value in state.items():
            if key.startswith(self._closed_key):
                pairs = msgspec.msgpack.decode(value, type=list[tuple[int, str]])
                self._closed_by_end[int(key[len(self._closed_key) :])] = [one for one, _ in pairs]
                self._closed.update(pairs)

    def _units(self) -> Iterator[Unit]:
        for key, unit in self._open.items():
            yield self._grown(key, unit) if isinstance(unit, tuple) else unit

    def _restore_unit(self, raw: bytes | msgspec.Raw) -> None:
        unit = msgspec.msgpack.decode(raw, type=Unit)
        self._open[unit.key] = unit
        self._entries += len(unit.entries)

    def _repeat(self, step: Step) -> None:
        """Do again what was done between two saves; what was refused then is not in it."""
        columns = step.place, step.keys, step.sessions, step.times, step.values, step.weights, step.traces
        for number, key, is_session, time, value, weight, trace in zip(*columns, strict=True):
            place = step.places[number]
            if key not in self._open:
                self._begin(key, (place, time, value, weight, trace, is_session))
                continue
            entry = Entry(time, place.rubric, place.evaluator, value, weight, trace, place.stratum)
            self._take(key, place.scope, place.arm, entry, is_session, place.close_step)
        for key in step.closed:
            unit = self._open.pop(key, None)
            if unit is not None:
                self._entries -= 1 if isinstance(unit, tuple) else len(unit.entries)


_key_of = attrgetter("key")


def _keys(places: Sequence[Place], used: Sequence[Place], unit_ids: Sequence[str]) -> list[int]:
    """Return ``id_hash(scope, unit_id)`` of each place."""
    scopes = {place.scope: framed(place.scope) for place in used}
    texts = [
        f"{scopes[place.scope]}{len(unit_id)}:{unit_id}"
        for place, unit_id in zip(places, unit_ids, strict=True)
    ]
    # The rubrics of one trace mostly come one after the other.
    once = dict.fromkeys(texts)
    hashes = id_hashes(once)
    if len(once) == len(texts):
        return hashes
    known = dict(zip(once, hashes, strict=True))
    return [known[text] for text in texts]


def _close_seed(key: int, seed: _Seed) -> ClosedUnit:
    place, time, value, weight, trace, _ = seed
    means = {}
    if place.rubric:
        # What the sums of a unit with more scores would come to.
        means[place.rubric] = place.evaluator, UnitMean(key, weight * value / weight, weight, time, trace)
    return ClosedUnit(key, place.scope, place.arm, time, time, False, 0, 0, means, place.stratum)


def _close(unit: Unit) -> ClosedUnit:
    entries = unit.entries
    inside = (
        entries if unit.whole else [entry for entry in entries if unit.start <= entry.time_ns <= unit.end]
    )
    by_rubric: dict[str, list[Entry]] = {}
    for entry in inside:
        if entry.rubric:
            by_rubric.setdefault(entry.rubric, []).append(entry)
    means = {}
    mixed = 0
    for rubric in sorted(by_rubric):
        ours = by_rubric[rubric]
        first = ours[0]
        if len(ours) == 1:
            # What the sums below come to.
            mean = UnitMean(
                unit.key, first.weight * first.value / first.weight, first.weight, unit.end, first.trace_id
            )
            means[rubric] = (first.evaluator, mean)
            continue
        if len({entry.evaluator for entry in ours}) > 1:
            mixed += 1
            continue
        # fsum rounds once, so the mean does not depend on the order of arrival.
        weight = math.fsum(entry.weight for entry in ours)
        worst = min(ours, key=lambda entry: (entry.value, entry.time_ns, entry.trace_id))
        means[rubric] = (
            first.evaluator,
            UnitMean(
                key=unit.key,
                value=math.fsum(entry.weight * entry.value for entry in ours) / weight,
                weight=weight / len(ours),
                time_ns=unit.end,
                trace_id=worst.trace_id,
            ),
        )
    return ClosedUnit(
        unit.key,
        unit.scope,
        unit.arm,
        unit.start,
        unit.end,
        unit.contaminated,
        len(entries) - len(inside),
        mixed,
        means,
        inside[0].stratum if len(inside) == 1 else min((entry.time_ns, entry.stratum) for entry in inside)[1],
    )
