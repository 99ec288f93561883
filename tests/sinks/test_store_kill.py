"""SIGKILL in the middle of inserts: what is inserted again is there once, and the folder opens again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from sinks.store import Store
from sinks.store_settings import StoreSettings

WRITER = """
import sys
from pathlib import Path
from sinks.store import Store
from sinks.store_settings import StoreSettings

folder, first, now = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = Store.open(StoreSettings(), folder)
store.migrate()
print("open", flush=True)
for batch in range(first, 10_000):
    ids = [f"{batch:08d}{row:08d}" for row in range(50)]
    columns = {
        "Timestamp": [now + batch] * 50,
        "TraceId": ids,
        "SpanId": ids,
        "SpanName": ["chat"] * 50,
        "IngestedAt": [now] * 50,
    }
    store.insert("otel_traces", columns, f"otlp_spans:0:{batch}-{batch}")
    print(batch, flush=True)
"""
KILLS = 4
ROWS = 50


def test_batches_inserted_again_after_sigkill_are_stored_once(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    rng = random.Random(20)
    acknowledged = -1
    now = time.time_ns()
    for _ in range(KILLS):
        # As after a crash of the runtime: the last batches were stored but their offsets were not committed.
        first = max(acknowledged - 2, 0)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(first), str(now)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        kill_after = first + rng.randrange(3, 15)
        for line in writer.stdout:
            acknowledged = max(acknowledged, int(line))
            if int(line) == kill_after:
                time.sleep(rng.random() * 0.01)  # where in the next insert it dies; decides nothing
                writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert writer.returncode == -signal.SIGKILL

    opened = Store.open(StoreSettings(), folder)
    opened.migrate()
    try:
        once = opened.query("SELECT count() AS n, uniqExact(TraceId) AS ids FROM otel_traces")[0]
        raw = opened.query("SELECT count() AS n FROM otel_traces SETTINGS final = 0")[0]
        looked_up = opened.query("SELECT uniqExact(TraceId) AS ids FROM otel_traces_trace_id_ts")[0]
        # The batch in flight when the last kill came may or may not be there; all others are, exactly once.
        assert once["n"] == once["ids"]
        assert once["n"] in ((acknowledged + 1) * ROWS, (acknowledged + 2) * ROWS)
        assert raw["n"] >= once["n"]
        assert looked_up["ids"] >= (acknowledged + 1) * ROWS, "the view's rows are there too"
        assert looked_up["ids"] <= once["n"]
    finally:
        opened.close()
