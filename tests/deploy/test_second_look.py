"""A test that failed once is looked at again, and only then: ``.ci/second-look`` on small projects of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "second-look"
MAKEFILE = "test:\n\t.venv/bin/python -m pytest -q\n"
# Fails in the runs that its name lists: `test_fails[0,2]` in the first and the third.
TESTS = """
import pathlib
import pytest

@pytest.mark.parametrize("runs", {runs!r})
def test_fails(runs):
    counter = pathlib.Path(__file__).with_name("runs-" + (runs or "never"))
    run = len(counter.read_text()) if counter.exists() else 0
    counter.write_text("x" * (run + 1))
    assert str(run) not in runs.split(",")
    if "stop" in runs:
        raise KeyboardInterrupt
"""


def look(folder: Path, *runs: str) -> subprocess.CompletedProcess[str]:
    """Run a suite of tests that fail in ``runs``, then look again; return how that went."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / ".ci").mkdir()
    shutil.copy(SCRIPT, folder / ".ci")
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(TESTS.format(runs=list(runs)))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MAKE"))
    }
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    first = subprocess.run(["make", "test"], cwd=folder, env=environment, capture_output=True, text=True)
    assert first.returncode == 2
    said = folder / "said"
    said.write_text(first.stdout + first.stderr)
    return subprocess.run(
        [".ci/second-look", str(said)], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_what_fails_once_is_called_unstable(tmp_path: Path) -> None:
    done = look(tmp_path, "0", "")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "UNSTABLE" in done.stdout
    assert done.stdout.rstrip().endswith("test_it.py::test_fails[0]")
    # Only what failed is run again.
    assert (len((tmp_path / "runs-0").read_text()), len((tmp_path / "runs-never").read_text())) == (4, 1)


@pytest.mark.parametrize(
    "runs",
    [("0,1,2,3",), ("0,3",), ("0", "0,2"), ("0", "0,", "0,,"), ("0", "stop")],
    ids=["always", "in the last look", "one of two", "three tests", "an interrupted run"],
)
def test_everything_else_is_refused(tmp_path: Path, runs: tuple[str, ...]) -> None:
    done = look(tmp_path, *runs)
    assert done.returncode == 1
    assert "UNSTABLE" not in done.stdout
