"""The names a plug-in author may rely on."""

from __future__ import annotations

import subprocess
import sys

import driftgate


def test_the_public_names_are_these_and_all_exist() -> None:
    assert sorted(driftgate.__all__) == [
        "Document",
        "Interaction",
        "Message",
        "Part",
        "Score",
        "Scorer",
        "Skipped",
        "scorer",
    ]
    for name in driftgate.__all__:
        assert getattr(driftgate, name) is not None


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    heavy = ["litellm", "chdb", "river", "faust", "numpy", "grpc", "pandas", "aiohttp", "pydantic"]
    code = (
        "import sys, driftgate.cli as c\n"
        "try: c.cli(['--help'], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_running_needs_neither_river_nor_litellm_nor_faust() -> None:
    code = (
        "import sys, driftgate.runtime.embedded\n"
        "print([m for m in ('litellm', 'river', 'faust', 'chdb', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
