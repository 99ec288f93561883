"""Error rates and delays of the canary gate, by simulation with the stage's own mathematics.

    python bench/statistics.py [--runs 2000] [--seed 2026] [--only NAME ...] [--write]

Every table names its seed. Shares come with 95 % Wilson intervals. ``--write`` puts the tables that
were made into docs/statistics.md. All of it takes about half an hour on one core; ``--runs 100`` gives a first look.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Python puts the folder of a script first, where this file would be found as the standard library's "statistics" and
# drift.py as the package of that name; last, it gives the modules beside this one only.
_HERE = Path(__file__).resolve().parent
sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != _HERE]
sys.path += [str(_HERE.parent), str(_HERE)]

import numpy as np  # noqa: E402
from attribution import SETTLE, attributed, digests, judge_false_alarms  # noqa: E402
from cohort_drift import Cohort, run_lengths  # noqa: E402
from peer_rules import Adwin, ArmSums, asymptotic_sequence, threshold_rule, z_test  # noqa: E402
from score_streams import (  # noqa: E402
    DAY,
    FAILING,
    HEALTHY,
    Intents,
    Minute,
    Stream,
    answered,
    full,
    one_level_lower,
    steady,
    worthless,
)  # fmt: skip
from vector_gate import VectorGate, VectorRollout  # noqa: E402

from drift.settings import RolloutSettings  # noqa: E402

_PAGE = _HERE.parent / "docs" / "statistics.md"
_BEGIN, _END = "<!-- bench/statistics.py -->", "<!-- /bench/statistics.py -->"
_NAMED = re.compile(r"<!-- (\w+) -->\n(.*?)(?=<!-- \w+ -->|\Z)", re.DOTALL)
NEVER = 10**9


def wilson(hits: int, runs: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share."""
    p = hits / runs
    centre, spread = p + z * z / (2 * runs), z * math.sqrt(p * (1 - p) / runs + z * z / (4 * runs * runs))
    return max(0.0, (centre - spread) / (1 + z * z / runs)), (centre + spread) / (1 + z * z / runs)


def gate_settings(margin: float, **more: Any) -> RolloutSettings:
    return RolloutSettings(rubrics=["quality"], margin=margin, **more)


class FirstAlarm:
    """When each rollout was first called bad, in minutes from 1."""

    def __init__(self, runs: int) -> None:
        self.minute = np.full(runs, NEVER)

    def note(self, at: int, alarmed: Any) -> None:
        self.minute[alarmed & (self.minute == NEVER)] = at

    def share(self, within: int) -> str:
        hits, runs = int((self.minute <= within).sum()), len(self.minute)
        low, high = wilson(hits, runs)
        return f"{hits / runs:.3f} ({low:.3f}–{high:.3f})"

    def median(self, limit: int) -> str:
        value = float(np.median(self.minute))
        return f"{value:g}" if value <= limit else f"> {limit}"


def follow(
    stream: Stream, settings: RolloutSettings, runs: int, minutes: int, seed: int, severe: float | None = None
) -> FirstAlarm:
    """Run one gate per rollout over the stream; stop when all have alarmed."""
    rng = np.random.default_rng(seed)
    gate, alarm = VectorGate(runs, settings, severe), FirstAlarm(runs)
    for at in range(minutes):
        alarm.note(at + 1, gate.step(stream(rng, at, runs)))
        if gate.regressed.all():
            break
    return alarm


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield title
    yield ""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def follow_rollouts(
    name: str, settings: RolloutSettings, runs: int, minutes: int, seed: int
) -> dict[str, FirstAlarm]:
    """Run rollouts on everything that gates, over a healthy stream; return the alarms of the parts and of all together.

    The rubrics and the failures are drawn independently of each other, which makes "any of them" most frequent. "one
    rubric" is what the first would have done as the only one, with the same part of alpha.
    """
    rng = np.random.default_rng(seed)
    stream, failing = HEALTHY[name], FAILING.get(name) or steady(draw=answered)
    rollout = VectorRollout(runs, settings)
    alone = np.zeros(runs, dtype=bool)
    alarms = {
        part: FirstAlarm(runs) for part in ("one rubric", "rubrics", "stream", "all", "one rubric or stream")
    }
    for at in range(minutes):
        bad = rollout.step([stream(rng, at, runs) for _ in settings.rubrics], failing(rng, at, runs))
        first = rollout.rubrics[0]
        alone |= first.judge(first.log_e, first.log_sr)
        for part, alarmed in (
            ("one rubric", alone),
            ("rubrics", bad[:-1].any(axis=0)),
            ("stream", bad[-1]),
            ("all", bad.any(axis=0)),
            ("one rubric or stream", alone | bad[-1]),
        ):
            alarms[part].note(at + 1, alarmed)
    return alarms


def false_rollbacks(runs: int, seed: int) -> Iterator[str]:
    """Healthy candidates, margin 0 (the hardest case of the hypothesis), looked at every minute for a day."""
    settings = RolloutSettings(margin=0.0)

    def rows() -> Iterator[Sequence[str]]:
        for place, name in enumerate(HEALTHY):
            alarms = follow_rollouts(name, settings, runs, DAY, seed + place)
            yield (
                name, *(str(int((alarms[part].minute <= DAY).sum())) for part in ("rubrics", "stream", "all")),
                alarms["all"].share(60), alarms["all"].share(DAY), alarms["one rubric or stream"].share(DAY),
            )  # fmt: skip

    yield from table(
        f"**False rollbacks**, by anything that the default settings gate on: two rubrics, which share alpha "
        f"{settings.rubric_alpha:g}, and `error_rate` of all traffic with {settings.operations_share:g}; alpha "
        f"{settings.alpha:g} in all. {runs} healthy candidates per row, 24 h, margin 0; seeds {seed} to "
        f"{seed + len(HEALTHY) - 1}. Share of candidates that anything rolled back, with 95 % Wilson interval; in the last "
        "column with one rubric instead of two.",
        (
            "stream of scores", f"of {runs}: by rubrics", "by `error_rate`", "by either", "share in 1 h", "share in 24 h",
            "24 h, one rubric",
        ),
        rows(),
    )  # fmt: skip


def compare(stream: Stream, runs: int, minutes: int, seed: int) -> dict[str, FirstAlarm]:
    """Run the gate and the peers' rules side by side on the same scores."""
    rng = np.random.default_rng(seed)
    gates = {
        "gate, margin 0": VectorGate(runs, gate_settings(0.0)),
        "gate, margin .02 (default)": VectorGate(runs, gate_settings(0.02)),
    }
    sums, adwin = ArmSums(runs), Adwin(runs)
    rules: dict[str, Callable[[ArmSums], Any]] = {
        "15-min mean more than .05 lower": threshold_rule,
        "15-min z-test, p < .05": z_test,
        "asymptotic sequence (GrowthBook)": asymptotic_sequence,
    }
    alarms = {name: FirstAlarm(runs) for name in (*gates, *rules, "ADWIN (river)")}
    for at in range(1, minutes + 1):
        minute = stream(rng, at - 1, runs)
        for name, gate in gates.items():
            alarms[name].note(at, gate.step(minute))
        sums.add(minute)
        for name, rule in rules.items():
            alarms[name].note(at, rule(sums))
        alarms["ADWIN (river)"].note(at, adwin.step(minute))
    alarms["always fire"] = FirstAlarm(runs)
    alarms["always fire"].minute[:] = 1
    alarms["never fire"] = FirstAlarm(runs)
    return alarms


def comparison(runs: int, seed: int) -> Iterator[str]:
    """False rollbacks and delays of the gate and of other rules."""
    healthy = compare(steady(), runs, DAY, seed)
    limits = {0.2: 240, 0.1: 480, 0.05: DAY}
    bad = {
        drop: compare(steady(drop=drop), runs, limit, seed + 1 + place)
        for place, (drop, limit) in enumerate(limits.items())
    }
    yield from table(
        f"**Beside other rules**, on the same scores: 5 candidate and 45 incumbent units per minute, looked at every "
        f"minute. {runs} rollouts per column; seeds {seed} to {seed + 3}. Drops: a share of the answers is one level "
        "worse. Delays are medians in minutes, without lateness and idle time.",
        ("rule", "false in 1 h", "false in 24 h", "drop .2", "drop .1", "drop .05"),
        (
            (name, alarm.share(60), alarm.share(DAY), *(bad[d][name].median(limits[d]) for d in limits))
            for name, alarm in healthy.items()
        ),
    )


def other_drops(runs: int, seed: int) -> Iterator[str]:
    """The same drops by worthless answers, which have a larger spread."""

    def rows() -> Iterator[Sequence[str]]:
        for margin in (0.0, 0.02):
            medians = [
                follow(steady(drop=drop, harm=worthless), gate_settings(margin), runs, DAY, seed).median(DAY)
                for drop in (0.2, 0.1, 0.05)
            ]
            yield f"{margin:g}", *medians

    yield from table(
        f"**Drops by worthless answers** (a share of them gets 0; standard deviation up to .41). Median minutes, {runs} "
        f"rollouts, seed {seed}.",
        ("margin", "drop .2", "drop .1", "drop .05"),
        rows(),
    )


def late_onset(runs: int, seed: int) -> Iterator[str]:
    """A candidate that goes bad after 3,600 clean pairs."""
    clean = 720

    def rows() -> Iterator[Sequence[str]]:
        for harm, name in ((one_level_lower, "one level worse"), (worthless, "worthless answers")):
            medians = []
            for drop, limit in ((0.2, 200), (0.1, 300), (0.05, 600)):
                stream = steady(drop=drop, bad_from=clean, harm=harm)
                alarm = follow(stream, gate_settings(0.02), runs, clean + limit, seed)
                late = alarm.minute[alarm.minute > clean]
                pairs = 5 * (float(np.median(late)) - clean)
                medians.append(f"{pairs:g}" if pairs <= 5 * limit else f"> {5 * limit}")
            yield name, *medians

    yield from table(
        f"**Late onset**: pairs from the change to `regressed` after 3,600 clean pairs, margin .02, `max_units` 5,000. "
        f"Medians of {runs} rollouts, seed {seed}.",
        ("kind of drop", "drop .2", "drop .1", "drop .05"),
        rows(),
    )


def fast_traffic(runs: int, seed: int) -> Iterator[str]:
    """Ten scores a second, a canary of 20 %."""
    medians = [
        follow(steady(120, 480, drop=0.1), gate_settings(margin), runs, 60, seed).median(60)
        for margin in (0.0, 0.02)
    ]
    yield from table(
        f"**10 scores per second, canary of 20 %, drop .1.** Median minutes of {runs} rollouts, seed {seed}.",
        ("margin 0", "margin .02"),
        [medians],
    )


def paired_within_strata(
    drop: float, margin: float, minutes: int, runs: int, seed: int
) -> tuple[FirstAlarm, FirstAlarm]:
    """Return the alarms of a gate without strata and of one with, on the same scores."""
    rng = np.random.default_rng(seed)
    intents = Intents(drop)
    gates = [VectorGate(runs, gate_settings(margin)) for _ in range(2)]
    alarms = (FirstAlarm(runs), FirstAlarm(runs))
    for at in range(1, minutes + 1):
        for gate, alarm, minute in zip(gates, alarms, intents.minute(rng, runs), strict=True):
            alarm.note(at, gate.step(minute))
        if all(gate.regressed.all() for gate in gates):
            break
    return alarms


def covariate(runs: int, seed: int) -> Iterator[str]:
    """Pairing within the strata of a known covariate against pairing without."""

    def rows() -> Iterator[Sequence[str]]:
        for margin in (0.0, 0.02):
            for drop in (0.2, 0.1, 0.05):
                plain, split = paired_within_strata(drop, margin, DAY, runs, seed)
                saved = 1.0 - float(np.median(split.minute)) / float(np.median(plain.minute))
                yield f"{margin:g}", f"{drop:g}", plain.median(DAY), split.median(DAY), f"{saved:.0%}"
        _, split = paired_within_strata(0.0, 0.0, DAY, runs, seed)
        yield "0", "none (healthy)", "", f"false in 24 h: {split.share(DAY)}", ""

    yield from table(
        f"**Known covariate** (`strata`): four intents that explain {Intents().explained():.0%} of the variance, 5 + 45 "
        f"per minute. Median minutes of {runs} rollouts, seed {seed}, both columns on the same scores.",
        ("margin", "drop", "without strata", "with strata", "time saved"),
        rows(),
    )


def time_to_false_alarm(runs: int, seed: int) -> Iterator[str]:
    """The detector on the edge of its hypothesis and with the margin that healthy cohorts have."""

    def rows() -> Iterator[Sequence[str]]:
        for place, (threshold, excess) in enumerate(((300, 0.0), (1000, 0.0), (1000, 0.02))):
            limit = 10 * threshold
            lengths = run_lengths(threshold, excess, runs, limit, seed + place)
            silent = float((lengths == limit).mean())
            yield f"{threshold:,}", f"{excess:g}", f"{lengths.mean():,.0f}", f"{silent:.0%}"

    yield from table(
        f"**Time to a false alarm** of the cohort detector, {runs} streams per row, cut off at ten times the threshold "
        f"(so the averages are lower bounds); seeds {seed} to {seed + 2}.",
        ("threshold A", "mean above m", "average units to an alarm", "silent to the end"),
        rows(),
    )


def cohorts(runs: int, seed: int) -> Iterator[str]:
    """Healthy cohorts for a day, and delays, at default settings."""
    streams = 200

    def watched(place: int, minutes: int, drop: float = 0.0) -> list[int | None]:
        rng = np.random.default_rng(seed + place)
        count = max(10, min(streams, runs // 10))
        return [Cohort(rng, 0.1 * (i % 2)).until_page(minutes, streams, drop) for i in range(count)]

    def rows() -> Iterator[Sequence[str]]:
        healthy = watched(0, 1440)
        pages = sum(found is not None for found in healthy)
        yield "healthy, one day", str(len(healthy)), f"{pages} pages", ""
        for place, (drop, minutes) in enumerate(((0.2, 2880), (0.1, 2880), (0.05, 5760)), 1):
            delays = [minutes + 1 if found is None else found for found in watched(place, minutes, drop)]
            hits = sum(delay <= minutes for delay in delays)
            middle = float(np.median(delays))
            yield (
                f"drop {drop:g}", str(len(delays)), f"{hits} pages", f"{middle:g}" if middle <= minutes else f"> {minutes}",
            )  # fmt: skip

    yield from table(
        f"**Watched cohorts**, default settings, threshold for {streams} streams (about 2·10⁶), one unit a minute, a week of "
        f"learning each, half of them with a daily swing of ±.1; seeds {seed} to {seed + 3}. A page needs a present drop of "
        "at least `page_size` (.05), so a drop of .05 pages only when the last hour looks worse than it is.",
        ("case", "cohorts", "result", "median units to the page"),
        rows(),
    )


def severe(runs: int, seed: int) -> Iterator[str]:
    """A binary stream tested by itself: the fast path of severe rubrics and of operational streams."""
    settings = gate_settings(0.02)
    part = settings.operations_share

    def errors(rate: float) -> Stream:
        def minute(rng: np.random.Generator, at: int, count: int) -> Minute:
            del at
            return Minute(
                [
                    (
                        full((rng.random((count, 5)) >= rate).astype(np.float64)),
                        full((rng.random((count, 45)) >= 0.01).astype(np.float64)),
                    )
                ]
            )

        return minute

    def rows() -> Iterator[Sequence[str]]:
        alarm = follow(errors(0.01), settings, runs, DAY, seed, part)
        yield "1 % (healthy)", f"false in 24 h: {alarm.share(DAY)}", ""
        alarm = follow(errors(0.03), settings, runs, DAY, seed + 1, part)
        yield "3 % (tolerated: margin .02)", f"false in 24 h: {alarm.share(DAY)}", ""
        for place, rate in enumerate((0.06, 0.11, 0.21, 0.51), 2):
            alarm = follow(errors(rate), settings, runs, DAY, seed + place, part)
            middle = float(np.median(alarm.minute))
            yield f"{rate:.0%}", f"{alarm.median(DAY)} min", f"{5 * middle:g}" if middle < NEVER else ""

    yield from table(
        f"**Severe rubrics and operational streams**: each tested by itself, alpha {part:g}, margin .02, at least 10 units; "
        f"incumbent 1 % bad, 5 + 45 units per minute. Medians of {runs} rollouts, seeds {seed} to {seed + 5}.",
        ("candidate's bad share", "result", "candidate units"),
        rows(),
    )


def who_moved(runs: int, seed: int) -> Iterator[str]:
    """Judge bumps and system regressions, told apart by anchors."""
    count = max(10, min(200, runs // 10))

    def rows() -> Iterator[Sequence[str]]:
        cases = (
            ("judge", 0.2, 0.0, 1.0), ("judge", 0.1, 0.0, 1.0), ("judge", 0.1, 0.0, 0.5), ("system", 0.0, 0.2, 1.0),
            ("system", 0.0, 0.1, 1.0), ("both", 0.1, 0.14, 1.0), ("both", 0.1, 0.14, 0.5), ("both", 0.1, 0.1, 1.0),
        )  # fmt: skip
        for place, (who, judge, system, rate) in enumerate(cases):
            found, alarms, waits = attributed(judge, system, count, seed + place, rate)
            right, alarmed = found[who], count - found["no alarm"]
            low, high = wilson(right, max(1, alarmed))
            others = ", ".join(f"{name} {number}" for name, number in sorted(found.items()) if name != who)
            yield (
                who, f"{judge:g} / {system:g}", f"{rate:g}", f"{right} of {alarmed}: {right / max(1, alarmed):.3f} "
                f"({low:.3f}–{high:.3f})", others, f"{float(np.median(alarms)):g}", f"{float(np.median(waits)):g}",
            )  # fmt: skip
        hits = judge_false_alarms(count, 1440, seed + 9)
        low, high = wilson(hits, count)
        yield (
            "nobody",
            "0 / 0",
            "1",
            f"judge called changed: {hits} of {count} ({low:.3f}–{high:.3f})",
            "",
            "",
            "",
        )

    yield from table(
        f"**System or judge**: drops of the judge's scores and of the system, default settings, 100 anchors on which the "
        f"judge's noise is one level in 30 % of the scores, one unit a minute; {count} simulations per row, seeds {seed} to "
        f"{seed + 9}. What the verdict says {SETTLE} units after the alarm of the cohort; median units to the alarm, and from "
        "there until it says so. The last row: 1,440 anchor scores of a judge that does not change.",
        (
            "who moved",
            "judge / system drop",
            "anchors per unit",
            "attributed rightly",
            "others",
            "units to alarm",
            "then",
        ),
        rows(),
    )


def digest(runs: int, seed: int) -> Iterator[str]:
    """e-BH over 200 cohorts for a day."""
    count = max(20, runs // 4)

    def rows() -> Iterator[Sequence[str]]:
        cases = (
            ("all healthy, at the edge of the hypothesis", 0, 0.0, 0.0, 0.0),
            ("the same, scores shared by all in half of the moments", 0, 0.0, 0.5, 0.0),
            ("20 drop by .1, the others at the edge", 20, 0.1, 0.0, 0.0),
            ("20 drop by .1, half of the moments shared", 20, 0.1, 0.5, 0.0),
            ("20 drop by .1, the others as learned", 20, 0.1, 0.0, 0.02),
            ("20 drop by .05, the others as learned", 20, 0.05, 0.0, 0.02),
        )
        for place, (name, bad, drop, shared, excess) in enumerate(cases):
            wrong, power = digests(200, bad, drop, shared, excess, 480, count, seed + place, 0.1)
            error = 1.96 * float(wrong.std()) / math.sqrt(count)
            yield name, f"{wrong.mean():.4f} ± {error:.4f}", f"{power.mean():.0%}" if bad else ""

    yield from table(
        f"**Digest**: e-BH at alpha .1 over 200 cohorts of 480 units a day, {count} digests per row, seeds {seed} to "
        f"{seed + 5}. Mean share of wrong findings (0 where nothing is found) and of the bad cohorts that were found.",
        ("case", "false discovery rate", "found"),
        rows(),
    )


TABLES: dict[str, Callable[[int, int], Iterator[str]]] = {
    "false_rollbacks": false_rollbacks,
    "comparison": comparison,
    "other_drops": other_drops,
    "late_onset": late_onset,
    "fast_traffic": fast_traffic,
    "covariate": covariate,
    "time_to_false_alarm": time_to_false_alarm,
    "cohorts": cohorts,
    "severe": severe,
    "who_moved": who_moved,
    "digest": digest,
}


def write(tables: Mapping[str, Sequence[str]], page: Path = _PAGE) -> None:
    """Put tables by name between the two markers of the page; those that are not given stay as they are."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    old, after = rest.split(_END)
    known = {name: part.strip("\n") for name, part in _NAMED.findall(old)}
    known |= {name: "\n".join(lines).strip("\n") for name, lines in tables.items()}
    body = "\n\n".join(f"<!-- {name} -->\n\n{known[name]}" for name in TABLES if name in known)
    page.write_text(f"{before}{_BEGIN}\n\n{body}\n\n{_END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--only", nargs="*", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/statistics.md")
    options = parser.parse_args()
    for place, name in enumerate(TABLES):
        if name not in options.only:
            continue
        begin = time.perf_counter()
        lines: list[str] = []
        for line in TABLES[name](options.runs, options.seed + 100 * place):
            lines.append(line)
            print(line, flush=True)
        print(f"[{name}: {time.perf_counter() - begin:.0f} s]", file=sys.stderr, flush=True)
        if options.write:
            write({name: lines})


if __name__ == "__main__":
    main()
