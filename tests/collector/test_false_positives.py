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


LINES = [  # from logs, code, letters, queries, APIs
    "2024-11-25T09:52:42.123Z INFO  http.server GET /v1/orders/4155552671 200 12ms",
    "Nov 25 09:52:42 web-1 kernel: [12345.678901] usb 1-1: new high-speed USB device number 4",
    "E1125 09:52:42.123456 1 reflector.go:138] k8s.io/client-go@v0.27.3/tools/cache/reflector.go:231: Failed to watch",
    "npm WARN deprecated core-js@2.6.12: core-js@<3.23.3 is no longer maintained",
    "docker.io/library/postgres@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "commit 34f014a1c0ffee254729296a45a3885639dc7e2b (HEAD -> main, tag: v1.12.0)",
    'Traceback (most recent call last): File "/usr/lib/python3.11/site-packages/urllib3/connectionpool.py", line 703, in urlopen',
    "SELECT order_id, total FROM orders WHERE created_at BETWEEN '2024-01-01' AND '2024-12-31' LIMIT 1000 OFFSET 250000",
    "INSERT INTO t VALUES (1001, 'SKU-0012-3456-78', 19.99, '2024-08-06 12:30:45')",
    "const RETRY_DELAYS = [100, 200, 400, 800, 1600, 3200, 6400, 12800];",
    'export const API_KEY = process.env.API_KEY ?? "";',
    "password: str = Field(min_length=12, max_length=128)",
    'os.environ["OPENAI_API_KEY"] = getpass("OpenAI key: ")',
    'curl -H "Authorization: Bearer $TOKEN" https://api.example.com/v1/items?limit=100',
    'if token == "": raise ValueError("token is missing")',
    "Invoice 2024-000123456 of 1,234.56 EUR is due on 2024-12-31 (VAT 19 %: 197.11 EUR)",
    "Flight LH 454 FRA-SFO departs 10:05, gate B42, seat 23A, fare 1.203,40 EUR",
    "ISBN 978-3-16-148410-0, DOI 10.1000/182, arXiv:2307.09288, RFC 9110 section 15.5.1",
    "Tracking number 1Z999AA10123456784, weight 12.5 kg, 40 x 30 x 20 cm",
    "The population grew from 1,234,567 in 2010 to 1,345,678 in 2020 (+9.0 %)",
    "GPS 52.520008, 13.404954; elevation 34 m; bearing 271.5; speed 12.3 km/h",
    "pi = 3.14159265358979323846264338327950288419716939937510",
    "loss=0.0123456789 lr=3e-4 step=120000 grad_norm=1.0234 tokens=4096000000",
    '{"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7","flags":1}',
    '{"id":"chatcmpl-9XyZabcdEFGH1234567890ijklmn","object":"chat.completion","created":1718900000,"model":"gpt-4o-2024-08-06"}',
    '{"usage":{"prompt_tokens":1234,"completion_tokens":567,"total_tokens":1801},"system_fingerprint":"fp_3aa7262c27"}',
    "Content-Type: multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
    'ETag: W/"33a64df551425fcc55e4d42a148795d9f25f89d4"; Cache-Control: max-age=31536000',
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.6478.127 Safari/537.36",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS",
    "requirements: torch==2.3.1+cu121, transformers>=4.41,<5, numpy~=1.26.4",
    "Room 12-34, building 5, floor 3; part no. 4711-0815-42",
    "Score 3:2, halftime 1:1, attendance 75,024, minute 90+4",
    "Class A amplifier 2x50 W, 20-20000 Hz, SNR 102 dB, 230 V, 50/60 Hz",
    "kubectl get pods -n prod --selector=app=web,tier=frontend -o jsonpath='{.items[*].metadata.name}'",
    "arn:aws:iam::123456789012:role/service-role/lambda-exec-1a2b3c4d",
    "gs://bucket/path/2024/08/06/part-00000-of-00128.parquet (134217728 bytes)",
    'f"{user.name} <{user.email}>" and "{{ customer.phone }}" are templates',
    "WHERE phone IS NOT NULL AND email LIKE '%@%' AND ssn_hash = $1",
    "The CVE-2024-3094 backdoor was found in xz 5.6.0 and 5.6.1",
    "Model accuracy 0.9134 ± 0.0021 over 10 seeds, p = 0.0003, n = 12,345",
    "session s-9f8e7d6c5b4a, request req_011CQ8m3YxW, attempt 2 of 5",
    "Build 20240806.3 (20240806123045) finished in 12m 34s on runner-42",
    "0x7ffd1234abcd in main () at src/main.c:42, rip=0x401136",
    "UPDATE accounts SET balance = balance - 100.00 WHERE id = 987654321",
    "Meeting at 10:30-11:15 UTC+2, room 4.12, dial-in shared in the invite",
    "Ratio 16:9, 1920x1080@60, bitrate 12,000 kbps, codec avc1.64002a",
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.mark.parametrize("text", UNTOUCHED + LINES)
def test_stays(engine: Engine, text: str) -> None:
    assert engine.redact(text) == (text, ())


@pytest.mark.parametrize("text", UNTOUCHED + LINES)
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
