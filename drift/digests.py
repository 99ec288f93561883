"""Digests of a partition: at the end of every period one verdict per tenant and watch over all its streams."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import msgspec

from drift.digest import PeriodEvidence, e_bh
from drift.direction import lower_is_better
from drift.settings import DriftSettings, WatchSettings
from drift.watch import Watch
from stream.records import DigestEntry, DigestEvidence, Evidence, Verdict, stable_id

_KEY = "digests"
_HOUR = 3600 * 1_000_000_000
_PERIODS = {"hour": _HOUR, "day": 24 * _HOUR}
_SHOWN = 200
_NAMED = 5


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


class Digests:
    """Which period each watch is in, and what is said at its end."""

    def __init__(self, settings: DriftSettings) -> None:
        self._watches = {watch.name: watch for watch in settings.watches if watch.digest.period != "off"}
        # By period and watch: a number of hours means nothing where days are counted.
        self._period: dict[str, int] = {}
        self._key = {name: f"{watch.digest.period}/{name}" for name, watch in self._watches.items()}
        self._dirty = False

    def due(
        self, time_ns: int, cohorts: Mapping[str, WatchedCohort], changed: dict[str, None], offset: int
    ) -> list[Verdict]:
        """Return the digests of the periods that end at or before ``time_ns``, and begin new ones."""
        out: list[Verdict] = []
        for name, watch in self._watches.items():
            length = _PERIODS[watch.digest.period]
            index = time_ns // length
            known = self._period.get(self._key[name])
            if known is not None and index <= known:
                continue
            self._period[self._key[name]] = index
            self._dirty = True
            ours = [cohort for _, cohort in sorted(cohorts.items()) if cohort.watch == name]
            if known is not None:
                for tenant in sorted({cohort.tenant for cohort in ours}):
                    verdict = _digest(
                        tenant, watch, [one for one in ours if one.tenant == tenant], known * length, length, offset
                    )  # fmt: skip
                    out += [verdict] if verdict is not None else []
            for cohort in ours:
                for stream in cohort.rubrics:
                    if stream.period is not None:
                        stream.period = None
                        changed[cohort.key] = None
        return out

    def save(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call."""
        if not self._dirty:
            return {}
        self._dirty = False
        return {_KEY: msgspec.msgpack.encode(self._period)}

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over saved state."""
        if _KEY in state:
            found = msgspec.msgpack.decode(state[_KEY], type=dict[str, int])
            self._period = {key: index for key, index in found.items() if key in self._key.values()}


def _digest(
    tenant: str, watch: WatchSettings, cohorts: list[WatchedCohort], start: int, length: int, offset: int
) -> Verdict | None:
    # Every stream that is watched counts, also one without a unit in the period (its e-value is 1).
    streams = [
        (cohort, one, one.period or PeriodEvidence())
        for cohort in cohorts
        for one in cohort.rubrics
        if one.baseline is not None
    ]
    if not streams:
        return None
    streams.sort(key=lambda item: (-item[2].e_value, item[0].name, item[1].rubric))
    found = e_bh([period.e_value for _, _, period in streams], watch.digest.alpha)
    entries = [
        DigestEntry(
            cohort=cohort.name,
            rubric=one.rubric,
            e_value=period.e_value,
            worse=worse,
            units=period.units,
            mean=_own(one.rubric, period.mean),
            expected=_own(one.rubric, period.baseline),
        )
        for (cohort, one, period), worse in zip(streams, found, strict=True)
    ]
    worse = [entry for entry in entries if entry.worse]
    names = "; ".join(f"{entry.rubric} of {entry.cohort}" for entry in worse[:_NAMED])
    more = f" and {len(worse) - _NAMED} more" if len(worse) > _NAMED else ""
    text = f"{len(worse)} of {len(streams)} streams got worse" + (f": {names}{more}." if worse else ".")
    end = start + length
    return Verdict(
        # The first cohort tells partitions apart, the first rubric the flow of scores from that of operational streams.
        verdict_id=stable_id("digest", tenant, watch.name, str(end), cohorts[0].key, watch.rubrics[0]),
        kind="digest",
        tenant=sys.intern(tenant),  # see rollouts._verdict
        time_unix_nano=end,
        rollout=watch.name,
        rubric="digest",
        state="warn" if worse else "ok",
        severity="warn" if worse and watch.digest.notify else "none",
        reason=text,
        evidence=Evidence(
            alpha=watch.digest.alpha,
            digest=DigestEvidence(
                start_unix_nano=start,
                end_unix_nano=end,
                streams=len(streams),
                alpha=watch.digest.alpha,
                found=len(worse),
                entries=entries[:_SHOWN],
            ),
            last_offset=offset,
        ),
    )


def _own(rubric: str, mean: float | None) -> float | None:
    return 1.0 - mean if mean is not None and lower_is_better(rubric) else mean
