"""The demo's processes are its own, whatever the shell that starts it is set up for."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import PATIENCE_S

from driftgate.demo.processes import Child


def test_the_demo_does_not_run_in_the_data_folder_of_somebodys_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTGATE__DATA", "/var/lib/production")
    monkeypatch.setenv("BROKER_PASSWORD", "x")
    told = "import json, os; print(json.dumps({k: os.environ.get(k) for k in ('DRIFTGATE__DATA', 'BROKER_PASSWORD', 'GIVEN')}))"
    child = Child("told", ["-c", told], tmp_path, {"GIVEN": "y"})
    child.wait(PATIENCE_S)
    child.stop(1)
    assert child.tail() == '{"DRIFTGATE__DATA": null, "BROKER_PASSWORD": "x", "GIVEN": "y"}'
