"""What a sound configuration may still not mean is said by `driftgate config check`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from driftgate.cli import cli


def test_config_check_warns_of_names_that_nothing_answers_to(tmp_path: Path) -> None:
    """Each of these looks like protection and is none."""
    (tmp_path / "a.yaml").write_text(
        "scorers: {rubrics: [refusal, error], external: {stars: {low: 1, high: 5}}}\n"
        "drift:\n  rollouts:\n    - {name: support, rubrics: [refusl, stars]}\n"
        "collector: {grpc: {host: 0.0.0.0}, redaction: {tenants: {acme: {default_operator: mask}}}}\n"
        "alerts:\n  channels:\n    - {type: slack, url: '${env:PATH}', rollouts: [suport]}\n"
        "rollback:\n  mode: enforce\n  targets:\n    - {name: g, rollout: other, url: 'https://gateway.example/'}\n"
    )
    result = CliRunner().invoke(cli, ["config", "check", "-c", str(tmp_path / "a.yaml")])
    assert result.exit_code == 0
    err = result.stderr
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 6
    assert "no configured scorer or judge writes 'refusl'; did you mean 'refusal'?" in err
    assert "`alerts.channels.0.rollouts`: no rollout is called 'suport'; known: support" in err
    assert "`rollback.targets.0.rollout`: no rollout is called 'other'" in err
    assert "no target serves the rollout 'support'" in err
    assert "`collector.grpc.host` is 0.0.0.0 and there are no `collector.tenants`" in err
    assert "`collector.redaction.tenants.acme`: no tenant of `collector.tenants` has this name" in err


def test_config_check_refuses_tokens_that_would_refuse_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_TOKEN", "short")
    (tmp_path / "a.yaml").write_text("collector: {tenants: [{name: acme, token: '${env:ACME_TOKEN}'}]}\n")
    result = CliRunner().invoke(cli, ["config", "check", "-c", str(tmp_path / "a.yaml")])
    assert result.exit_code != 0
    assert "at least 16" in str(result.exception or result.stderr)
