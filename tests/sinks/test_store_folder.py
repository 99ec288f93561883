"""A folder that cannot be used: each case names the cause and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sinks.store import Store
from sinks.store_settings import StoreSettings
from stream.errors import StartError

OPEN = """
import sys
from pathlib import Path
from sinks.store import Store
from sinks.store_settings import StoreSettings
from stream.errors import StartError
try:
    store = Store.open(StoreSettings(), Path(sys.argv[1]))
    store.migrate()
except StartError as error:
    print("StartError", error)
else:
    print("opened")
    store.close()
"""


def open_elsewhere(folder: Path, prelude: str = "", cwd: Path | None = None) -> str:
    """Open the store in another process and return what it says."""
    done = subprocess.run(
        [sys.executable, "-c", prelude + OPEN, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return done.stdout.strip()


def closed_store(folder: Path) -> Path:
    opened = Store.open(StoreSettings(), folder)
    opened.migrate()
    opened.close()
    return folder


def test_a_second_process_is_told_who_owns_the_folder(store: Store, tmp_path: Path) -> None:
    said = open_elsewhere(tmp_path / "store")
    assert said.startswith("StartError")
    assert f"in use by process {os.getpid()}" in said
    assert "query port" in said
    store.close()
    assert open_elsewhere(tmp_path / "store") == "opened"


def test_a_folder_open_in_a_foreign_engine_is_refused(tmp_path: Path) -> None:
    folder = closed_store(tmp_path / "store")
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import chdb, sys; c = chdb.connect(sys.argv[1]); print('ready', flush=True); sys.stdin.read()",
            str(folder),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        said = open_elsewhere(folder)
    finally:
        owner.communicate("")
    assert said.startswith("StartError")
    assert "another ClickHouse or chDB process" in said


def test_damaged_metadata_is_a_clear_error_and_gives_the_folder_back(tmp_path: Path) -> None:
    folder = closed_store(tmp_path / "store")
    database = folder / "metadata" / "driftgate.sql"
    intact = database.read_bytes()
    database.write_text("garbage")
    for _ in range(2):
        said = open_elsewhere(folder)
        assert said.startswith("StartError cannot open the store"), said
        assert "restore the folder from a backup" in said
    database.write_bytes(intact)
    assert open_elsewhere(folder) == "opened"


def test_a_table_whose_files_are_gone_is_noticed_at_start(tmp_path: Path) -> None:
    folder = closed_store(tmp_path / "store")
    tables = Path((folder / "metadata" / "driftgate").resolve())
    (tables / "scores.sql").unlink()
    said = open_elsewhere(folder)
    assert "table scores is gone" in said


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(StartError, match=r"cannot use .* as the store's folder"):
        Store.open(StoreSettings(), tmp_path / "store")


def test_a_folder_that_cannot_be_made() -> None:
    # Nobody can make a folder there, root neither.
    with pytest.raises(StartError, match="fix its permissions"):
        Store.open(StoreSettings(), Path("/proc/driftgate/store"))


def test_one_process_has_one_store(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="one folder per process"):
        Store.open(StoreSettings(), tmp_path / "other")
    assert store.query("SELECT 1 AS one") == [{"one": 1}]


def test_without_chdb_the_extra_is_named(tmp_path: Path) -> None:
    said = open_elsewhere(tmp_path / "store", prelude="import sys; sys.modules['chdb'] = None\n")
    assert said.startswith("StartError")
    assert "pip install 'driftgate[embedded]'" in said


def test_a_config_file_of_somebody_else_in_the_working_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "config.xml").write_text("<not-clickhouse>")
    said = open_elsewhere(tmp_path / "store", cwd=tmp_path)
    assert said.startswith("StartError")
    assert "config.xml" in said


def test_the_folder_can_be_moved(tmp_path: Path) -> None:
    folder = closed_store(tmp_path / "store")
    shutil.move(folder, tmp_path / "moved")
    assert open_elsewhere(tmp_path / "moved") == "opened"


def test_the_engines_file_system_database_is_gone(store: Store) -> None:
    rows = store.query("SELECT name, engine FROM system.databases WHERE engine NOT IN ('Memory', 'System')")
    assert {row["engine"] for row in rows} == {"Atomic"}
