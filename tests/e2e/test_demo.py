"""The demo as a newcomer runs it: its exit code says whether all of it happened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from harness import PATIENCE_S, wait_until


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_goes_from_a_span_to_a_verified_rollback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "driftgate", "demo", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=220,
    )
    logs = "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    assert "NO " not in done.stdout


def test_a_demo_that_is_ended_leaves_no_process_behind(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "driftgate", "demo", "--folder", str(tmp_path)], stdout=subprocess.DEVNULL
    )

    def children() -> list[psutil.Process]:
        found = psutil.Process(demo.pid).children(recursive=True)
        return found if (tmp_path / "up.log").exists() else []

    made = wait_until(children, "the demo's processes")
    demo.terminate()
    assert demo.wait(PATIENCE_S) == 130
    wait_until(lambda: not any(child.is_running() for child in made), "the processes to end")
