"""Keys and tokens of services, told by the prefixes their makers gave them."""

from __future__ import annotations

from collections.abc import Iterator

from collector.redaction.edge import WORD
from collector.redaction.rule import Rule, Span
from collector.redaction.validator import is_word, left_standalone, standalone


def _sk(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept ``sk-`` keys but not hyphenated words, and not those of other makers."""
    key = text[start:end]
    if is_word(text, start - 1) or text[start - 1 : start] in (b"-", b"_") or key.startswith(b"sk-ant-"):
        return
    if any(0x30 <= byte <= 0x39 for byte in key) or (len(key) >= 40 and b"-" not in key[3:]):
        yield start, end


RULES = (
    Rule(
        name="AWS_KEY",
        gate=WORD + r"(?:A(?:KIA|SIA|BIA|CCA|GPA|IDA|ROA|NPA|NVA)[A-Z0-9]{4})",
        gate_core=r"A(?:KIA|SIA|BIA|CCA|GPA|IDA|ROA|NPA|NVA)[A-Z0-9]{4}",
        pattern=r"A(?:KIA|SIA|BIA|CCA|GPA|IDA|ROA|NPA|NVA)[A-Z0-9]{16,17}",
        check=standalone,
        must_match=(
            "AKIA" + "IOSFODNN7EXAMPLE",
            "key=ASIA" + "Y34FZKBOKMUTVV7A,",
            '"AROA' + 'ABCDEFGHIJKLMNOP"',
        ),
        must_not_match=("AKIA" + "SHORT", "XAKIA" + "IOSFODNN7EXAMPLE", "AKIA" + "iosfodnn7example"),
    ),
    Rule(
        name="AWS_KEY",
        gate=r"(?i)secret[_ -]?(?:access[_ -]?)?key",
        pattern=r"(?i)secret[_ -]?(?:access[_ -]?)?key[\"'\s:=\\]{1,8}(?P<value>[A-Za-z0-9/+]{40})",
        check=standalone,
        must_match=(
            "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
            "SecretAccessKey: wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
            "secret_key=wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY;",
        ),
        must_not_match=("secret key of success", "secret_access_key=${AWS_SECRET}", "secret_key: short"),
    ),
    Rule(
        name="GITHUB_TOKEN",
        gate=WORD + r"(?:gh[pousr]_[A-Za-z0-9]{4}|github_pat_)",
        gate_core=r"gh[pousr]_[A-Za-z0-9]{4}|github_pat_",
        pattern=r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{22,}",
        check=left_standalone,
        must_match=(
            "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
            "ghs_" + "16C7e42F292c6912E7710c838347Ae178B4a.",
            "github_pat_" + "11ABCDEFG0aBcDeFgHiJkL_mNoPqRsTuVwXyZ0123456789",
        ),
        must_not_match=("ghp_short", "xghp_" + "16C7e42F292c6912E7710c838347Ae178B4a", "github_pat_x"),
    ),
    Rule(
        name="OPENAI_KEY",
        gate=WORD + r"(?:sk-[A-Za-z0-9_-])",
        pattern=r"sk-[A-Za-z0-9_-]{20,}",
        check=_sk,
        must_match=(
            "sk-" + "abcdEFGHijklMNOP1234567890",
            "sk-proj-" + "abc_DEF-1234567890abcdefghij",
            "OPENAI_API_KEY=sk-" + "svcacct-A1b2C3d4E5f6G7h8I9j0",
        ),
        must_not_match=(
            "sk-circle-fade-dot-animation-delay",
            "risk-abcdEFGHijklMNOP1234567890",
            "sk-ant-" + "api03-abcdefghijklmnop",
            "sk-SK",
        ),
    ),
    Rule(
        name="ANTHROPIC_KEY",
        gate=WORD + r"(?:sk-ant-)",
        pattern=r"sk-ant-[A-Za-z0-9_-]{12,}",
        check=left_standalone,
        must_match=(
            "sk-ant-" + "api03-abcdefghijklmnop-QRSTUV_wxyz",
            "x-api-key: sk-ant-" + "admin01-0123456789abcdef,",
            "(sk-ant-" + "oat01-0123456789abcdef)",
        ),
        must_not_match=("sk-ant-x", "sk-antique-furniture", "task-ant-colony-optimization"),
    ),
    Rule(
        name="SLACK_TOKEN",
        gate=WORD + r"(?:xox[abceoprs]|xapp-[0-9])|hooks\.slack\.com",
        pattern=(
            r"xox[abceoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,}"
            r"|hooks\.slack\.com/(?:services|workflows|triggers)/(?P<value>[A-Za-z0-9/_-]{10,})"
        ),
        check=left_standalone,
        must_match=(
            "xoxb-" + "123456789012-1234567890123-AbCdEfGhIjKlMnOp",
            "xapp-" + "1-A0123456789-1234567890123-abcdef0123456789",
            "https://hooks.slack.com/services/" + "T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
        ),
        must_not_match=("xoxb-short", "hooks.slack.com", "xapp-store-listing"),
    ),
    Rule(
        name="STRIPE_KEY",
        gate=WORD + r"(?:[sr]k_(?:live|test)_|whsec_)",
        gate_core=r"[sr]k_(?:live|test)_|whsec_",
        pattern=r"[sr]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{24,}",
        check=left_standalone,
        must_match=(
            "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
            "rk_test_" + "4eC39HqLyjWDarjtT1zdp7dc;",
            "whsec_" + "4eC39HqLyjWDarjtT1zdp7dcAbCd",
        ),
        must_not_match=(
            "pk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
            "sk_live_",
            "task_test_runner_configuration",
        ),
    ),
    Rule(
        name="GOOGLE_KEY",
        gate=WORD + r"(?:AIza|ya29\.|GOCSPX-)",
        pattern=r"AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,}|GOCSPX-[0-9A-Za-z_-]{20,}",
        check=left_standalone,
        must_match=(
            "AIza" + "SyA-1234567890abcdefghijklmnopqrstu",
            "ya29." + "a0AfH6SMBx1234567890abcdef",
            "GOCSPX-" + "1234567890abcdefghijklmnopqr",
        ),
        must_not_match=("AIzaShort", "ya29.x", "GOCSPX-"),
    ),
)
