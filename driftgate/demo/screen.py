"""Draws the demo: one screen that follows the spans from left to right and the story from top to bottom."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from driftgate.demo.observer import Snapshot

_STATE_STYLE = {"regressed": "bold red", "warn": "yellow", "ok": "green", "non_inferior": "green"}


def draw(
    snapshot: Snapshot, phase: str, elapsed: float, story: list[str], payloads: list[str]
) -> RenderableType:
    """Return the whole screen."""
    head = Text.assemble(("driftgate demo  ", "bold"), (f"{elapsed:5.1f} s  ", "dim"), (phase, "bold cyan"))
    top = Table.grid(expand=True, padding=(0, 1))
    top.add_column(ratio=1)
    top.add_column(ratio=1)
    top.add_column(ratio=1)
    top.add_row(_collector(snapshot), _sampler(snapshot), _scores(snapshot))
    return Group(
        head,
        top,
        _cohorts(snapshot),
        Panel("\n".join(story[-10:]) or "…", title="what happened", title_align="left"),
        Panel(
            "\n".join(payloads[-4:]) or "nothing yet",
            title="received by Slack and PagerDuty",
            title_align="left",
        ),
    )


def _collector(snapshot: Snapshot) -> Panel:
    redactions = snapshot.counters("collector", "redactions.")
    lines = [
        f"received  {snapshot.counter('collector', 'spans_received'):>7,}",
        f"published {snapshot.counter('collector', 'spans_published'):>7,}",
        f"refused   {snapshot.counter('collector', 'spans_refused'):>7,}",
        "redacted  " + ", ".join(f"{name} {number:,}" for name, number in sorted(redactions.items())),
    ]
    return Panel("\n".join(lines), title="spans in", title_align="left")


def _sampler(snapshot: Snapshot) -> Panel:
    kept = snapshot.counters("sampler", "traces_kept.")
    lines = [
        f"kept      {snapshot.counter('sampler', 'traces_kept'):>7,}",
        f"dropped   {snapshot.counter('sampler', 'traces_dropped'):>7,}",
        f"pending   {snapshot.counter('sampler', 'spans_pending'):>7,} spans",
        "why       " + ", ".join(f"{name} {number:,}" for name, number in sorted(kept.items())),
    ]
    return Panel("\n".join(lines), title="traces sampled", title_align="left")


def _scores(snapshot: Snapshot) -> Panel:
    lines = [
        f"scored    {snapshot.counter('scorer', 'scores_scored'):>7,}",
        f"skipped   {snapshot.counter('scorer', 'scores_skipped'):>7,}",
        f"failed    {snapshot.counter('scorer', 'scores_failed'):>7,}",
        f"in ClickHouse {snapshot.counter('store', 'rows.scores'):>7,}",
    ]
    return Panel("\n".join(lines), title="scores", title_align="left")


def _cohorts(snapshot: Snapshot) -> Panel:
    table = Table(expand=True, box=None, padding=(0, 1))
    for title in ("rubric", "cohort", "mean ± error", "n", "evidence"):
        table.add_column(title, justify="right" if title in ("n", "mean ± error") else "left")
    evidence = {row[0]: row for row in snapshot.verdicts}
    last = ""
    for cohort, rubric, mean, error, n in snapshot.cohorts:
        verdict = evidence.get(rubric) if rubric != last else None
        table.add_row(
            rubric if rubric != last else "",
            cohort.replace("prompt_version=", "").replace("route=", ""),
            "-" if mean is None else f"{mean:.3f} ± {error or 0.0:.3f}",
            str(n),
            _evidence(verdict),
        )
        last = rubric
    return Panel(table, title="cohorts, 15 minutes", title_align="left")


def _evidence(verdict: list[Any] | None) -> Text:
    if verdict is None:
        return Text("")
    _, state, e_value, threshold, sr_value, pairs, difference, *_ = verdict
    shift = "" if difference is None else f", difference {difference:+.2f}"
    text = f"{state}: e-value {e_value:.3g} of {threshold:.0f}, e-SR {sr_value:.3g}, {pairs} pairs{shift}"
    return Text(text, style=_STATE_STYLE.get(state, ""))
