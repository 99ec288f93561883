"""Seeded score streams and a stage to feed them to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from drift.settings import DriftSettings, RolloutSettings, UnitSettings
from drift.stage import DriftStage
from drift.units import UnitTable
from drift.windows import WindowTable
from stream.records import (
    TOPIC_SCORES,
    TOPIC_VERDICTS,
    TOPIC_WINDOWS,
    CohortWindow,
    Evaluator,
    Heartbeat,
    ScoreRecord,
    Verdict,
)
from stream.stage import Batch, Record, Result

T0 = 1_700_000_000_000_000_000 // 60_000_000_000 * 60_000_000_000
LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
SHARES = np.array([0.03, 0.05, 0.12, 0.30, 0.50])


def applied(state: dict[str, bytes], saved: Mapping[str, bytes | None]) -> dict[str, bytes]:
    """Save as a log would, and return ``state``."""
    for key, value in saved.items():
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
    return state


class Feed:
    """A drift stage on one partition, with everything it gave back."""

    def __init__(self, settings: DriftSettings) -> None:
        self.settings = settings
        self.state: dict[str, bytes] = {}
        self.counters: dict[str, int] = {}
        self.outputs: list[Any] = []
        self.rejects: list[Any] = []
        self.stage = DriftStage(settings)
        self.stage.assign(0, {})

    def restart(self) -> None:
        """Crash and come back with what was saved."""
        self.stage = DriftStage(self.settings)
        self.stage.assign(0, dict(self.state))

    def feed(self, records: Sequence[Record]) -> Result:
        result = self.stage.process(Batch(records, 0))
        applied(self.state, {key: value for (_, key), value in result.state.items()})
        for name, by in result.counters.items():
            self.counters[name] = self.counters.get(name, 0) + by
        self.outputs += result.outputs
        self.rejects += result.rejects
        return result

    def remembered(self) -> dict[str, Any]:
        """What the saved state holds: values without the offset they were saved at, and for journals the units that are open.

        How a journal is cut depends on the batches, what it says does not.
        """
        values = {key: value[8:] for key, value in self.state.items()}
        found: dict[str, Any] = {
            key: value
            for key, value in values.items()
            if not key.removeprefix("operations/").startswith(("units/", "watch-units/", "pane/", "windows"))
        }
        for lane in ("", "operations/"):
            ours = {key.removeprefix(lane): value for key, value in values.items() if key.startswith(lane)}
            windows = WindowTable(self.settings)
            windows.restore(ours)
            panes = {key: value for key, value in ours.items() if key.startswith(("pane/", "windows"))}
            found[f"{lane}windows"] = applied(panes, windows.save())
            for kind in ("", "watch-"):
                table = UnitTable(self.settings.units, kind)
                table.restore({key: value for key, value in ours.items() if key.startswith(f"{kind}units/")})
                units: list[Any] = []
                while (end := table.next_end(2**63)) is not None:
                    units += table.close(end)
                found[f"{lane}{kind}units"] = units
        return found

    @property
    def verdicts(self) -> list[Verdict]:
        return [
            msgspec.json.decode(output.value, type=Verdict)
            for output in self.outputs
            if output.topic == TOPIC_VERDICTS
        ]

    @property
    def windows(self) -> list[CohortWindow]:
        return [
            msgspec.json.decode(output.value, type=CohortWindow)
            for output in self.outputs
            if output.topic == TOPIC_WINDOWS
        ]

    def transitions(self, rubric: str = "quality") -> list[str]:
        return [v.state for v in self.verdicts if v.state != v.previous_state and v.rubric == rubric]


def to_records(items: Iterable[ScoreRecord | Heartbeat], first: int = 0, log_time: int = 0) -> list[Record]:
    return [
        Record(TOPIC_SCORES, 0, offset, msgspec.json.encode(item), timestamp_ns=log_time)
        for offset, item in enumerate(items, first)
    ]


def score(
    at: float, value: float | None = 0.8, *, arm: str = "v1", number: object = None, **more: Any
) -> ScoreRecord:
    """One score, ``at`` seconds after T0."""
    label = f"{at!r}/{arm}/{number}"
    fields: dict[str, Any] = {
        "score_id": f"score-{label}",
        "time_unix_nano": T0 + round(at * 1e9),
        "trace_id": f"trace-{label}",
        "span_id": "1",
        "unit_id": f"trace-{label}",
        "rubric": "quality",
        "evaluator": Evaluator(id="judge"),
        "value": value,
        "cohort": {"route": "support", "prompt_version": arm},
    }
    return ScoreRecord(**(fields | more))


def draw(rng: np.random.Generator, size: int, drop: float = 0.0) -> Any:
    """Five-level scores with mean .7975 - drop: a share of the answers becomes worthless."""
    values = rng.choice(LEVELS, p=SHARES, size=size)
    return np.where(rng.random(size) < drop / 0.7975, 0.0, values)


def canary(
    seed: int,
    seconds: float,
    *,
    rate: float = 40.0,
    share: float = 0.2,
    candidate_from: float = 0.0,
    drop: float = 0.0,
    bad_from: float = 0.0,
    **more: Any,
) -> list[ScoreRecord]:
    """Traces at ``rate`` per second, of which ``share`` go to v2 from ``candidate_from`` on."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.random(int(rate * seconds)) * seconds)
    is_candidate = (rng.random(len(times)) < share) & (times >= candidate_from)
    good, bad = draw(rng, len(times)), draw(rng, len(times), drop)
    return [
        score(
            float(at),
            float(bad[i] if is_candidate[i] and at >= bad_from else good[i]),
            arm="v2" if is_candidate[i] else "v1",
            number=i,
            **more,
        )
        for i, at in enumerate(times)
    ]


def demo_settings(**more: Any) -> DriftSettings:
    rollout = more.pop("rollout", {})
    fields: dict[str, Any] = {
        "bucket": 1,
        "lateness": 1,
        "windows": [60, 900],
        "report_every": 5,
        "units": UnitSettings(idle=2, trace_idle=1, max=30, remember=60),
        "rollouts": [RolloutSettings(**({"rubrics": ["quality"]} | rollout))],
    }
    return DriftSettings(**(fields | more))


@pytest.fixture
def streams() -> Any:
    """Return the names above, since test files cannot import each other."""

    class Streams:
        Feed: Callable[..., Feed]

    Streams.Feed = Feed
    for item in (to_records, score, draw, canary, demo_settings):
        setattr(Streams, item.__name__, staticmethod(item))
    Streams.T0 = T0  # type: ignore[attr-defined]
    return Streams
