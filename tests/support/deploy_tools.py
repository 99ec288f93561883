"""Tools that check what is in ``deploy/``, built once from their Go sources at pinned versions.

``helm`` is Helm itself; ``compose`` prints a compose file as ``docker compose config`` does, with the same library; and
``otelcol`` is an OpenTelemetry Collector of the components that our configurations name. They stay in the user's cache,
so that a fresh checkout does not build them again. ``python tests/support/deploy_tools.py`` builds all of them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_SOURCES = ROOT / "tests" / "deploy" / "go"
_PACKAGES = {"helm": "helm.sh/helm/v3/cmd/helm", "compose": ".", "otelcol": "."}
_BUILD_S = 900


class ToolMissing(Exception):  # noqa: N818 - a reason to skip
    """A tool cannot be built here; the text says why."""


def tool(name: str) -> str:
    """Return the path of ``name``; builds it if it is not there.

    Skips the test, loudly, where it cannot be built; fails it when ``DRIFTGATE_REQUIRE_DEPLOY_TOOLS=1``.
    """
    try:
        return str(build(name))
    except ToolMissing as error:
        if os.environ.get("DRIFTGATE_REQUIRE_DEPLOY_TOOLS") == "1":
            pytest.fail(f"DRIFTGATE_REQUIRE_DEPLOY_TOOLS=1, but {name} cannot be built: {error}")
        pytest.skip(f"NOT CHECKED WITH {name.upper()}: {error}; install Go 1.26")


def build(name: str) -> Path:
    """Return the path of ``name``, built from its sources as they are now.

    Raises
    ------
    ToolMissing
        Go is not there, or the build failed.
    """
    source = _SOURCES / name
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(source.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    target = _cache() / f"{name}-{digest.hexdigest()}"
    if target.is_file():
        return target
    go = shutil.which("go")
    if go is None:
        raise ToolMissing("go is not installed")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [go, "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", str(unfinished), _PACKAGES[name]],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
        env={**os.environ, "CGO_ENABLED": "0"},
    )
    if done.returncode != 0:
        raise ToolMissing(f"go build failed: {(done.stdout + done.stderr)[-600:]}")
    unfinished.rename(target)
    return target


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "driftgate-tests"


if __name__ == "__main__":
    for wanted in _PACKAGES:
        try:
            build(wanted)
        except ToolMissing as error:
            sys.exit(f"{wanted}: {error}")
