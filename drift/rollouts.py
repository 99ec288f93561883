"""All rollouts of a partition: puts scores into units, units into gates, and turns findings into verdicts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from drift.gate import Finding, Gate
from drift.scope import Scope
from drift.seen import id_hash
from drift.settings import DriftSettings, RolloutSettings, nanos
from drift.units import ClosedUnit, Entry, UnitTable
from stream.records import ScoreRecord, Verdict, VerdictState, stable_id

_SCOPE = "scope/"
_GATES = "gates/"
_SEVERITY: dict[VerdictState, Literal["none", "warn", "page"]] = {
    "regressed": "page",
    "warn": "warn",
    "sample_ratio_mismatch": "warn",
    "no_data": "warn",
}

Count = Callable[..., None]


class Rollouts:
    """Scopes, their gates and the open units of one partition."""

    def __init__(self, settings: DriftSettings) -> None:
        self._rollouts = {rollout.name: rollout for rollout in settings.rollouts}
        self._gated = {name: frozenset(rollout.rubrics) for name, rollout in self._rollouts.items()}
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

    def add(self, score: ScoreRecord, weight: float, count: Count) -> None:
        """Put one usable score into the units of every rollout it belongs to."""
        for name, rollout in self._rollouts.items():
            arm_name = score.cohort.get(rollout.arm)
            if arm_name is None:
                continue
            if any(score.cohort.get(attribute) != value for attribute, value in rollout.match.items()):
                continue
            self._add(score, weight, name, rollout, arm_name, count)

    def _add(
        self,
        score: ScoreRecord,
        weight: float,
        name: str,
        rollout: RolloutSettings,
        arm_name: str,
        count: Count,
    ) -> None:
        scope = self._scope(score, name, rollout)
        if scope is None:
            count("unit_scores_excluded.too_many_scopes")
            return
        arm = scope.arm(arm_name, score.time_unix_nano, rollout)
        if arm is None:
            count("unit_scores_excluded.too_many_arms")
            return
        self._changed[scope.key] = None
        time = score.time_unix_nano
        gated = score.rubric in self._gated[name]
        if gated:
            arm.seen[score.rubric] = max(time, arm.seen.get(score.rubric, 0))
        outcome, contaminated = self._units.add(
            id_hash(scope.key, score.unit_id),
            scope.key,
            arm_name,
            Entry(
                time_ns=time,
                rubric=score.rubric if gated else "",
                evaluator=score.evaluator.identity if gated else "",
                value=score.value or 0.0,
                weight=weight,
                trace_id=score.trace_id if gated else "",
                stratum=_stratum(score, rollout),
            ),
            is_session=score.unit_id != score.trace_id,
            close_step=self._step[name],
        )
        if contaminated:
            count("units_contaminated")
        if outcome == "opened":
            arm.opened_unit(time, nanos(rollout.present_window))
            count("units_open")
        elif outcome:
            count(f"unit_scores_excluded.{outcome}")

    def _scope(self, score: ScoreRecord, name: str, rollout: RolloutSettings) -> Scope | None:
        values = tuple(score.cohort.get(attribute, "") for attribute in rollout.scope)
        place = (score.tenant, name, *values)
        key = self._keys.get(place)
        if key is None:
            if len(self._scopes) >= self._max_scopes:
                return None
            key = stable_id(*place)
            self._keys[place] = key
            self._scopes[key] = Scope(
                key=key,
                tenant=score.tenant,
                rollout=name,
                attributes=dict(zip(rollout.scope, values, strict=True)),
            )
        return self._scopes[key]

    def tick(self, now: int, horizon: int, offset: int, count: Count) -> list[Verdict]:
        """Close what is over at ``horizon``, judge every gate at ``now`` and return the verdicts to publish."""
        for scope in self._scopes.values():
            rollout = self._rollouts[scope.rollout]
            gates = len(scope.gates)
            scope.open_gates(now, offset, rollout, self._step[scope.rollout])
            if len(scope.gates) != gates:
                self._changed_gates[scope.key] = None
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
        for unit in self._units.close(end):
            count("units_closed")
            count("units_open", -1)
            if unit.left_out:
                count("unit_scores_excluded.after_end", unit.left_out)
            if unit.mixed:
                count("unit_means_excluded.mixed_evaluators", unit.mixed)
            by_scope.setdefault(unit.scope, []).append(unit)
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
        """Take over saved state. Scopes of rollouts that are no longer configured are dropped."""
        for key, value in sorted(state.items()):
            if not key.startswith(_SCOPE):
                continue
            scope = msgspec.msgpack.decode(value, type=Scope)
            rollout = self._rollouts.get(scope.rollout)
            if rollout is None or list(scope.attributes) != rollout.scope:
                self._changed[scope.key] = self._changed_gates[scope.key] = None
                continue
            # Other rubrics, or other bets than this version makes, are another test: its gates start anew.
            scope.gates = [
                gate
                for gate in msgspec.msgpack.decode(state.get(_GATES + scope.key, b"\x90"), type=list[Gate])
                if [one.rubric for one in gate.rubrics] == rollout.rubrics
                and all(one.process.fits() for one in gate.rubrics)
            ]
            self._scopes[scope.key] = scope
            self._keys[(scope.tenant, scope.rollout, *scope.attributes.values())] = scope.key
        self._units.restore(state)


def _stratum(score: ScoreRecord, rollout: RolloutSettings) -> int:
    if not rollout.strata:
        return 0
    return id_hash(*(score.cohort.get(attribute, "") for attribute in rollout.strata))


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
        rubric=finding.rubric,
        evaluator=finding.evaluator,
        arm=rollout.arm,
        incumbent=gate.incumbent,
        candidate=gate.candidate,
        state=finding.state,
        previous_state=finding.previous,
        severity="none" if quiet else _SEVERITY.get(finding.state, "none"),
        action="rollback" if finding.rollback else "promote" if finding.promote else "none",
        reason=finding.reason,
        evidence=finding.evidence,
    )  # fmt: skip
