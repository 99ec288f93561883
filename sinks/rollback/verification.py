"""Has a rollback worked? A pure state machine over traffic counts: promise 7, "a rollback is done when telemetry shows it".

The clean stretch starts when the grace after the call is over. Each look counts the spans of both arms that started
within the stretch so far; a candidate share above ``max_share`` starts the stretch anew at the end of what was seen.

* ``verified``: the stretch is at least ``hold`` long and holds ``min_incumbent_traffic`` spans of the incumbent.
* ``failed``: at the deadline the candidate was seen within the last ``hold`` seconds.
* ``unknown``: at the deadline there was too little traffic, or no telemetry, to tell by.

A failed or unknown verification goes on being looked at for ``watch`` seconds and may still become ``verified``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from sinks.alerts_settings import VerifySettings

Verdict = Literal["verifying", "verified", "failed", "unknown"]
_SECOND = 1_000_000_000


class TrafficReader(Protocol):
    """Where counts of spans come from."""

    def traffic(
        self, tenant: str, match: Mapping[str, str], arm: str, since_ns: int, until_ns: int
    ) -> Mapping[str, int]:
        """Return how many spans started in [since, until), by the value of the attribute that tells the arms apart.

        Parameters
        ----------
        tenant
            Only its spans.
        match
            Cohort attributes a trace must have, for example ``{"route": "support"}``; empty for all.
        arm
            Cohort attribute, for example ``prompt_version``.
        since_ns, until_ns
            Unix nanoseconds.

        Raises
        ------
        Transient
            The store cannot be read now.
        """


class Watch(msgspec.Struct, kw_only=True):
    """Where a verification stands. Times are Unix nanoseconds."""

    state: Verdict = "verifying"
    settled_at: int  # spans that start before this do not count
    clean_since: int
    candidate: int = 0  # spans seen by the last look
    incumbent: int = 0
    readable: bool = True  # the last look reached the store
    seen: bool = False  # the candidate had traffic after the grace

    @classmethod
    def start(cls, called_ns: int, settings: VerifySettings) -> Watch:
        """Return the state right after a successful call."""
        settled = called_ns + int(settings.settle * _SECOND)
        return cls(settled_at=settled, clean_since=settled)

    def window(self, now_ns: int, settings: VerifySettings) -> tuple[int, int]:
        """Return [since, until) of the spans to count now; empty while the grace lasts."""
        until = now_ns - int(settings.telemetry_lag * _SECOND)
        return self.clean_since, max(until, self.clean_since)

    def look(self, now_ns: int, candidate: int | None, incumbent: int, settings: VerifySettings) -> Watch:
        """Return the next state, given the counts of :meth:`window`; ``candidate=None`` if they could not be read."""
        since, until = self.window(now_ns, settings)
        deadline = self.settled_at + int(settings.deadline * _SECOND)
        clean_since, seen = since, self.seen
        if candidate is not None:
            share = candidate / (candidate + incumbent) if candidate + incumbent else 0.0
            if share > settings.max_share:
                clean_since, seen = until, True
            elif until - since >= settings.hold * _SECOND and incumbent >= settings.min_incumbent_traffic:
                return self._next("verified", since, candidate, incumbent, seen=seen)
        state = self.state
        if state == "verifying" and now_ns >= deadline:
            recently = seen and until - clean_since < settings.hold * _SECOND
            state = "failed" if recently else "unknown"
        elif state == "unknown" and clean_since != since:
            state = "failed"  # traffic came back, and it is the candidate's
        return self._next(
            state, clean_since, candidate or 0, incumbent, seen=seen, readable=candidate is not None
        )

    def _next(
        self,
        state: Verdict,
        clean_since: int,
        candidate: int,
        incumbent: int,
        *,
        seen: bool,
        readable: bool = True,
    ) -> Watch:
        return Watch(
            state=state,
            settled_at=self.settled_at,
            clean_since=clean_since,
            candidate=candidate,
            incumbent=incumbent,
            readable=readable,
            seen=seen,
        )

    def finished(self, now_ns: int, settings: VerifySettings) -> bool:
        """Return whether there is nothing more to look for."""
        return self.state == "verified" or now_ns >= self.settled_at + int(
            (settings.deadline + settings.watch) * _SECOND
        )

    def describe(self) -> str:
        """Return one sentence for people."""
        counts = f"{self.candidate} candidate and {self.incumbent} incumbent spans"
        if not self.readable:
            return "the telemetry store could not be read"
        return {
            "verifying": f"watching: {counts} since the candidate was last seen",
            "verified": f"the candidate has no traffic any more ({counts})",
            "failed": f"the candidate still has traffic ({counts})",
            "unknown": f"cannot verify: too little traffic to tell by ({counts})",
        }[self.state]
