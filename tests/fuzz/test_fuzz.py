"""A bounded run of every fuzz target: no crash, no hang, no growth. ``make fuzz`` runs them for longer.

Atheris comes with the development dependencies; without it these tests fail.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")


def fuzz(target: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), target, str(folder), "-seed=1", *options],
        capture_output=True,
        text=True,
        timeout=240,
        errors="replace",
    )


@pytest.mark.parametrize(
    ("target", "runs"),
    [("protobuf", 4000), ("receiver", 4000), ("compression", 2000), ("engine", 2000), ("structured", 2000)],
)
def test_target(target: str, runs: int, tmp_path: Path) -> None:
    done = fuzz(target, tmp_path, f"-runs={runs}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert f"Done {runs} runs" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_what_breaks_is_noticed_and_kept(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "known").write_bytes(b"Jane")
    done = fuzz("self_test", tmp_path, "-runs=100")
    assert done.returncode != 0
    assert list(tmp_path.glob("crash-*"))
