"""Speed of the drift stage: score records, window updates and pairs per second on one core.

    python bench/drift.py [--scores 100000] [--routes 10] [--seed 1]

Prints one line per measurement. A record takes part in several streams (one per cohort view); "updates" counts those.
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

from drift.cohorts import MAX_LEVELS  # noqa: E402
from drift.confidence import ConfidenceSequence  # noqa: E402
from drift.eprocess import BettingEProcess  # noqa: E402
from drift.esr import ShiryaevRoberts  # noqa: E402
from drift.panes import Tier  # noqa: E402
from drift.settings import DriftSettings, RolloutSettings  # noqa: E402
from drift.stage import DriftStage  # noqa: E402
from stream.records import TOPIC_SCORES, Evaluator, ScoreRecord  # noqa: E402
from stream.stage import Batch, Record  # noqa: E402

LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
SHARES = np.array([0.03, 0.05, 0.12, 0.30, 0.50])
START = 1_700_000_000_000_000_000


def score_records(count: int, routes: int, rng: np.random.Generator) -> list[Record]:
    """Half an hour of scores over ``routes`` routes with a canary of 20 % on each."""
    values = rng.choice(LEVELS, p=SHARES, size=count).tolist()
    places = rng.integers(0, routes, count).tolist()
    arms = np.where(rng.random(count) < 0.2, "v2", "v1").tolist()
    encode = msgspec.json.Encoder().encode
    return [
        Record(
            TOPIC_SCORES,
            0,
            i,
            encode(
                ScoreRecord(
                    score_id=f"{i:032x}",
                    time_unix_nano=START + i * 1_800_000_000_000 // count,
                    trace_id=f"{i:032x}",
                    span_id=f"{i:016x}",
                    unit_id=f"{i:032x}",
                    rubric="quality",
                    evaluator=Evaluator(id="judge", kind="judge", model="m", prompt_hash="0123456789abcdef"),
                    value=values[i],
                    cohort={
                        "route": f"route-{places[i]}", "prompt_version": arms[i], "model": "m", "user_cohort": "all",
                    },
                )
            ),
        )
        for i in range(count)
    ]  # fmt: skip


def report(name: str, count: int, seconds: float, unit: str) -> None:
    print(f"{name:<48}{count / seconds:>14,.0f} {unit}/s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scores", type=int, default=100_000)
    parser.add_argument("--routes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print(f"seed {options.seed}, {options.scores} scores, {options.routes} routes")

    settings = DriftSettings(rollouts=[RolloutSettings(rubrics=["quality"])])
    records = score_records(options.scores, options.routes, rng)
    stage = DriftStage(settings)
    stage.assign(0, {})
    saved = outputs = 0
    begin = time.perf_counter()
    for start in range(0, len(records), 500):
        result = stage.process(Batch(records[start : start + 500], 0))
        saved += sum(len(value or b"") for value in result.state.values())
        outputs += len(result.outputs)
    seconds = time.perf_counter() - begin
    report("stage, records in batches of 500", len(records), seconds, "scores")
    report("stage, updates of cohort streams", len(records) * len(settings.views), seconds, "updates")
    print(f"{'state written per score':<48}{saved / len(records):>14,.0f} bytes")
    print(f"{'outputs':<48}{outputs:>14,}")

    streams, updates = 10_000, 1_000_000
    tier = Tier(0, 60_000_000_000, 3_600_000_000_000)
    rows = rng.integers(0, streams, updates)
    times = START + np.sort(rng.integers(0, 3_600_000_000_000, updates))
    values = rng.choice(LEVELS, p=SHARES, size=updates)
    levels = (values * 4).astype(np.int64) % MAX_LEVELS
    ones = np.ones(updates)
    begin = time.perf_counter()
    for start in range(0, updates, 10_000):
        cut = slice(start, start + 10_000)
        tier.add(rows[cut], times[cut], values[cut], ones[cut], levels[cut], (values[cut] >= 0.5) * 1.0)
    report(f"panes, one tier, {streams} streams", updates, time.perf_counter() - begin, "updates")

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
        begin = time.perf_counter()
        for start in range(0, pairs, bucket):
            update(z[start : start + bucket])
        report(f"{name}, buckets of {bucket} pairs", pairs, time.perf_counter() - begin, "pairs")
    sequence = ConfidenceSequence.with_margin(0.05, 0.02)
    weight = np.ones(bucket)
    begin = time.perf_counter()
    for start in range(0, pairs // 10, bucket):
        sequence.update(z[start : start + bucket], weight)
    report(
        f"confidence sequence, buckets of {bucket} pairs", pairs // 10, time.perf_counter() - begin, "pairs"
    )


if __name__ == "__main__":
    main()
