"""Redaction rules, policies and keys as the command line sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAIL = "jane.doe" + "@" + "customers.example.com"
OLD, NEW = "o" * 32, "n" * 32

OWN = r"""
collector:
  redaction:
    rules:
      - name: EMPLOYEE_ID
        pattern: '\bEMP-(?P<value>[0-9]{6})\b'
        context: [employee, staff]
        must_match: ["employee EMP-123456"]
        must_not_match: ["employee EMP-12345", "EMP-123456"]
"""
ROTATED = """
collector:
  redaction:
    default_operator: pseudonym
    pseudonym:
      key: ${env:NEW_KEY}
      key_id: k2
      previous:
        - {key: "${env:OLD_KEY}", key_id: k1}
"""


def driftgate(
    folder: Path, configuration: str, *arguments: str, given: str = "", code: int = 0
) -> tuple[str, str]:
    (folder / "driftgate.yaml").write_text(configuration)
    done = subprocess.run(
        [sys.executable, "-m", "driftgate", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env=os.environ | {"OLD_KEY": OLD, "NEW_KEY": NEW},
    )
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_a_rule_of_ones_own_works_from_the_file(tmp_path: Path) -> None:
    assert driftgate(tmp_path, OWN, "config", "check")[0] == "driftgate.yaml: ok\n"
    out, _ = driftgate(tmp_path, OWN, "redact", given="staff EMP-654321, order EMP-1\n")
    assert out == "staff EMP-[EMPLOYEE_ID], order EMP-1\n"


@pytest.mark.parametrize("command", ["up", "collector", "config check"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('EMP-123456"]\n        must_not', 'EMP-12345"]\n        must_not'),
            "misses example 1 of must_match",
        ),
        (('EMP-12345"', 'EMP-654321"'), "wrongly matches example 1 of must_not_match"),
        (("[0-9]{6})", "[0-9]{6}"), "RE2 does not accept the pattern"),
    ],
    ids=["misses", "wrongly", "invalid"],
)
def test_a_rule_that_fails_its_examples_refuses_to_start(
    tmp_path: Path, command: str, change: tuple[str, str], message: str
) -> None:
    configuration = OWN.replace(*change)
    assert configuration != OWN
    if command == "collector":
        configuration += "log: kafka://127.0.0.1:1/\n"
    _, err = driftgate(tmp_path, configuration, *command.split(), code=2)
    assert "redaction rule EMPLOYEE_ID" in err
    assert message in err
    for example in ("EMP-123456", "EMP-12345", "EMP-654321"):
        assert example not in err  # it may be real
    assert not (tmp_path / "driftgate-data" / "endpoints.json").exists()


def test_after_a_rotation_both_names_of_a_text_are_known(tmp_path: Path) -> None:
    before = ROTATED.replace("NEW_KEY", "OLD_KEY").replace("k2", "k1").partition("      previous:")[0]
    old = driftgate(tmp_path, before, "redact", given=MAIL)[0]
    new = driftgate(tmp_path, ROTATED, "redact", given=MAIL)[0]
    assert old.startswith("pii:email:k1:")
    assert new.startswith("pii:email:k2:")
    names = driftgate(tmp_path, ROTATED, "pseudonym", "email", given=MAIL.upper() + "\n")[0]
    assert names.split() == [new, old]
    assert old not in driftgate(tmp_path, ROTATED, "pseudonym", "EMAIL", "--tenant", "acme", given=MAIL)[0]
    # What was written before a rotation is not redacted again.
    assert driftgate(tmp_path, ROTATED, "redact", given=f"user {old}")[0] == f"user {old}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("key_id: k1}", "key_id: k2}"), "every key needs a key_id of its own"),
        (("NEW_KEY", "OLD_KEY"), "a new key_id needs a new key"),
        (("NEW_KEY", "MISSING_KEY"), "MISSING_KEY is not set"),
    ],
    ids=["same id", "same key", "no key"],
)
def test_keys_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    _, err = driftgate(tmp_path, ROTATED.replace(*change), "redact", given="x", code=2)
    assert message in err
    assert OLD not in err
