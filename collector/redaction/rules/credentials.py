"""What opens doors anywhere: private keys, tokens, passwords in addresses."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from collector.redaction.edge import WORD
from collector.redaction.rule import Rule, Span
from collector.redaction.validator import is_word

LONGEST_KEY = 64 << 10
# Headers, then lines of base64; in source code the lines are strings, put together.
_KEY_LINES = re.compile(
    rb"(?:[ \t]*\r?\n[A-Za-z-]+: [^\n]*)*"
    rb"(?:(?:\s*|[ \t\"'+,.\\]*\r?\n[\s\"'+,.]*)[A-Za-z0-9+/=]{16,})*(?:[\s\"'+,.]*[A-Za-z0-9+/]{1,76}={1,2})?"
)
_PLACEHOLDER = re.compile(rb"[$%<{*(\[].*", re.DOTALL)
_SHORTEST_LONE_TOKEN = 16
_PORT = re.compile(rb"[0-9]{1,5}/")
_LOOKS_RANDOM = re.compile(rb"[0-9]|[a-z][A-Z]|[A-Z][a-z].*[A-Z]")


def _private_key(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Take the key with its END line, or without one (cut off) all that looks like key material."""
    limit = end + LONGEST_KEY
    stop = text.find(b"-----END", end, limit)
    # A quote between would mean that the END belongs to another JSON value.
    if stop >= 0 and b'"' not in text[end:stop]:
        dashes = text.find(b"-----", stop + 8, stop + 100)
        yield start, dashes + 5 if dashes >= 0 else stop + 8
        return
    yield start, end_of_key_lines(text, end)


def end_of_key_lines(text: bytes, start: int) -> int:
    """Return where that ends which looks like key material and begins at ``start``."""
    body = _KEY_LINES.match(text, start, start + LONGEST_KEY)
    return body.end() if body else start


def _jwt(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept a token whose header is JSON (RFC 7519), or whose second part starts as JSON does."""
    if is_word(text, start - 1):
        return
    header, _, rest = text[start:end].partition(b".")
    if not rest.startswith(b"eyJ"):
        try:
            decoded = base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4))
        except (binascii.Error, ValueError):
            return
        if not decoded.startswith(b"{") or b'"' not in decoded:
            return
    yield start, end


def _bearer(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept what is no word of a language: with a digit, or with capitals inside."""
    if _LOOKS_RANDOM.search(text, start, end):
        yield start, end


def _authorization(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept what stands behind the name of a scheme, and what stands alone and is no word; not ``Bearer ${TOKEN}``."""
    found = text[start:end]
    if _PLACEHOLDER.fullmatch(found):
        return
    lone = not text[:start].strip()
    if not lone or (len(found) >= _SHORTEST_LONE_TOKEN and b" " not in found and _LOOKS_RANDOM.search(found)):
        yield start, end


def _url(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept ``user:password`` and long lone tokens; ``host:port/path@x`` and ``git@host`` are none."""
    user, colon, password = text[start:end].partition(b":")
    if colon:
        if password and not _PORT.match(password):
            yield start, end
    elif len(user) >= 16 and _LOOKS_RANDOM.search(user):
        yield start, end


RULES = (
    Rule(
        name="PRIVATE_KEY",
        gate=r"-----BEGIN",
        pattern=r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
        check=_private_key,
        must_match=(
            "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN " + "PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
            'a = "-----BEGIN EC '
            'PRIVATE KEY-----\\n"\n    "MHcCAQEEIIrYSSNQFaA2\\n"\n    "-----END EC PRIVATE KEY-----"',
            "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----\n\nlQOYBF\n-----END PGP PRIVATE KEY BLOCK-----",
        ),
        must_not_match=(
            "-----BEGIN CERTIFICATE-----",
            "-----BEGIN PUBLIC KEY-----",
            "the BEGIN PRIVATE KEY line",
        ),
    ),
    Rule(
        name="JWT",
        gate=WORD + r"(?:eyJ[A-Za-z0-9_-]{5})",
        pattern=r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:(?:\.[A-Za-z0-9_-]*){0,2}\.[A-Za-z0-9_-]+)?",
        check=_jwt,
        must_match=(
            "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
            "token=eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0;",
            "eyJhbGciOiJSU0EtT0FFUCJ9.OKOawDo13gRp2oja.48V1_ALb6US04U3b.5eym8TW_c8SuK0lt.XFBoMYUZodetZdvT",
        ),
        must_not_match=("eyJhbGciOiJIUzI1NiJ9", "eyJust.some.words", "keyJumper.method.call"),
    ),
    Rule(
        name="BEARER_TOKEN",
        gate=r"(?i)bearer[^A-Za-z0-9]{1,8}[A-Za-z0-9._~+/-]{8}|ation[^A-Za-z0-9]{1,12}token[^A-Za-z0-9]",
        pattern=r"(?i)(?:\bbearer|authorization[\"':=\s]+token)[ :=]+\"?(?P<value>[A-Za-z0-9._~+/-]{11,}[A-Za-z0-9_~+/-]=*)",
        check=_bearer,
        must_match=(
            "Authorization: Bearer " + "mF_9.B5f-4.1JqM4z7",
            "bearer 0123456789abcdef",
            '"authorization": "Bearer AbCdEfGhIjKlMnOpQr"',
            "authorization: token 0a1b2c3d4e5f6a7b",
        ),
        must_not_match=(
            "bearer responsibilities",
            "the bearer of good news",
            "Bearer authentication",
            "bearer: none",
        ),
    ),
    Rule(
        name="BEARER_TOKEN",
        # As a key of JSON it asks for the next rule.
        gate=r"(?i)ation[^A-Za-z0-9]{1,12}basic|authorization[\\\"' ]+[:=]",
        pattern=r"(?i)authorization[\"':=\s\[]+basic\s+(?P<value>[A-Za-z0-9+/_-]{6,}=*)",
        must_match=(
            "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "authorization=Basic dXNlcjpwYXNz",
            '"authorization": "Basic dXNlcjpwYXNzd29yZA=="',
        ),
        must_not_match=(
            "basic authorization",
            "Authorization: Basic",
            "documentation basic usage of functions",
        ),
    ),
    Rule(
        name="BEARER_TOKEN",
        keys=r"(?:^|[._ -])authorization$",
        pattern=(
            r"(?is)^\s*(?:(?:basic|bearer|digest|token|negotiate|oauth|hawk|apikey|dpop|aws4-hmac-sha256)\s+)?"
            r"(?P<value>\S.{4,}\S)\s*$"
        ),
        check=_authorization,
        must_match=(
            '{"Authorization":"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}',
            '{"headers":{"proxy-authorization":"basic dXNlcjpwYXNzd29yZA=="}}',
            '{"authorization":["Basic dXNlcjpwYXNz"]}',
        ),
        must_not_match=(
            '{"authorization":"Bearer ${TOKEN}"}',
            '{"authorization":"granted to all members"}',
            '{"authorizations":"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}',
        ),
    ),
    Rule(
        name="URL_CREDENTIALS",
        gate=r":\\*/\\*/[^\x00-\x20\"'<>]*@",
        pattern=r"://(?P<value>[^\s\"'<>/?#]*|[^\s\"'<>/@:]*:[^\s\"'<>@]*)@",
        check=_url,
        must_match=(
            "postgres://app:" + "s3cret@db.example/app",
            "https://user:" + "p%40ss@example.com/",
            "redis://:" + "hunter2@cache:6379/0",
            "https://x:" + "p@ss@example.com",
        ),
        must_not_match=(
            "ssh://git@github.com/a/b",
            "https://medium.com/@user",
            "http://example.com:80/a@b",
            "https://example.com/?q=a:b@c",
        ),
    ),
)
