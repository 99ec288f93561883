"""The image, as far as can be told without building it: no Docker engine is here. The lines of the Dockerfile are read,
and the stages of the slim image run with every module blocked that the slim lock does not bring."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from deployed import ROOT

DOCKERFILE = ROOT / "deploy/Dockerfile"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage, with those of the stages it starts from before them."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, rest in instructions():
        if instruction == "FROM":
            match = re.fullmatch(r"(\S+) AS ([\w-]+)", rest)
            assert match, rest
            name = match[2]
            found[name] = list(found.get(match[1], [("FROM", match[1])]))
        else:
            found[name].append((instruction, rest))
    return found


@pytest.mark.parametrize("target", ["slim", "full"])
def test_the_image_runs_as_nobody_from_a_pinned_base(target: str) -> None:
    lines = stages()[target]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", lines[0][1])
    users = [rest for instruction, rest in lines if instruction == "USER"]
    assert users == ["10001:10001"]
    assert ("ENTRYPOINT", '["driftgate"]') in lines
    copied = [rest for instruction, rest in lines if instruction == "COPY"]
    assert copied[0] == f"--from={target}-venv /venv /venv"
    assert not any(instruction == "ADD" for instruction, _ in lines)


def test_everything_installed_is_locked_with_hashes() -> None:
    installs = [
        rest for instruction, rest in instructions() if instruction == "RUN" and "pip install" in rest
    ]
    assert len(installs) == 4
    for rest in installs:
        assert "--require-hashes -r requirements" in rest or "--no-deps --no-index /wheels" in rest
    wheels = [rest for instruction, rest in instructions() if "pip wheel" in rest]
    assert all("--no-deps --no-build-isolation" in rest for rest in wheels)


def test_no_secret_gets_into_a_layer() -> None:
    for instruction, rest in instructions():
        assert instruction != "ARG"
        if instruction == "ENV":
            assert not re.search(r"TOKEN|PASSWORD|SECRET|KEY", rest)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_what_is_copied_is_there_and_gets_to_the_builder() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for instruction, rest in instructions():
        if instruction == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source
    top = {"collector", "drift", "driftgate", "scorers", "sinks", "stream"}
    copied = {rest.split()[0] for instruction, rest in instructions() if instruction == "COPY"}
    assert top <= copied


def names(lines: list[str]) -> set[str]:
    return {re.split(r"[><=\[ ]", line)[0] for line in lines if line and not line.startswith("#")}


def test_the_slim_lock_brings_all_of_the_projects_requirements_but_what_is_left_out() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = names(project["dependencies"] + project["optional-dependencies"]["kafka"])
    left_out = names((ROOT / "deploy/slim-excludes.txt").read_text().splitlines())
    assert left_out < wanted
    assert set(locked(ROOT / "deploy/requirements-slim.lock")) & wanted == wanted - left_out, "run: make lock"


def locked(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", path.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_both_locks_have_the_same_versions() -> None:
    slim, full = locked(ROOT / "deploy/requirements-slim.lock"), locked(ROOT / "requirements.lock")
    assert len(slim) > 30
    # The full lock is for every platform, the slim one for Linux.
    assert all(versions <= full[name] for name, versions in slim.items())
    for heavy in ("litellm", "river", "chdb", "faust-streaming", "openai", "scipy", "pandas", "aiokafka"):
        assert heavy in full
        assert heavy not in slim
    text = (ROOT / "deploy/requirements-slim.lock").read_text()
    assert "://" not in text
    assert text.count("--hash=sha256:") >= len(slim)


def blocked() -> set[str]:
    """Return the top-level modules that this environment has and the slim image has not."""
    slim = {name.lower().replace("_", "-") for name in locked(ROOT / "deploy/requirements-slim.lock")} | {
        "driftgate"
    }
    return {
        module
        for module, owners in packages_distributions().items()
        if not {owner.lower().replace("_", "-") for owner in owners} & slim
    }


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError("not in the slim image: " + name, name=name)
sys.meta_path.insert(0, Block())
"""


@pytest.mark.parametrize(
    "code",
    [
        "from driftgate.commands import topics; import stream.kafka.topics",
        "from driftgate.runtime.collector_process import CollectorProcess; from collector.settings import CollectorSettings;"
        " from collector.ingest import Ingest; Ingest(CollectorSettings()).traces(b'')",
        "import driftgate.runtime.worker_process; from scorers.sampler import SamplerStage;"
        " from scorers.sampling.settings import SamplingSettings; SamplerStage(SamplingSettings())",
        "import driftgate.runtime.worker_process, sinks.store_stage, sinks.store_server, clickhouse_connect",
        "import driftgate.runtime.worker_process, driftgate.runtime.alerts, sinks.store_server, sinks.rollback.traffic",
    ],
    ids=["topics", "collector", "sampler", "store", "alerter"],
)
def test_a_process_of_the_slim_image_needs_nothing_else(code: str) -> None:
    absent = blocked()
    assert {"litellm", "river", "chdb", "faust", "openai", "scipy"} <= absent
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(names=absent) + code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
