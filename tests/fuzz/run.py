"""Run one fuzz target under atheris.

    run.py TARGET FOLDER [libFuzzer options, such as -runs=5000 -max_total_time=600]

FOLDER holds the corpus, which grows with what is found interesting, and inputs that broke something. It ends with 0 when
nothing was wrong. Besides a crash, a hang (``-timeout``) and a memory limit, memory must not grow while it runs.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import atheris
import psutil

with atheris.instrument_imports(include=["collector", "stream"]):
    from targets import TARGETS, seeds

# Growth is measured after a warm-up, in which caches fill and the corpus is loaded.
_WARM_RUNS = 1000
_MOST_GROWTH = 96 << 20


def main() -> None:
    """Set up and run."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    target = TARGETS[name]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    process = psutil.Process()
    runs = base = 0

    def one(data: bytes) -> None:
        nonlocal runs, base
        target(data)
        runs += 1
        if runs == _WARM_RUNS:
            gc.collect()
            base = process.memory_info().rss
        elif runs > _WARM_RUNS and runs % 500 == 0:
            grown = process.memory_info().rss - base
            if grown > _MOST_GROWTH:
                raise MemoryError(f"{name}: {grown >> 20} MiB more after {runs} runs")

    options = [
        f"-artifact_prefix={folder}{os.sep}",
        "-max_len=4096",
        "-timeout=20",
        # Its own limit looks at the largest size ever, which a child inherits from the process that started it.
        "-rss_limit_mb=0",
        "-print_final_stats=1",
        *sys.argv[3:],
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
