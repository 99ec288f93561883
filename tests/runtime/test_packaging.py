"""What is installed is what the repository holds: packages are listed by hand, so a test compares."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOP = ("collector", "drift", "driftgate", "scorers", "sinks", "stream")


def _project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed_and_every_listed_package_exists() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for top in TOP for path in (ROOT / top).rglob("*.py")
    }
    listed = _project()["tool"]["setuptools"]["packages"]  # type: ignore[index]
    assert sorted(found) == sorted(listed)
    assert all((ROOT / name.replace(".", "/") / "__init__.py").is_file() for name in listed)


def test_every_data_file_is_listed() -> None:
    data = _project()["tool"]["setuptools"]["package-data"]  # type: ignore[index]
    patterns = {(name, pattern) for name, globs in data.items() for pattern in globs}
    for top in TOP:
        for path in (ROOT / top).rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc") or "__pycache__" in path.parts:
                continue
            package = ".".join(path.parent.relative_to(ROOT).parts)
            assert any(name in ("*", package) and path.match(pattern) for name, pattern in patterns), (
                f"{path.relative_to(ROOT)} would not be installed"
            )


def test_lock_files_carry_hashes_and_no_addresses() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        pinned = re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE)
        assert len(pinned) > 50
        assert text.count("--hash=sha256:") >= len(pinned)


def test_the_lock_brings_what_the_readme_shows() -> None:
    """`driftgate explain ID --png` draws with matplotlib, and `make demo` installs this lock."""
    assert "--png" in (ROOT / "README.md").read_text()
    assert re.search(r"^matplotlib==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def test_the_top_level_is_the_documented_one() -> None:
    names = {path.name for path in ROOT.iterdir()}
    assert {
        "pyproject.toml", "README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "docker-compose.yml",
        "collector", "scorers", "drift", "sinks", "stream", "driftgate", "deploy", "tests", "bench", "docs", "examples",
    } <= names  # fmt: skip
