"""All rollouts of a partition: puts scores into units, units into gates, and turns findings into verdicts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import msgspec

from drift.by_origin import ByOrigin
from drift.direction import in_own_direction
from drift.gate import Finding, Gate
from drift.observations import Observations
from drift.origins import Origin
from drift.scope import Arm, Scope
from drift.seen import id_hash
from drift.settings import DriftSettings, RolloutSettings, nanos
from drift.unit_journal import Place
from drift.units import ClosedUnit, UnitTable
from stream.records import Attribution, Verdict, VerdictState, stable_id

_SCOPE = "scope/"
_GATES = "gates/"
_SEVERITY: dict[VerdictState, Literal["none", "warn", "page"]] = {
    "regressed": "page",
    "warn": "warn",
    "sample_ratio_mismatch": "warn",
    "no_data": "warn",
}

Count = Callable[..., None]


class _Member(NamedTuple):
    """Where scores of one origin belong in one rollout."""

    place: Place
    arm: Arm
    half_life: int


class Rollouts:
    """Scopes, their gates and the open units of one partition."""

    def __init__(self, settings: DriftSettings, settings_id: str = "") -> None:
        self._settings_id = settings_id
        self._rollouts = {rollout.name: rollout for rollout in settings.rollouts}
        self._gated = {
            name: frozenset((*rollout.rubrics, *rollout.severe)) for name, rollout in self._rollouts.items()
        }
        self._step = {
            name: nanos(rollout.bucket or settings.bucket) for name, rollout in self._rollouts.items()
        }
        self._report = nanos(settings.report_every)
        self._max_scopes = settings.max_scopes
        self._scopes: dict[str, Scope] = {}
        self._keys: dict[tuple[str, ...], str] = {}  # (tenant, rollout, scope values) -> key
        self._units = UnitTable(settings.units)
        self._changed: dict[str, None] = {}
        self._changed_gates: dict[str, None] = {}
        self._places = ByOrigin(self._places_of)
        self.twin: Rollouts | None = None  # the same rollouts tested on other streams

    def add(self, seen: Observations, count: Count) -> None:
        """Put usable scores into the units of every rollout they belong to."""
        if not self._rollouts:
            return
        for group, (usable, refused) in self._places.groups(seen):
            for reason in refused:
                count(f"unit_scores_excluded.{reason}", len(group.rows))
            for member in usable:
                arm = member.arm
                arm.first, arm.last = min(arm.first, group.first), max(arm.last, group.last)
                rubric = member.place.rubric
                if rubric:
                    arm.seen[rubric] = max(group.last, arm.seen.get(rubric, 0))
                self._changed[member.place.scope] = None
        found = [self._places.known[origin.number][0] for origin in seen.origins]
        members = [member for here in found for member in here]
        rows = [row for row, here in enumerate(found) for _ in here]
        opened, contaminated, refusals = self._units.add_all([member.place for member in members], rows, seen)
        begun: dict[int, tuple[_Member, list[int]]] = {}
        for number in opened:
            member = members[number]
            of_arm = begun.get(id(member.arm))
            if of_arm is None:
                of_arm = begun[id(member.arm)] = member, []
            of_arm[1].append(seen.times[rows[number]])
        for member, times in begun.values():
            member.arm.opened_units(times, member.half_life)
        if opened:
            count("units_open", len(opened))
        if contaminated:
            count("units_contaminated", len(contaminated))
        for reason, number in refusals.items():
            count(f"unit_scores_excluded.{reason}", number)

    def _places_of(self, origin: Origin, time_ns: int) -> tuple[list[_Member], list[str]]:
        """Return where the scores of one origin belong, and why they do not belong to other rollouts that they match.

        What is remembered here is forgotten when a tick gives up a scope or an arm.
        """
        usable: list[_Member] = []
        refused: list[str] = []
        for name, rollout in self._rollouts.items():
            arm_name = origin.cohort.get(rollout.arm)
            if arm_name is None:
                continue
            if any(origin.cohort.get(attribute) != value for attribute, value in rollout.match.items()):
                continue
            scope = self._scope(origin, name, rollout)
            arm = None if scope is None else scope.arm(arm_name, time_ns, rollout)
            if scope is None or arm is None:
                refused.append("too_many_scopes" if scope is None else "too_many_arms")
                continue
            gated = origin.rubric in self._gated[name]
            place = Place(
                scope=scope.key,
                arm=arm_name,
                close_step=self._step[name],
                rubric=origin.rubric if gated else "",
                evaluator=origin.identity if gated else "",
                stratum=_stratum(origin, rollout),
            )
            usable.append(_Member(place, arm, nanos(rollout.present_window)))
        return usable, refused

    def _scope(self, origin: Origin, name: str, rollout: RolloutSettings) -> Scope | None:
        values = tuple(origin.cohort.get(attribute, "") for attribute in rollout.scope)
        place = (origin.tenant, name, *values)
        key = self._keys.get(place)
        if key is None:
            if len(self._scopes) >= self._max_scopes:
                return None
            key = stable_id(*place)
            self._keys[place] = key
            self._scopes[key] = Scope(
                key=key,
                tenant=origin.tenant,
                rollout=name,
                attributes=dict(zip(rollout.scope, values, strict=True)),
                attribute=rollout.arm,
            )
        return self._scopes[key]

    def acted_on(self, key: str, candidate: str) -> bool:
        """Whether a rollback of ``candidate`` in the scope ``key`` was asked for."""
        scope = self._scopes.get(key)
        return scope is not None and candidate in scope.acted

    def tick(self, before: int, now: int, horizon: int, offset: int, count: Count) -> list[Verdict]:
        """Close what is over at ``horizon``, judge every gate at ``now`` and return the verdicts to publish.

        ``before`` is the last event time: who was there then may be silent for long at ``now``, and must be missed.
        """
        for scope in self._scopes.values():
            rollout = self._rollouts[scope.rollout]
            if scope.begin_gates():
                self._changed_gates[scope.key] = None
            gates = len(scope.gates)
            for moment in (before, now):
                scope.open_gates(moment, offset, rollout, self._step[scope.rollout])
            if len(scope.gates) != gates:
                self._changed_gates[scope.key] = None
                for gate in scope.gates[gates:]:
                    gate.under(self._settings_id, rollout, 0, self._step[scope.rollout])
        while (end := self._units.next_end(horizon)) is not None:
            self._close(end, count)
        verdicts = [
            verdict for key in sorted(self._scopes) for verdict in self._judge(key, now, horizon, offset)
        ]
        self._units.forget(now)
        self._forget(now)
        return verdicts

    def _close(self, end: int, count: Count) -> None:
        by_scope: dict[str, list[ClosedUnit]] = {}
        closed = self._units.close(end)
        if closed:
            count("units_closed", len(closed))
            count("units_open", -len(closed))
        for unit in closed:
            if unit.left_out:
                count("unit_scores_excluded.after_end", unit.left_out)
            if unit.mixed:
                count("unit_means_excluded.mixed_evaluators", unit.mixed)
            if unit.scope in by_scope:
                by_scope[unit.scope].append(unit)
            else:
                by_scope[unit.scope] = [unit]
        for key, units in by_scope.items():
            scope = self._scopes.get(key)
            if scope is None or not scope.gates:
                continue
            step = self._step[scope.rollout]
            for gate in scope.gates:
                gate.take(end, units, step, self._rollouts[scope.rollout])
            self._changed_gates[key] = None

    def _judge(self, key: str, now: int, horizon: int, offset: int) -> list[Verdict]:
        scope = self._scopes[key]
        rollout = self._rollouts[scope.rollout]
        verdicts: list[Verdict] = []
        for gate in scope.gates:
            seen = (
                scope.arms[gate.candidate].seen if gate.candidate in scope.arms else {},
                scope.arms[gate.incumbent].seen if gate.incumbent in scope.arms else {},
            )
            if not gate.acted and self.twin is not None and self.twin.acted_on(key, gate.candidate):
                gate.acted = True  # one rollback per candidate, whichever kind of test was first
                self._changed_gates[key] = None
            due = now // self._report > gate.reported // self._report
            for finding in gate.findings(now, horizon, seen, rollout, offset):
                changed = finding.state != finding.previous
                # A rubric that was never scored has nothing to report between changes.
                if changed or (due and finding.evaluator):
                    verdicts.append(_verdict(scope, gate, rollout, finding, now))
                if changed:
                    self._changed_gates[key] = None
                if finding.rollback:
                    scope.acted.append(gate.candidate)
                    self._changed[key] = None
            if due:
                gate.reported = now
                self._changed_gates[key] = None
        return verdicts

    def _forget(self, now: int) -> None:
        for place, key in list(self._keys.items()):
            scope = self._scopes[key]
            if scope.forget(now, self._rollouts[scope.rollout]):
                self._changed[key] = self._changed_gates[key] = None
                self._places.forget()
            if not scope.arms:
                del self._scopes[key], self._keys[place]
                self._changed[key] = self._changed_gates[key] = None

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out = self._units.save()
        # Arms change with every score, gates only at a tick: two values, so that a batch writes little.
        for key in self._changed:
            scope = self._scopes.get(key)
            out[_SCOPE + key] = (
                None if scope is None else msgspec.msgpack.encode(msgspec.structs.replace(scope, gates=[]))
            )
        for key in self._changed_gates:
            scope = self._scopes.get(key)
            out[_GATES + key] = None if scope is None else msgspec.msgpack.encode(scope.gates)
        self._changed.clear()
        self._changed_gates.clear()
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state. Scopes and gates that no longer are what the settings ask for are dropped."""
        for key, value in sorted(state.items()):
            if not key.startswith(_SCOPE):
                continue
            scope = msgspec.msgpack.decode(value, type=Scope)
            rollout = self._rollouts.get(scope.rollout)
            if (
                rollout is None
                or list(scope.attributes) != rollout.scope
                or scope.attribute not in ("", rollout.arm)
            ):
                self._changed[scope.key] = self._changed_gates[scope.key] = None
                continue
            scope.attribute = rollout.arm
            saved = msgspec.msgpack.decode(state.get(_GATES + scope.key, b"\x90"), type=list[Gate])
            scope.gates = [gate for gate in saved if gate.fits(rollout)]
            since = max((arm.last + 1 for arm in scope.arms.values()), default=0)
            step = self._step[scope.rollout]
            renamed = [gate.under(self._settings_id, rollout, since, step) for gate in scope.gates]
            if len(scope.gates) < len(saved) or any(renamed):
                self._changed_gates[scope.key] = None
            self._scopes[scope.key] = scope
            self._keys[(scope.tenant, scope.rollout, *scope.attributes.values())] = scope.key
        self._units.restore(state)


def _stratum(origin: Origin, rollout: RolloutSettings) -> int:
    if not rollout.strata:
        return 0
    return id_hash(*(origin.cohort.get(attribute, "") for attribute in rollout.strata))


def _attribution(finding: Finding) -> Attribution:
    """Both arms are scored by one evaluator, side by side: what a judge changes, it changes for both."""
    if finding.state in ("regressed", "warn"):
        return "system"
    return "unknown" if finding.state == "judge_changed" else ""


def _verdict(scope: Scope, gate: Gate, rollout: RolloutSettings, finding: Finding, now: int) -> Verdict:
    quiet = finding.quiet
    return Verdict(
        verdict_id=stable_id(
            "canary", scope.key, gate.incumbent, gate.candidate, finding.rubric, finding.state,
            finding.previous or "", str(now),
        ),
        kind="canary",
        # Defaults are left out of the JSON when they are the same object: restored text must not differ from fresh.
        tenant=sys.intern(scope.tenant),
        time_unix_nano=now,
        rollout=scope.rollout,
        route=scope.attributes.get("route", ""),
        prompt_name=scope.attributes.get("prompt_name", ""),
        rubric=finding.rubric,
        evaluator=finding.evaluator,
        arm=rollout.arm,
        incumbent=gate.incumbent,
        candidate=gate.candidate,
        state=finding.state,
        previous_state=finding.previous,
        severity="none" if quiet else _SEVERITY.get(finding.state, "none"),
        action="rollback" if finding.rollback else "promote" if finding.promote else "none",
        attribution=_attribution(finding),
        reason=finding.reason,
        evidence=in_own_direction(finding.rubric, finding.evidence),
    )  # fmt: skip
