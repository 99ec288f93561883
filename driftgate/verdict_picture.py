"""The story of a verdict as a picture: the evidence against its threshold, the arms, and their difference."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from driftgate.verdict_story import Story, tested
from driftgate.verdict_text import stamp
from stream.errors import StartError
from stream.records import Verdict

_CANDIDATE, _INCUMBENT, _SECOND, _BAR = "#c0392b", "#1f618d", "#8e6bbf", "#555555"
_FLOOR = 1e-6  # evidence below this share of its threshold is drawn at it
_FACE = {"regressed": "#c0392b", "warn": "#d68910", "non_inferior": "#1e8449", "ok": "#1e8449"}


def draw(story: Story, path: Path) -> None:
    """Write the picture of ``story`` as a PNG to ``path``.

    Raises
    ------
    StartError
        matplotlib is not installed, or there is nothing to draw.
    """
    if story.verdict.kind not in ("canary", "drift"):
        raise StartError(f"there is no picture of a {story.verdict.kind}; the text says what it rests on")
    if not story.history:
        raise StartError("there is no history of this verdict to draw")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StartError("a picture needs matplotlib: pip install 'driftgate[plot]'") from error
    figure = Figure(figsize=(10, 9.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=[1.1, 1, 1])
    history, verdict = tested(story.history), story.verdict
    times = [_time(one.time_unix_nano) for one in history]
    _draw_evidence(axes[0], times, history)
    _draw_arms(axes[1], times, history, story)
    _draw_difference(axes[2], times, history)
    when = _time(verdict.time_unix_nano)
    colour = _FACE.get(verdict.state, _BAR)
    for axis in axes:
        axis.axvline(when, color=colour, linewidth=1.2)
        axis.grid(visible=True, color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    _mark_changes(axes[0], history, when, verdict, colour)
    _label_time(axes[2], times)
    figure.suptitle(_title(verdict), fontsize=12, x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, format="png")


def _time(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, UTC)


def _title(verdict: Verdict) -> str:
    arms = f"{verdict.candidate} against {verdict.incumbent}"
    where = f", route {verdict.route}" if verdict.route and verdict.kind == "canary" else ""
    return f"{verdict.rubric}: {arms}{where}\n{verdict.state} at {stamp(verdict.time_unix_nano)} UTC"


def _draw_evidence(axis: Any, times: Sequence[datetime], history: Sequence[Verdict]) -> None:
    series = []
    if history[-1].kind == "canary":
        series.append(
            ("e-value", _CANDIDATE, [(one.evidence.e_value, one.evidence.e_threshold) for one in history])
        )
    series.append(("e-SR", _SECOND, [(one.evidence.sr_value, one.evidence.sr_threshold) for one in history]))
    lowest, highest = 1.0, 1.0
    for name, colour, values in series:
        shares = [max(_FLOOR, value / bar) if bar else _FLOOR for value, bar in values]
        lowest, highest = min(lowest, *shares), max(highest, *shares)
        last, bar = values[-1]
        label = f"{name}: {_short(last)}, threshold {_short(bar)}"
        axis.plot(times, shares, color=colour, linewidth=1.8, label=label, marker="o", markersize=2.5)
    axis.axhline(1.0, color=_BAR, linewidth=1.3, linestyle="--")
    axis.set_yscale("log")
    axis.set_ylim(lowest / 3, max(10.0, highest * 4))
    axis.annotate(
        "threshold", (0.0, 1.0), xycoords=("axes fraction", "data"), xytext=(4, 3), textcoords="offset points",
        color=_BAR, fontsize=9,
    )  # fmt: skip
    axis.set_ylabel("evidence / threshold")
    who = "the candidate is worse" if history[-1].kind == "canary" else "it is below its baseline"
    axis.set_title(f"Is it real? Evidence that {who} by more than the margin", loc="left", fontsize=10)
    axis.legend(loc="lower center", ncols=2, frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)


def _short(value: float) -> str:
    return f"{value:,.0f}" if 100 <= value < 1e7 else f"{value:.3g}"


def _draw_arms(axis: Any, times: Sequence[datetime], history: Sequence[Verdict], story: Story) -> None:
    verdict = story.verdict
    drawn = []
    for arm, colour in ((verdict.incumbent, _INCUMBENT), (verdict.candidate, _CANDIDATE)):
        points = story.arms.get(arm, [])
        if not points:
            continue
        at = [_time(point.time_ns) for point in points]
        axis.fill_between(
            at,
            [point.low for point in points],
            [point.high for point in points],
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
        axis.plot(at, [point.mean for point in points], color=colour, linewidth=1.8)
        drawn.append((at[-1], points[-1].mean, "now" if verdict.kind == "drift" else arm, colour))
    what = "Mean per stretch of time, one value per session; bands: 95 % interval of each"
    canary = verdict.kind == "canary"
    bare = not drawn
    if not canary or bare:
        what = "Means of the present window" if bare else what + "; dashed: expected"
        expected, seen = [], []
        for time, one in zip(times, history, strict=True):
            window = next((item for item in one.evidence.windows if item.candidate_n), None)
            if window is not None and window.incumbent_mean is not None and window.candidate_mean is not None:
                expected.append((time, window.incumbent_mean))
                seen.append((time, window.candidate_mean))
        if expected:
            axis.plot(
                *zip(*expected, strict=True),
                color=_INCUMBENT,
                linewidth=1.6,
                linestyle="-" if canary else "--",
            )
            drawn.append((*expected[-1], verdict.incumbent, _INCUMBENT))
        if seen and bare:
            axis.plot(*zip(*seen, strict=True), color=_CANDIDATE, linewidth=1.8)
            drawn.append((*seen[-1], verdict.candidate if canary else "now", _CANDIDATE))
    _name_ends(axis, drawn)
    axis.set_ylabel(f"mean {verdict.rubric}")
    axis.set_title(what, loc="left", fontsize=10)


def _name_ends(axis: Any, drawn: list[tuple[datetime, float, str, str]]) -> None:
    """Write each curve's name beside its end, the upper above and the lower below."""
    for place, (at, value, name, colour) in enumerate(sorted(drawn, key=lambda item: item[1])):
        low, high = axis.get_ylim()
        at_bottom = value - low < 0.12 * (high - low)  # below it the name would stand on the axis
        shift = -12 if place == 0 and len(drawn) > 1 and not at_bottom else 6
        text = name if len(name) <= 40 else name[:39] + "…"
        axis.annotate(
            text, (at, value), xytext=(-4, shift), textcoords="offset points", ha="right", color=colour, fontsize=10,
            fontweight="bold", bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
        )  # fmt: skip


def _draw_difference(axis: Any, times: Sequence[datetime], history: Sequence[Verdict]) -> None:
    canary = history[-1].kind == "canary"
    rows: list[tuple[datetime, float, float, float]] = []
    for time, one in zip(times, history, strict=True):
        evidence = one.evidence
        bounds: tuple[float | None, float | None, float | None] = None, None, None
        if canary:
            bounds = evidence.mean_difference, evidence.interval_low, evidence.interval_high
        else:
            window = next((item for item in evidence.windows if item.difference is not None), None)
            if window is not None and window.difference is not None:
                error = 1.96 * (window.standard_error or 0.0)
                bounds = window.difference, window.difference - error, window.difference + error
        value, low, high = bounds
        if value is not None and low is not None and high is not None:
            rows.append((time, value, low, high))
    axis.axhline(0.0, color="#999999", linewidth=0.9)
    last = history[-1].evidence
    margin = last.margin if last.lower_is_better else -last.margin
    axis.axhline(margin, color=_BAR, linewidth=1.3, linestyle="--")
    axis.annotate(
        f"tolerated: {margin:+.3g}", (0.0, margin), xycoords=("axes fraction", "data"), xytext=(4, 3 if margin > 0 else -12),
        textcoords="offset points", color=_BAR, fontsize=9,
    )  # fmt: skip
    if rows:
        at = [row[0] for row in rows]
        lows, highs = [row[2] for row in rows], [row[3] for row in rows]
        axis.fill_between(
            at, lows, highs, color=_CANDIDATE, alpha=0.15, linewidth=0, step="post" if canary else None
        )
        axis.plot(at, [row[1] for row in rows], color=_CANDIDATE, linewidth=1.8)
        # A band ends where its last value begins; where the first value decided, there is none.
        when, value, low, high = rows[-1]
        axis.errorbar(
            [when],
            [value],
            yerr=[[value - low], [high - value]],
            color=_CANDIDATE,
            fmt="o",
            markersize=4,
            capsize=4,
        )
        # The first intervals span everything and would flatten the rest.
        settled = [row for row in rows if row[3] - row[2] < 0.4] or rows
        bottom, top = min(row[2] for row in settled), max(row[3] for row in settled)
        edge = 0.1 * (top - bottom) + 0.02
        axis.set_ylim(max(-1.05, min(bottom, margin, 0.0) - edge), min(1.05, max(top, margin, 0.0) + edge))
    axis.set_ylabel("candidate − incumbent" if canary else "now − expected")
    kind = (
        "band: interval that is valid at every moment"
        if canary
        else "band: 95 % interval of the present window"
    )
    axis.set_title(
        f"How bad is it? Mean difference since the start; {kind}" if canary else f"How bad is it? {kind}",
        loc="left",
        fontsize=10,
    )


def _mark_changes(
    axis: Any, history: Sequence[Verdict], when: datetime, verdict: Verdict, colour: str
) -> None:
    """Name the decision, and mark where the state changed before."""
    changes = [
        one for one in history if one.state != one.previous_state and one.verdict_id != verdict.verdict_id
    ]
    span = (when - _time(history[0].time_unix_nano)) / 100
    named: datetime | None = None
    for one in changes:
        at, shade = _time(one.time_unix_nano), _FACE.get(one.state, _BAR)
        axis.axvline(at, color=shade, linewidth=0.9, linestyle=":")
        if named is not None and at - named < 2 * span:
            continue  # two names would stand on each other
        named = at
        axis.annotate(
            one.state.replace("_", " "), (at, 0.02), xycoords=("data", "axes fraction"), rotation=90, fontsize=8,
            color=shade, xytext=(2, 0), textcoords="offset points", va="bottom",
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
    action = f" → {verdict.action}" if verdict.action != "none" else ""
    axis.annotate(
        f"{verdict.state.replace('_', ' ')}{action} ", (when, 0.93), xycoords=("data", "axes fraction"), ha="right",
        fontsize=11, fontweight="bold", color=colour,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _label_time(axis: Any, times: Sequence[datetime]) -> None:
    dates: Any = import_module("matplotlib.dates")
    locator = dates.AutoDateLocator(tz=UTC)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))
    axis.set_xlabel("event time (UTC)")
    if times[0] == times[-1]:
        return
    room = (times[-1] - times[0]) * 0.02
    axis.set_xlim(times[0] - room, times[-1] + room)
