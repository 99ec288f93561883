"""Budgets: what was spent in a period of event time, against what may be spent.

Sums do not depend on the order of the records. A period is over when the event clock's horizon has passed its end, so what
came within the lateness counts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from drift.part import part_of
from drift.settings import BudgetSettings, DriftSettings, nanos
from stream.records import BudgetEvidence, Evidence, Verdict, VerdictState, stable_id

_PREFIX = "budget/"
_DAY = 86400 * 1_000_000_000
_LEAST_ELAPSED = 0.02  # of a period: before that a projection says nothing
_SEVERITY: dict[VerdictState, Literal["none", "warn", "page"]] = {"warn": "warn", "over_budget": "page"}


class Entry(msgspec.Struct):
    """One budget of one tenant and combination of attributes."""

    tenant: str
    budget: str
    attributes: dict[str, str]
    used: dict[int, float] = {}  # start of the period -> sum
    state: VerdictState | None = None
    start: int = 0  # of the period that the state is about
    reported: int = 0
    last: int = 0

    @property
    def name(self) -> str:
        """``key=value`` pairs, keys sorted."""
        return ",".join(f"{name}={self.attributes[name]}" for name in sorted(self.attributes))


class Budgets:
    """The budgets of one partition."""

    def __init__(self, settings: DriftSettings, partition: int = 0) -> None:
        # A route is on one partition only; without it each has a part of its own, and one's "ok" must not end another's page.
        self._part = {
            budget.name: [] if "route" in budget.per else part_of(partition) for budget in settings.budgets
        }
        self._budgets = {budget.name: budget for budget in settings.budgets}
        self._report = max(nanos(settings.report_every), 3600 * 1_000_000_000)
        self._entries: dict[str, Entry] = {}
        self._keys: dict[tuple[str, ...], str] = {}
        self._count = dict.fromkeys(self._budgets, 0)
        self._changed: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._budgets)

    def add(
        self,
        tenant: str,
        attributes: Mapping[str, str],
        time_ns: int,
        usd: float,
        tokens: int,
        count: Callable[[str], None],
    ) -> None:
        """Add what one trace or score cost."""
        for name, budget in self._budgets.items():
            amount = usd if budget.usd is not None else tokens
            if amount <= 0 or any(attributes.get(key) != value for key, value in budget.match.items()):
                continue
            values = tuple(attributes.get(key, "") for key in budget.per)
            place = (tenant, name, *values)
            key = self._keys.get(place)
            if key is None:
                if self._count[name] >= budget.max_entries:
                    count("budget_excluded.too_many_entries")
                    continue
                key = stable_id("budget", *place)
                self._enter(
                    key, place, Entry(tenant=tenant, budget=name, attributes=dict(zip(budget.per, values, strict=True)))
                )  # fmt: skip
            entry = self._entries[key]
            start, _ = period_of(budget, time_ns)
            entry.used[start] = entry.used.get(start, 0.0) + amount
            entry.last = max(entry.last, time_ns)
            self._changed[key] = None

    def _enter(self, key: str, place: tuple[str, ...], entry: Entry) -> None:
        self._entries[key] = entry
        self._keys[place] = key
        self._count[entry.budget] += 1

    def tick(self, now: int, horizon: int, offset: int) -> list[Verdict]:
        """Judge every budget at ``now``; return the verdicts to publish."""
        out = []
        for place, key in sorted(self._keys.items()):
            entry = self._entries[key]
            budget = self._budgets[entry.budget]
            start, _ = period_of(budget, horizon)
            # The new period is looked at once nothing is to come for the old one.
            if entry.start != start:
                entry.start = start
                for old in [one for one in entry.used if one < start]:
                    del entry.used[old]
                self._changed[key] = None
            if not entry.used and entry.state in (None, "ok") and entry.last < start:
                del self._entries[key], self._keys[place]
                self._count[entry.budget] -= 1
                self._changed[key] = None
                continue
            if (verdict := self._judge(key, entry, budget, now, offset)) is not None:
                out.append(verdict)
                self._changed[key] = None
        return out

    def _judge(self, key: str, entry: Entry, budget: BudgetSettings, now: int, offset: int) -> Verdict | None:
        start, end = period_of(budget, entry.start)
        limit = float(budget.usd if budget.usd is not None else budget.tokens or 0)
        used = entry.used.get(start, 0.0)
        state: VerdictState = (
            "over_budget" if used >= limit else "warn" if used >= budget.warn_at * limit else "ok"
        )
        due = now // self._report > entry.reported // self._report
        if state == entry.state and not due:
            return None
        elapsed = min(1.0, (now - start) / (end - start))
        projected = used / elapsed if elapsed >= _LEAST_ELAPSED else None
        unit: Literal["usd", "tokens"] = "usd" if budget.usd is not None else "tokens"
        word = "USD" if unit == "usd" else "tokens"
        rate = "" if projected is None else f"; at this rate {projected / limit:.0%} by its end"
        previous, entry.state, entry.reported = entry.state, state, now
        part = self._part[entry.budget]
        return Verdict(
            verdict_id=stable_id("budget", key, state, previous or "", str(now), *part),
            kind="budget",
            tenant=sys.intern(entry.tenant),  # see rollouts._verdict
            time_unix_nano=now,
            rollout=entry.budget,
            route=entry.attributes.get("route", ""),
            prompt_name=entry.attributes.get("prompt_name", ""),
            rubric=unit,
            evaluator=entry.attributes.get("evaluator", ""),
            candidate=",".join(filter(None, [entry.name, *part])),
            state=state,
            previous_state=previous,
            severity=_SEVERITY.get(state, "none"),
            reason=f"{used:,.6g} of {limit:,.6g} {word} ({used / limit:.0%}) of this {budget.period} are used{rate}.",
            evidence=Evidence(
                budget=BudgetEvidence(
                    period=budget.period,
                    start_unix_nano=start,
                    unit=unit,
                    used=used,
                    limit=limit,
                    projected=projected,
                ),
                last_offset=offset,
            ),
        )

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        out: dict[str, bytes | None] = {}
        for key in self._changed:
            entry = self._entries.get(key)
            out[_PREFIX + key] = None if entry is None else msgspec.msgpack.encode(entry)
        self._changed.clear()
        return out

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state. What belongs to budgets that are no longer configured like this is dropped."""
        for name, value in sorted(state.items()):
            if not name.startswith(_PREFIX):
                continue
            key = name[len(_PREFIX) :]
            entry = msgspec.msgpack.decode(value, type=Entry)
            budget = self._budgets.get(entry.budget)
            if budget is None or list(entry.attributes) != budget.per:
                self._changed[key] = None
                continue
            self._enter(key, (entry.tenant, entry.budget, *entry.attributes.values()), entry)


def period_of(budget: BudgetSettings, time_ns: int) -> tuple[int, int]:
    """Return start and end (exclusive) of the UTC day or month of ``time_ns``, Unix nanoseconds."""
    if budget.period == "day":
        start = time_ns // _DAY * _DAY
        return start, start + _DAY
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, tz=UTC)
    year, month = moment.year + moment.month // 12, moment.month % 12 + 1
    begin = datetime(moment.year, moment.month, 1, tzinfo=UTC)
    end = datetime(year, month, 1, tzinfo=UTC)
    return int(begin.timestamp()) * 1_000_000_000, int(end.timestamp()) * 1_000_000_000
