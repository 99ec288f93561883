"""What a sound configuration may still not mean is said by `driftgate config check`."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from driftgate.cli import cli


def test_config_check_warns_of_names_that_nothing_answers_to(tmp_path: Path) -> None:
    """Each of these looks like protection and is none."""
    (tmp_path / "a.yaml").write_text(
        "scorers: {rubrics: [refusal, error], external: {stars: {low: 1, high: 5}}}\n"
        "drift:\n  rollouts:\n    - {name: support, rubrics: [refusl, stars]}\n"
        "collector: {grpc: {host: 0.0.0.0}}\n"
        "alerts:\n  channels:\n    - {type: slack, url: '${env:PATH}', rollouts: [suport]}\n"
        "rollback:\n  mode: enforce\n  targets:\n    - {name: g, rollout: other, url: 'https://gateway.example/'}\n"
    )
    result = CliRunner().invoke(cli, ["config", "check", "-c", str(tmp_path / "a.yaml")])
    assert result.exit_code == 0
    err = result.stderr
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 5
    assert "no configured scorer or judge writes 'refusl'; did you mean 'refusal'?" in err
    assert "`alerts.channels.0.rollouts`: no rollout is called 'suport'; known: support" in err
    assert "`rollback.targets.0.rollout`: no rollout is called 'other'" in err
    assert "no target serves the rollout 'support'" in err
    assert "`collector.grpc.host` is 0.0.0.0 and there are no `collector.tenants`" in err
