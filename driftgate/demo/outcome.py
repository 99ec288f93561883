"""What came of the demo: every claim of the summary as a check that can fail."""

from __future__ import annotations

from pathlib import Path

import msgspec

from driftgate.demo.evidence import Findings
from driftgate.demo.observer import Observer, Snapshot
from driftgate.demo.processes import Child


class Outcome(msgspec.Struct):
    """Facts gathered while the story ran; times are Unix seconds."""

    endpoints: dict[str, str] = {}
    data: Path = Path()
    config: Path = Path()
    snapshot: Snapshot = msgspec.field(default_factory=Snapshot)
    first_bad_answer: float | None = None
    verdict_rubric: str = ""
    rollback_call: float | None = None
    rollback_calls: int = 0
    verified: float | None = None
    findings: Findings | None = None
    ledger_balanced: bool = False
    ledger_text: str = ""
    processes: list[Child] = []
    observer: Observer | None = None

    def checks(self) -> list[tuple[str, bool, str]]:
        """Return (claim, whether it holds, figure)."""
        snapshot = self.snapshot
        redacted = sum(snapshot.counters("collector", "redactions.").values())
        judged = snapshot.counter("scorer", "scores_scored")
        bad, call, done = self.first_bad_answer, self.rollback_call, self.verified
        found = self.findings
        return [
            (
                "spans received and redacted",
                snapshot.counter("collector", "spans_received") > 0 and redacted > 0,
                f"{snapshot.counter('collector', 'spans_received'):,} spans, {redacted:,} values redacted",
            ),
            (
                "traces sampled and scored",
                snapshot.counter("sampler", "traces_kept") > 0 and judged > 0,
                f"{snapshot.counter('sampler', 'traces_kept'):,} traces, {judged:,} scores",
            ),
            ("the regression was found", bool(self.verdict_rubric), self.verdict_rubric),
            (
                "rolled back with one call",
                call is not None and self.rollback_calls == 1,
                "" if call is None or bad is None else f"{call - bad:.1f} s after the first bad answer",
            ),
            (
                "verified in the telemetry",
                done is not None,
                "" if done is None or bad is None else f"{done - bad:.1f} s after the first bad answer",
            ),
            ("ledger balanced", self.ledger_balanced, self.ledger_text),
            (
                "no personal value in any table or file",
                found is not None and found.clean and sum(found.tables.values()) > 0,
                ""
                if found is None
                else f"{found.values_looked_for:,} values looked for in {sum(found.tables.values()):,} rows "
                f"and {found.files} files; found {len(found.in_tables) + len(found.in_files)}",
            ),
        ]

    @property
    def succeeded(self) -> bool:
        """Whether all of it happened."""
        return all(holds for _, holds, _ in self.checks())
