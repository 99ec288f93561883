"""Speed and size of the drift stage on one core: the statistics from columns, and the whole stage from bytes.

    python -P bench/drift.py [--streams 10000] [--minutes 6] [--days 8] [--batch 500] [--whole-only] [--seed 1]

Prints one line per measurement, in CPU time. An update is one score in one stream (cohort and rubric). A record takes part in
several streams, one per cohort view.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

# Python puts the folder of a script first, where this file would be found under the package's own name.
sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]

from drift.change_detector import ChangeDetector, update_all  # noqa: E402
from drift.confidence import ConfidenceSequence  # noqa: E402
from drift.eprocess import BettingEProcess  # noqa: E402
from drift.esr import ShiryaevRoberts  # noqa: E402
from drift.settings import DriftSettings, RolloutSettings, UnitSettings  # noqa: E402
from drift.stage import DriftStage  # noqa: E402
from drift.windows import WindowTable  # noqa: E402
from stream.records import TOPIC_SCORES, TOPIC_WINDOWS, CohortWindow, Evaluator, ScoreRecord  # noqa: E402
from stream.stage import Batch, Record  # noqa: E402

LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
SHARES = np.array([0.03, 0.05, 0.12, 0.30, 0.50])
MINUTE = 60_000_000_000
START = 1_700_000_000_000_000_000 // MINUTE * MINUTE


class Traffic:
    """Scores as bytes: ``routes`` routes with a canary of 20 % on each, ``rubrics`` scores per trace, the first one gated.

    A trace is a unit. All scores of a trace come one after the other, as a scorer writes them.
    """

    def __init__(self, routes: int, rubrics: int, rng: np.random.Generator) -> None:
        self.routes, self.rubrics, self.rng = routes, rubrics, rng
        self.offset = 0
        self.encode = msgspec.json.Encoder().encode
        self.judge = Evaluator(id="judge", kind="judge", model="m", prompt_hash="0123456789abcdef")

    def records(self, start: int, seconds: float, count: int) -> list[Record]:
        """Return ``count`` scores of ``seconds`` seconds from ``start`` (Unix nanoseconds) on, times ascending."""
        traces = -(-count // self.rubrics)
        values = self.rng.choice(LEVELS, p=SHARES, size=traces * self.rubrics).tolist()
        routes = self.rng.integers(0, self.routes, traces).tolist()
        arms = np.where(self.rng.random(traces) < 0.2, "v2", "v1").tolist()
        out = []
        for i in range(traces):
            trace = f"{self.offset:032x}"
            for rubric in range(self.rubrics):
                score = ScoreRecord(
                    score_id=f"{self.offset:032x}",
                    time_unix_nano=start + round(seconds * 1e9) * i // traces,
                    trace_id=trace,
                    span_id=trace[16:],
                    unit_id=trace,
                    rubric=f"rubric-{rubric}" if rubric else "quality",
                    evaluator=self.judge,
                    value=values[i * self.rubrics + rubric],
                    cohort={
                        "route": f"route-{routes[i]}", "prompt_version": arms[i], "model": "m", "user_cohort": "all",
                    },
                )  # fmt: skip
                out.append(Record(TOPIC_SCORES, 0, self.offset, self.encode(score)))
                self.offset += 1
        return out


def report(name: str, count: int, seconds: float, unit: str) -> None:
    print(f"{name:<58}{count / seconds:>14,.0f} {unit}/s", flush=True)


class Core:
    """Windows and detectors of many streams, fed with columns: 100 scores per stream and minute, five levels."""

    def __init__(self, streams: int, rng: np.random.Generator) -> None:
        self.rng, self.streams = rng, streams
        settings = DriftSettings(
            views=[["route", "prompt_version"]], max_cohorts=streams, max_streams=streams, rollouts=[]
        )
        self.table = WindowTable(settings)
        judge = Evaluator(id="judge", kind="judge", model="m", prompt_hash="0123456789abcdef")
        self.sources = np.array(
            [
                self.table.source(
                    "default", "quality", judge, {"route": f"route-{i}", "prompt_version": "v1"}
                )[0]
                for i in range(streams)
            ]
        )
        self.detectors = [(ChangeDetector(), ChangeDetector()) for _ in range(streams)]
        self.minute = START // MINUTE
        self.published = 0
        self.encode = msgspec.json.Encoder().encode
        self.spent = {"windows": 0.0, "publishing": 0.0, "detectors": 0.0}

    def columns(self, per_stream: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return sources, times and values of the present minute, times ascending."""
        count = self.streams * per_stream
        times = self.minute * MINUTE + np.sort(self.rng.integers(0, MINUTE, count))
        return self.rng.integers(0, self.streams, count), times, self.rng.choice(LEVELS, p=SHARES, size=count)

    def feed(self, per_stream: int) -> int:
        """Take one minute of scores in batches of 10,000, then the tick; return the number of updates."""
        places, times, values = self.columns(per_stream)
        ones = np.ones(len(times))
        begin = time.process_time()
        for start in range(0, len(times), 10_000):
            cut = slice(start, start + 10_000)
            self.table.add_columns(self.sources[places[cut]], times[cut], values[cut], ones[cut])
        self.note("windows", begin)
        before, self.minute = int(times[-1]), self.minute + 1
        begin = time.process_time()
        for window in self.table.tick(before, self.minute * MINUTE, (self.minute - 3) * MINUTE, 0):
            self.encode(window)
            self.published += 1
        self.note("publishing", begin)
        begin = time.process_time()
        # The scores of each stream, in order, as the units of a bucket come to the watches.
        order = np.argsort(places.astype(np.uint16 if self.streams < 2**16 else np.int64), kind="stable")
        values = values[order]
        rise, ones = 1.0 - values, np.ones(len(values))
        least, floor = np.full(len(values), 0.7775), np.full(len(values), 0.1825)
        ends = np.cumsum(np.bincount(places, minlength=self.streams)).tolist()
        tasks, start = [], 0
        for (low, high), end in zip(self.detectors, ends, strict=True):
            weight = ones[start:end]
            tasks.append((low, values[start:end], least[start:end], weight))
            tasks.append((high, rise[start:end], floor[start:end], weight))
            start = end
        update_all(tasks)
        self.note("detectors", begin)
        return len(places)

    def note(self, part: str, begin: float) -> None:
        self.spent[part] += time.process_time() - begin

    def pass_time(self, minutes: int) -> None:
        """Move on with one score per stream and minute."""
        for _ in range(minutes):
            self.feed(1)

    def state(self) -> tuple[float, float, float]:
        """Return bytes per stream: columns in memory, saved state of the windows, and of the two detectors."""
        saved = sum(len(value or b"") for value in self.table.save().values())
        detectors = sum(len(msgspec.msgpack.encode(pair)) for pair in self.detectors)
        return self.table.nbytes / self.streams, saved / self.streams, detectors / self.streams


def core(streams: int, minutes: int, days: int, rng: np.random.Generator) -> None:
    bench = Core(streams, rng)
    for name, wait in (("at the start", 0), (f"after {days} days", days)):
        # One minute of scores, one per stream, in every seven hours, in every hour of the last day, and in every minute of
        # the last 80: so no pane of any window is missing.
        for hours in ([7] * (24 * (wait - 1) // 7) + [1] * 24) if wait else []:
            bench.minute += 60 * hours - 1
            bench.pass_time(1)
        bench.pass_time(80 if wait else 4)
        bench.spent = dict.fromkeys(bench.spent, 0.0)
        bench.published = 0
        updates = sum(bench.feed(100) for _ in range(minutes))
        report(f"{streams:,} streams {name}: all of it", updates, sum(bench.spent.values()), "updates")
        for part, spent in bench.spent.items():
            report(f"  {part} alone", updates, spent, "updates")
        print(f"{'  windows published, per minute of event time':<58}{bench.published / minutes:>14,.0f}")
        memory, saved, detectors = bench.state()
        print(f"{'  state per stream: windows, in memory':<58}{memory:>14,.0f} bytes")
        print(f"{'  state per stream: windows, saved':<58}{saved:>14,.0f} bytes")
        print(f"{'  state per stream: two detectors, saved':<58}{detectors:>14,.0f} bytes")


def whole_stage(
    name: str, traffic: Traffic, per_minute: int, minutes: int, batch: int, warm: int = 3
) -> None:
    """Feed the stage with ``per_minute`` scores a minute; after ``warm`` minutes measure ``minutes`` of them."""
    # One rollout on every route; room for all cohorts and routes.
    settings = DriftSettings(
        rollouts=[RolloutSettings(rubrics=["quality"])],
        max_cohorts=100_000, max_streams=1_000_000, max_scopes=100_000,
        units=UnitSettings(max_open=5_000_000),
    )  # fmt: skip
    stage = DriftStage(settings)
    stage.assign(0, {})
    scores, seconds = 0, 0.0
    saved = keys = outputs = 0
    streams: set[tuple[str, str, str]] = set()
    for minute in range(warm + minutes):
        records = traffic.records(START + minute * MINUTE, 60.0, per_minute)
        for start in range(0, len(records), batch):
            part = Batch(records[start : start + batch], 0)
            begin = time.process_time()
            result = stage.process(part)
            spent = time.process_time() - begin
            if minute < warm:
                for output in result.outputs:
                    if output.topic == TOPIC_WINDOWS:
                        window = msgspec.json.decode(output.value, type=CohortWindow)
                        streams.add((window.view, window.cohort, window.rubric))
                continue
            seconds += spent
            scores += len(part.records)
            saved += sum(len(value or b"") for value in result.state.values())
            keys += len(result.state)
            outputs += len(result.outputs)
    updates = scores * len(settings.views)
    print(f"whole stage, {name}: {len(streams):,} streams, {per_minute:,} scores/min, batches of {batch:,}")
    report("  scores", scores, seconds, "scores")
    report("  the same, per cohort stream", updates, seconds, "updates")
    print(f"{'  outputs per score':<58}{outputs / scores:>14.3f}")
    print(
        f"{'  state written per score':<58}{saved / scores:>14,.0f} bytes, {keys / scores:.2f} values",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--minutes", type=int, default=6)
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument(
        "--batch", type=int, default=500, help="records per batch; 500 is what the runtimes feed"
    )
    parser.add_argument("--whole-only", action="store_true", help="only the stage from bytes to outputs")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print(f"seed {options.seed}")
    if not options.whole_only:
        core(options.streams, options.minutes, options.days, rng)
    minutes, batch = options.minutes, options.batch
    routes = max(1, options.streams // 5)  # a route, two versions of its prompt, a model and a user cohort
    whole_stage("one score per trace", Traffic(10, 1, rng), 20_000, minutes, batch)
    whole_stage("large batches", Traffic(10, 1, rng), 20_000, minutes, 10 * batch)
    whole_stage("six rubrics per trace", Traffic(10, 6, rng), 20_000, minutes, batch)
    whole_stage("many streams", Traffic(routes, 1, rng), 50 * routes, minutes, batch)
    if options.whole_only:
        return

    pairs, bucket = 200_000, 100
    z = (
        rng.choice(LEVELS, p=SHARES, size=pairs)
        - rng.choice(LEVELS, p=SHARES, size=(pairs, 4)).mean(axis=1)
        + 0.02
    ) / 1.02
    for name, update in (
        ("e-process", BettingEProcess().update),
        ("e-SR", ShiryaevRoberts(horizon=5000).update),
    ):
        begin = time.process_time()
        for start in range(0, pairs, bucket):
            update(z[start : start + bucket])
        report(f"{name}, buckets of {bucket} pairs", pairs, time.process_time() - begin, "pairs")
    sequence = ConfidenceSequence.with_margin(0.05, 0.02)
    weight = np.ones(bucket)
    begin = time.process_time()
    for start in range(0, pairs // 10, bucket):
        sequence.update(z[start : start + bucket], weight)
    report(
        f"confidence sequence, buckets of {bucket} pairs", pairs // 10, time.process_time() - begin, "pairs"
    )


if __name__ == "__main__":
    main()
