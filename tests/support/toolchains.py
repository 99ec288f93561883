"""Exporters written by others, in other languages: fetched with their pinned versions and built once into ``.cache``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "exporters"
_CACHE = ROOT / ".cache" / "exporters"
_BUILD_S = 280


class ToolMissing(Exception):  # noqa: N818 - a reason to skip
    """A toolchain or its packages cannot be had; the text says which."""


def command(language: str) -> list[str]:
    """Return the command line of the exporter in ``language``; builds it if there is none.

    Skips the test, loudly, where it cannot be built; fails it when ``DRIFTGATE_REQUIRE_EXPORTERS=1``.
    """
    try:
        return {"go": _go, "java": _java, "node": _node}[language]()
    except ToolMissing as error:
        if os.environ.get("DRIFTGATE_REQUIRE_EXPORTERS") == "1":
            pytest.fail(f"DRIFTGATE_REQUIRE_EXPORTERS=1, but there is no exporter in {language}: {error}")
        pytest.skip(f"NOT TESTED WITH THE SDK FOR {language.upper()}: {error}")


def export(language: str, protocol: str, endpoint: str, token: str) -> dict[str, str]:
    """Run the exporter and return the ids that it printed."""
    done = subprocess.run(
        [*command(language), protocol, endpoint],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TOKEN": token},
    )
    assert done.returncode == 0, f"{language} {protocol}: {done.stdout}\n{done.stderr}"
    ids: dict[str, str] = json.loads(done.stdout)
    return ids


def _go() -> list[str]:
    source = SOURCES / "go"
    target = _place(source, "go")
    if not (target / ".complete").is_file():
        _need("go")
        _run(["go", "build", "-mod=readonly", "-o", str(target / "exporter"), "."], source)
        (target / ".complete").touch()
    return [str(target / "exporter")]


def _java() -> list[str]:
    source = SOURCES / "java"
    target = _place(source, "java")
    if not (target / ".complete").is_file():
        _need("java", "javac", "mvn")
        jars = f"-DoutputDirectory={target / 'jars'}"
        _run(["mvn", "-q", "-B", "-f", "pom.xml", "dependency:copy-dependencies", jars], source)
        path = f"{target / 'jars'}/*"
        _run(["javac", "-encoding", "UTF-8", "-d", str(target), "-cp", path, "Exporter.java"], source)
        (target / ".complete").touch()
    return ["java", "-Xmx128m", "-XX:+UseSerialGC", "-cp", f"{target}:{target}/jars/*", "Exporter"]


def _node() -> list[str]:
    source = SOURCES / "node"
    target = _place(source, "node")
    if not (target / ".complete").is_file():
        _need("node", "npm")
        for name in ("package.json", "package-lock.json", "exporter.js"):
            shutil.copy(source / name, target / name)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], target)
        (target / ".complete").touch()
    return ["node", str(target / "exporter.js")]


def _place(source: Path, language: str) -> Path:
    """Return the folder for what is built from ``source`` as it is now."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(source.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    target = _CACHE / f"{language}-{digest.hexdigest()}"
    target.mkdir(parents=True, exist_ok=True)
    return target


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise ToolMissing(f"{program} is not installed")


def _run(arguments: Sequence[str], folder: Path) -> None:
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=_BUILD_S)
    if done.returncode != 0:
        raise ToolMissing(f"{arguments[0]} failed: {(done.stdout + done.stderr)[-600:]}")
