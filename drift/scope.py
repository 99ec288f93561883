"""One scope of a rollout: the arms seen on one route, which of them is the incumbent, and a gate per candidate."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from drift.gate import Gate
from drift.settings import AUTO, RolloutSettings, nanos


class Arm(msgspec.Struct):
    """What is known about one value of the arm attribute."""

    first: int  # event time of its first score
    last: int
    units: int = 0
    recent: float = 0.0  # units, each counting half as much per present window that has passed since
    recent_at: int = 0
    seen: dict[str, int] = {}  # rubric -> event time of its last score

    def opened_units(self, times: Iterable[int], half_life: int) -> None:
        """Count new units, in this order."""
        recent, at, count = self.recent, self.recent_at, 0
        for time in times:
            count += 1
            if time > at:
                recent = recent * math.exp2((at - time) / half_life) + 1.0
                at = time
            else:
                recent += math.exp2((time - at) / half_life)
        self.recent, self.recent_at, self.units = recent, at, self.units + count

    def recent_units(self, now: int, half_life: int) -> float:
        """Return the decayed count at ``now``."""
        return self.recent * math.exp2(min(0, self.recent_at - now) / half_life)


class Scope(msgspec.Struct):
    """Arms and gates of one rollout for one combination of the scope attributes."""

    key: str
    tenant: str
    rollout: str
    attributes: dict[str, str]
    attribute: str = ""  # whose values the arms are; "" in state from before it was kept
    arms: dict[str, Arm] = {}
    gates: list[Gate] = []
    acted: list[str] = []  # candidates that were rolled back: one automatic action each

    def arm(self, name: str, time: int, settings: RolloutSettings) -> Arm | None:
        """Return the arm called ``name``, new if there is room, else None."""
        arm = self.arms.get(name)
        if arm is None:
            if len(self.arms) >= settings.max_arms:
                return None
            arm = self.arms[name] = Arm(first=time, last=time, recent_at=time)
        arm.first = min(arm.first, time)
        arm.last = max(arm.last, time)
        return arm

    def begin_gates(self) -> bool:
        """Let gates begin with the first event of their later arm, also if it arrived after others; return whether any moved.

        What arrives in time is not older than the horizon, and no unit from after the horizon has been judged yet: so a gate
        takes the same units in whatever order their scores arrived.
        """
        moved = False
        for gate in self.gates:
            if gate.candidate in self.arms and gate.incumbent in self.arms:
                start = max(self.arms[gate.candidate].first, self.arms[gate.incumbent].first)
                moved = moved or start < gate.start
                gate.start = min(gate.start, start)
        return moved

    def open_gates(self, now: int, offset: int, settings: RolloutSettings, bucket_ns: int) -> None:
        """Open a gate for every candidate that now stands next to an incumbent.

        Which arm is which depends on counts and times only, never on scores.
        """
        live = nanos(settings.no_data_after)
        alive = [name for name in sorted(self.arms) if now - self.arms[name].last < live]
        if len(alive) < 2:
            return
        incumbent = self._incumbent(alive, now, settings)
        if incumbent is None:
            return
        for name in alive:
            if name == incumbent or (settings.candidate not in (AUTO, name)):
                continue
            # A candidate that has grown past the incumbent stays the candidate of the gate it has.
            if any(
                (gate.candidate == name and gate.incumbent in alive)
                or (gate.candidate == incumbent and gate.incumbent == name)
                for gate in self.gates
            ):
                continue
            start = max(self.arms[name].first, self.arms[incumbent].first)
            gate = Gate.opened(incumbent, name, start, offset, settings, bucket_ns)
            gate.acted = name in self.acted
            self.gates.append(gate)

    def _incumbent(self, alive: list[str], now: int, settings: RolloutSettings) -> str | None:
        if settings.incumbent != AUTO:
            return settings.incumbent if settings.incumbent in alive else None
        # The first few units do not tell the larger arm from the smaller one.
        if sum(self.arms[name].units for name in alive) < settings.min_units:
            return None
        half_life = nanos(settings.present_window)
        named = [name for name in alive if name != settings.candidate]
        return min(named, key=lambda name: (-self.arms[name].recent_units(now, half_life), name))

    def forget(self, now: int, settings: RolloutSettings) -> bool:
        """Drop arms and gates that have been silent for long; return whether anything was dropped."""
        oldest = now - nanos(settings.forget_after)
        gone = [name for name, arm in self.arms.items() if arm.last < oldest]
        for name in gone:
            del self.arms[name]
        if gone:
            self.gates = [gate for gate in self.gates if not {gate.candidate, gate.incumbent} & set(gone)]
            self.acted = [name for name in self.acted if name not in gone]
        return bool(gone)
