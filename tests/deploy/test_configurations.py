"""Every driftgate.yaml in ``deploy/`` is read by the real loader, and agrees with the schema that editors use."""

from __future__ import annotations

import jsonschema
import pytest
import yaml
from deployed import ROOT

from driftgate.config import Config, load

FILES = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "deploy").rglob("driftgate.yaml")
    if "grafana" not in path.parts
)


def test_they_are_found() -> None:
    assert {str(path.parent) for path in FILES} == {"deploy/compose", "deploy/one-process"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_it_loads(path: str) -> None:
    config = load(ROOT / path, {})
    jsonschema.validate(yaml.safe_load((ROOT / path).read_text()), Config.model_json_schema())
    # In a container the ports are reached from outside only where it listens on all addresses; those have tokens.
    assert {config.collector.grpc.host, config.collector.http.host, config.web.host} == {"0.0.0.0"}
    assert config.web.token is not None
    assert config.rollback.mode != "enforce"
