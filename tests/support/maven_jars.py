"""Servers from Maven Central's jars: fetched once per version into ``.cache`` and run on the machine's Java."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_CACHE = Path(__file__).resolve().parents[2] / ".cache"


class JarsMissing(Exception):  # noqa: N818 - a reason to skip
    """Java, Maven or the jars are not there; the text says which."""


def libraries(name: str, pom: Path) -> Path:
    """Return the folder with the jars that ``pom`` depends on, fetching them the first time.

    Raises
    ------
    JarsMissing
        They cannot be had.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise JarsMissing(f"{program} is not installed")
    # The pom names the version, so a new one gets a folder of its own.
    text = pom.read_bytes()
    target = _CACHE / name / f"jars-{len(text)}-{hashlib.blake2b(text, digest_size=6).hexdigest()}"
    if not (target / ".complete").is_file():
        done = subprocess.run(
            [
                "mvn",
                "-q",
                "-B",
                "-f",
                str(pom),
                "dependency:copy-dependencies",
                f"-DoutputDirectory={target}",
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode != 0:
            raise JarsMissing(f"Maven could not fetch the jars: {done.stdout[-300:]}")
        (target / ".complete").touch()
    return target


def skip_or_fail(server: str, reason: object) -> None:
    """Skip the test, loudly; fail it when ``DRIFTGATE_REQUIRE_KAFKA=1``."""
    if os.environ.get("DRIFTGATE_REQUIRE_KAFKA") == "1":
        pytest.fail(f"DRIFTGATE_REQUIRE_KAFKA=1, but there is no {server} here: {reason}")
    pytest.skip(f"NOT TESTED WITH {server.upper()}: {reason}; install Java 17 and Maven")
