"""The story of a verdict as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from drift.direction import STREAMS
from drift.judges import ROLLOUT as ANCHORS
from drift.partition import settings_id
from drift.remainder import ALPHA as REMAINDER_ALPHA
from driftgate import tally_text
from driftgate.config import Config
from driftgate.verdict_story import Story, tested
from stream.records import JudgeEvidence, Verdict

_ROWS = 16  # of the history that are printed
_TALLIES = ("budget", "digest")


def lines(story: Story, config: Config) -> Iterator[str]:
    """Yield the lines."""
    verdict = story.verdict
    was = (
        f" (before: {verdict.previous_state})" if verdict.previous_state not in (None, verdict.state) else ""
    )
    action = f", action {verdict.action}" if verdict.action != "none" else ""
    yield f"verdict {verdict.verdict_id}: {verdict.state}{was}{action}"
    yield f"  {verdict.reason}"
    yield ""
    yield from _field("when", f"{stamp(verdict.time_unix_nano)} UTC, event time")
    yield from _field("about", _about(verdict))
    if verdict.kind not in _TALLIES:
        yield from _field("evaluator", verdict.evaluator or "none yet")
    yield from _evidence(verdict)
    yield from _windows(verdict)
    yield from _settings(verdict, config)
    yield from _left_out(story)
    yield from _list("worst traces", verdict.evidence.worst_trace_ids)
    yield from _input(story)
    yield ""
    yield from _history(tested(story.history))


def stamp(time_ns: int) -> str:
    """Return a time as ``2026-01-31 12:00:00``."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _field(name: str, text: str) -> Iterator[str]:
    yield f"{name:<14}{text}"


def _list(name: str, items: Sequence[str]) -> Iterator[str]:
    for place, item in enumerate(items):
        yield from _field(name if not place else "", item)


def _about(verdict: Verdict) -> str:
    if verdict.kind in _TALLIES:
        return tally_text.about(verdict)
    if verdict.rollout == ANCHORS and verdict.kind == "drift":
        return f"judge {verdict.evaluator} on rubric {verdict.rubric}, by labelled examples that it scores again and again"
    if verdict.kind == "canary":
        return (
            f"rollout {verdict.rollout}, route {verdict.route or '(none)'}, rubric {verdict.rubric}: {verdict.arm} "
            f"{verdict.candidate} (candidate) against {verdict.incumbent} (incumbent)"
        )
    return (
        f"watch {verdict.rollout}, rubric {verdict.rubric}: {verdict.candidate} against {verdict.incumbent}"
    )


def _evidence(verdict: Verdict) -> Iterator[str]:
    one = verdict.evidence
    if verdict.kind in _TALLIES:
        yield from _list("evidence", tally_text.evidence(verdict))
        return
    if verdict.rollout == ANCHORS and verdict.kind == "drift":
        yield from _list("evidence", _judge(one.judge))
        return
    rows = []
    if verdict.kind == "canary":
        rows.append(_against("e-value", one.e_value, one.e_threshold))
    rows.append(_against("e-SR", one.sr_value, one.sr_threshold))
    if verdict.kind == "canary":
        rows.append(
            f"{one.pairs:,} pairs from {one.candidate_units:,} candidate and {one.incumbent_units:,} incumbent units "
            f"(effective {one.effective_units:,.1f}; {one.contaminated_units:,} in both arms, left out)"
        )
        if one.mean_difference is not None and one.interval_low is not None and one.interval_high is not None:
            rows.append(
                f"mean difference {one.mean_difference:+.3f}, always-valid {1 - one.alpha:.0%} interval "
                f"{one.interval_low:+.3f} to {one.interval_high:+.3f}; tolerated "
                f"{one.margin if one.lower_is_better else -one.margin:+.3f}"
            )
        if one.sample_ratio_p is not None:
            rows.append(f"sample ratio: p = {one.sample_ratio_p:.3g}")
    else:
        rows.append(
            f"{one.candidate_units:,} units since the baseline, which {one.incumbent_units:,} units made"
        )
    yield from _list("evidence", rows)
    yield from _list("the judge", _judge(one.judge))


def _judge(judge: JudgeEvidence | None) -> list[str]:
    if judge is None:
        return []
    rows = [
        _against("e-SR for stricter", judge.lower_value, judge.threshold),
        _against("e-SR for more lenient", judge.higher_value, judge.threshold),
    ]
    if judge.shift is not None:
        rows.append(
            f"shift {judge.shift:+.3f} ± {1.96 * (judge.shift_error or 0.0):.3f} on labelled examples over the last "
            f"{judge.seconds:,} s; {judge.bias or 0.0:+.3f} from people; {judge.anchors:,} examples scored"
        )
    if judge.remaining is not None:
        rows.append(
            f"what the shift does not explain since the alarm: {judge.remaining:+.3f}, "
            + _against("e-value", judge.remaining_value, 1.0 / REMAINDER_ALPHA)
        )
    return rows


def _against(name: str, value: float, bar: float) -> str:
    return f"{name} {value:,.4g} of {bar:,.4g}: {'reached' if bar and value >= bar else 'not reached'}"


def _windows(verdict: Verdict) -> Iterator[str]:
    rows = []
    other = "incumbent" if verdict.kind == "canary" else "expected"
    for window in verdict.evidence.windows:
        means = [
            f"{name} {'-' if mean is None else f'{mean:.3f}'} ({n:,} units)"
            for name, mean, n in (
                ("candidate", window.candidate_mean, window.candidate_n),
                (other, window.incumbent_mean, window.incumbent_n),
            )
        ]
        size = "" if window.difference is None else f", difference {window.difference:+.3f}"
        error = "" if window.standard_error is None else f" ± {1.96 * window.standard_error:.3f}"
        rows.append(f"last {window.seconds:,} s: {means[0]}, {means[1]}{size}{error}")
    yield from _list("windows", rows)


def _settings(verdict: Verdict, config: Config) -> Iterator[str]:
    drift, evidence = config.drift, verdict.evidence
    rows = tally_text.settings(verdict, drift) if verdict.kind in _TALLIES else []
    if evidence.alpha and verdict.kind not in _TALLIES:
        rows.append(f"this rubric was tested with margin {evidence.margin:g} and alpha {evidence.alpha:g}")
    for rollout in drift.rollouts:
        if verdict.kind == "canary" and rollout.name == verdict.rollout:
            parts = (
                ("rubrics", rollout.rubrics, rollout.rubric_alpha),
                ("severe", rollout.severe, rollout.severe_share),
                ("operations", rollout.operations, rollout.operations_share),
            )
            gated = "; ".join(f"{name} {', '.join(names)} {alpha:g}" for name, names, alpha in parts if names)
            rows.append(
                f"alpha {rollout.alpha:g} for all that can roll back ({gated}), of which {1 - rollout.late_share:.0%} from "
                f"the start and {rollout.late_share:.0%} for late changes; margin {rollout.margin:g}"
            )
            rows.append(
                f"at least {rollout.min_units} units per arm, present window {rollout.present_window:g} s, page size "
                f"{rollout.size:g}, warn size {rollout.warn_size:g}, max_units {rollout.max_units:,}"
            )
    rows.extend(
        f"margin {watch.margin:g}, page size {watch.page_size:g}, warn size {watch.warn_size:g}, "
        f"{watch.false_pages_per_week:g} false pages a week, learns {watch.learn:g} s and {watch.min_units} units"
        for watch in drift.watches
        if verdict.kind == "drift" and watch.name == verdict.rollout
    )
    sessions = (
        ""
        if verdict.kind == "budget"
        else f", sessions end after {drift.units.idle:g} s of silence or {drift.units.max:g} s"
    )
    rows.append(f"bucket {drift.bucket:g} s, lateness {drift.lateness:g} s{sessions}")
    if evidence.earlier_settings:
        rows.append(
            f"the gate had other settings before, one after the other: {', '.join(evidence.earlier_settings)}"
        )
    ours = settings_id(drift)
    if not verdict.settings:
        rows.append("the verdict does not say which settings it was made with")
    elif verdict.settings != ours:
        rows.append(f"CAUTION: these are not the settings of the verdict ({verdict.settings}, here {ours})")
    yield from _list("settings", rows)


def _left_out(story: Story) -> Iterator[str]:
    # Facts of all traces are no scores: what of them was left out is in the ledger only.
    about_scores = story.verdict.kind not in _TALLIES and story.verdict.rollout != ANCHORS
    if story.differences is None or story.verdict.rubric in STREAMS or not about_scores:
        return
    rows = [
        f"{left.count:,} {reason.replace('_', ' ')}; for example trace {', '.join(left.traces)}"
        for reason, left in sorted(story.left.items(), key=lambda item: -item[1].count)
    ]
    total = sum(left.count for left in story.left.values())
    yield from _list(
        "left out", [f"{total:,} of {story.scores:,} scores of this rubric and these arms", *rows]
    )


def _input(story: Story) -> Iterator[str]:
    evidence = story.verdict.evidence
    rows = [
        f"log offsets {evidence.first_offset:,} to {evidence.last_offset:,}, read from the {story.source or 'log'}"
    ]
    if story.differences is None:
        rows.append("not run again: what was read is no longer there")
    elif story.differences:
        rows.append("run again, it comes out DIFFERENTLY:")
        rows += story.differences[:10]
    else:
        rows.append("run again, it gives the same verdict to the byte")
    yield from _list("input", rows)


def _history(history: list[Verdict]) -> Iterator[str]:
    if not history:
        return
    if history[-1].kind in _TALLIES:
        yield from tally_text.history(chosen_rows(history, _ROWS))
        return
    canary = history[-1].kind == "canary"
    evidence = f"{'pairs':>8}{'e-value':>12}" if canary else f"{'units':>8}"
    interval = f"{'interval':>18}" if canary else ""
    yield f"{'time (UTC)':<21}{'state':<24}{evidence}{'e-SR':>12}{'now':>9}{interval}".rstrip()
    for verdict in chosen_rows(history, _ROWS):
        one = verdict.evidence
        window = next((item for item in one.windows if item.difference is not None), None)
        now = "" if window is None or window.difference is None else f"{window.difference:+.3f}"
        evidence = f"{one.pairs:>8,}{one.e_value:>12.4g}" if canary else f"{one.candidate_units:>8,}"
        interval = ""
        if canary and one.interval_low is not None and one.interval_high is not None:
            interval = f"{one.interval_low:>+11.3f} {one.interval_high:+.3f}"
        yield (
            f"{stamp(verdict.time_unix_nano):<21}{verdict.state:<24}{evidence}{one.sr_value:>12.4g}{now:>9}{interval}"
        )


def chosen_rows(history: list[Verdict], limit: int) -> list[Verdict]:
    """Return the first and last verdict, those where the state changed (the last ``limit``), and some between, in order."""
    changes = [place for place, one in enumerate(history) if one.state != one.previous_state][-limit:]
    chosen = {0, len(history) - 1, *changes}
    left = max(0, limit - len(chosen))
    step = max(1, len(history) // (left + 1))
    chosen |= set(list(range(step, len(history), step))[:left])
    return [history[place] for place in sorted(chosen)]
