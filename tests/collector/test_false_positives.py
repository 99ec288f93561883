"""What looks like personal data and is none stays as it is."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string
import uuid

import pytest

from collector.redaction.engine import Engine

UNTOUCHED = [
    "4bf92f3577b34da6a3ce929d0e0e4736",
    "00f067aa0ba902b7",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "550e8400-e29b-41d4-a716-446655440000",
    "41111111-1111-4111-8111-111111111111",
    "2024-08-06T12:30:45.123456789Z",
    "2024-08-06 12:30:45,123 INFO [main] started in 1234 ms",
    "1718900000",
    "1718900000123",
    "1718900000123456789",
    "20240806123045",
    "gpt-4o-2024-08-06",
    "claude-3-5-sonnet-20241022",
    "v1.2.3",
    "1.2.3.4",
    "version 10.0.19045.3693",
    "Chrome/126.0.6478.127 Safari/537.36",
    "pip install torch==2.3.1.100",
    "package-1.12.0.3.tar.gz",
    "order 4155552671",
    "ORD-2024-000123456",
    "invoice #123456789",
    "SKU 0123-4567-89",
    "$1,234,567.89",
    "1.234.567,89 EUR",
    "51.507351, -0.127758",
    "(40.712776, -74.005974)",
    "0.4111111111111111",
    "3.141592653589793238462643",
    "[0.12345678901234, -0.98765432109876, 1.4142135623730951]",
    "user@localhost",
    "@property\ndef x(self): ...",
    "from a import b as c  # noqa: E501 @todo",
    "std::vector<int>::iterator",
    "a[1::2], b[::-1], c[10::20]",
    "aa:bb:cc:dd:ee:ff",
    "10:30:45",
    "127.0.0.1:8080",
    "http://localhost:4318/v1/traces",
    "https://example.com/a/b?c=d&e=1234567890#frag",
    "https://medium.com/@some.one/title-4155552671",
    "ssh://git@github.com/org/repo.git",
    "git@github.com:org/repo.git",
    "@types/node@18.2.0",
    "icon@2x.png",
    "sk-circle-fade-dot-animation-delay",
    "task-1234567890abcdefghijklmnop",
    "the bearer of this letter",
    "Bearer authentication is required",
    "ISBN 978-3-16-148410-0",
    "ISBN-13: 9783161484100",
    "EAN 4006381333931",
    "EAN: 4000000000006",
    "IMEI 490154203237518",
    "tracking 1Z999AA10123456784",
    "9999 9999 9999 9999",
    "1234 5678 9012 3456",
    "000-00-0000",
    "12-34-56",
    "UTC+01:00",
    "+1 (agreed)",
    "C++11, C++17 and C++20",
    "diff --git +1234 -567",
    "temperature 0.7, top_p 0.95, max_tokens 4096, seed 1234567890",
    "chatcmpl-9XyZ1234567890abcdefghijklmnop",
    "call_abc123DEF456ghi789JKL012",
    "toolu_01A09q90qw90lq917835lq9",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "rgba(255, 255, 255, 0.5)",
    "width=1920 height=1080 size=2073600000",
    "-----BEGIN CERTIFICATE-----",
    "SELECT * FROM t WHERE id IN (1001, 1002, 1003, 1004)",
    "192.168.1.300",
    "1.3.6.1.4.1.311.21.20",
    "Section 4.1.2.3",
    "5 555 555",
    "90210-1234",
    "page 12 of 4000, 3000 words, 2000 tokens",
    "Mon Jan 02 15:04:05 2006",
    "{{user.email}} and ${PHONE_NUMBER}",
    "E = mc^2 and 6.02214076e23",
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.mark.parametrize("text", UNTOUCHED)
def test_stays(engine: Engine, text: str) -> None:
    assert engine.redact(text) == (text, ())


@pytest.mark.parametrize("text", UNTOUCHED)
def test_stays_inside_json(engine: Engine, text: str) -> None:
    document = json.dumps({"content": f"first line\n{text}\nlast line"})
    assert engine.redact(document) == (document, ())


@pytest.mark.parametrize("key", ["service.version", "telemetry.sdk.version", "app_version"])
def test_a_version_by_its_key_stays(engine: Engine, key: str) -> None:
    assert engine.redact("10.20.30.40", hint=key) == ("10.20.30.40", ())


def hard_negatives(count: int) -> list[str]:
    r = random.Random(20240806)
    makers = [
        lambda: hashlib.sha256(r.randbytes(8)).hexdigest(),
        lambda: hashlib.md5(r.randbytes(8)).hexdigest().upper(),
        lambda: str(uuid.UUID(bytes=r.randbytes(16))),
        lambda: r.randbytes(8).hex(),
        lambda: str(r.randrange(1_600_000_000_000_000_000, 1_900_000_000_000_000_000)),
        lambda: str(r.randrange(1_600_000_000_000, 1_900_000_000_000)),
        lambda: (
            f"{r.randrange(2000, 2030)}-{r.randrange(1, 13):02}-{r.randrange(1, 29):02} "
            f"{r.randrange(24):02}:{r.randrange(60):02}:{r.randrange(60):02}.{r.randrange(10**6):06}"
        ),
        lambda: f"v{r.randrange(20)}.{r.randrange(40)}.{r.randrange(400)}.{r.randrange(9000)}",
        lambda: f"ORD-{r.randrange(10**9):09}-{r.randrange(100):02}",
        lambda: f"order number {r.randrange(10**9, 10**10)}",
        lambda: f"${r.randrange(10**6):,}.{r.randrange(100):02}",
        lambda: f"{r.uniform(-90, 90):.6f}, {r.uniform(-180, 180):.6f}",
        lambda: repr(r.random()),
        lambda: json.dumps([r.gauss(0, 1) for _ in range(8)]),
        lambda: f"{r.randrange(2**31)} {r.randrange(1000)} {r.randrange(100)}",
        lambda: (
            f"for i{r.randrange(9)} in range({r.randrange(10**6)}): x[{r.randrange(99)}] += {r.random():.3f}"
        ),
        lambda: f"#{r.randrange(2**24):06x} {r.randrange(4000)}x{r.randrange(4000)}",
        lambda: f"{r.randrange(24):02}:{r.randrange(60):02}:{r.randrange(60):02}",
        lambda: f"chatcmpl-{r.randbytes(15).hex()}",
        lambda: f"{r.randrange(1, 5000)} rows in {r.randrange(1, 99999)} ms ({r.random() * 100:.2f} %)",
        # The neighbourhood of what the rules look for.
        lambda: f"00-{r.randbytes(16).hex()}-{r.randbytes(8).hex()}-01",
        lambda: "0x" + r.randbytes(32).hex(),
        lambda: base64.b64encode(r.randbytes(48)).decode(),
        lambda: base64.urlsafe_b64encode(r.randbytes(16)).decode().rstrip("="),
        lambda: f"git checkout {r.randbytes(20).hex()}",
        lambda: f"sha512-{base64.b64encode(r.randbytes(64)).decode()}",
        lambda: f"max_tokens={r.randrange(10**5)} next_page_token: page_{r.randrange(100)}",
        lambda: f"token count: {r.randrange(10**6)}, password: required, secret: null",
        lambda: f'password = os.environ["DB_PASSWORD_{r.randrange(9)}"]',
        lambda: f"api_key=settings.api_key_{r.choice('abc')}, token=self.token",
        lambda: f"the routing table has {r.randrange(10**6)} entries, vat rate {r.randrange(5, 25)} %",
        lambda: (
            f"born in {r.randrange(1900, 2020)}, released on {r.randrange(2000, 2030)}-0{r.randrange(1, 9)}-11"
        ),
        lambda: f"passport.js {r.randrange(9)}.{r.randrange(9)}.{r.randrange(9)} and passport-local",
        lambda: f"sin({r.randrange(10**9) / 10**7}) = {r.random():.9f}",
        lambda: f"pan and zoom by {r.randrange(10**4)} px, dni unknown, nif unknown",
        lambda: (
            f"bitcoin price {r.randrange(10**5)}.{r.randrange(100):02} USD, wallet size {r.randrange(10**9)}"
        ),
        lambda: f"container {r.randbytes(6).hex()} image app:{r.randrange(10**4)}.{r.randrange(99)}",
        lambda: f"asset-{r.randrange(10**4):04}-{r.choice('ABCDEFGH')}{r.randrange(10**6):06}",
        lambda: f"{r.randrange(10**3):03}-{r.randrange(10**3):03}-{r.randrange(10**3):03}",
        lambda: f"ISBN 978{r.randrange(10**10):010}",
        lambda: f"arn:aws:iam::{r.randrange(10**12):012}:role/service-{r.randrange(99)}",
        lambda: f"projects/{r.randrange(10**12)}/locations/eu-west{r.randrange(9)}",
        lambda: f"run_{''.join(r.choices(string.ascii_letters + string.digits, k=24))}",
        lambda: (
            f"PR #{r.randrange(10**5)} fixes JIRA-{r.randrange(10**5)}: null at {r.randrange(999)}:{r.randrange(99)}"
        ),
        lambda: f"{r.randrange(10**6)}:{r.randrange(10**6)}:{r.randrange(10**6)}",
        lambda: f"user_{r.randrange(10**9)} session s-{r.randbytes(8).hex()}",
        lambda: f"EUR {r.randrange(10**6):,}.{r.randrange(100):02} / GBP {r.randrange(10**5)}.00",
        lambda: f"lat={r.uniform(-90, 90):.7f}&lon={r.uniform(-180, 180):.7f}&zoom={r.randrange(20)}",
        lambda: (
            f"{''.join(r.choices('ABCDEFGHJKLMNPQRSTUVWXYZ', k=4))}-{r.randrange(10**4):04}-{r.choice('AB')}"
        ),
        lambda: f"VIN 1HGCM{r.randrange(10**5):05}A{r.randrange(10**6):06}",
    ]
    return [makers[index % len(makers)]() for index in range(count)]


def test_hard_negatives_under_keys_stay(engine: Engine) -> None:
    keys = ["order.id", "trace_id", "gen_ai.usage.output_tokens", "http.url", "token_type", "id", "content"]
    corpus = [json.dumps({key: text}) for text in hard_negatives(500) for key in keys]
    touched = [text for text in corpus if engine.redact(text)[1]]
    assert len(touched) <= len(corpus) // 100, touched[:20]


def test_hard_negatives_stay(engine: Engine) -> None:
    corpus = hard_negatives(5000)
    touched = [text for text in corpus if engine.redact(text)[1]]
    assert len(touched) <= len(corpus) // 200, touched[:20]
