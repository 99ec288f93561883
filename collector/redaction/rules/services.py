"""Tokens of further services, and private keys in other shapes than PEM."""

from __future__ import annotations

from collections.abc import Iterator

from collector.redaction.rule import Rule, Span
from collector.redaction.rules.credentials import LONGEST_KEY, end_of_key_lines
from collector.redaction.validator import left_standalone, standalone

_HEX = "0123456789abcdef"
_LONG = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"


def _ssh2(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Take the key with its END line, or without one (cut off) all that looks like key material."""
    stop = text.find(b"---- END", end, end + LONGEST_KEY)
    yield start, stop + 8 if stop >= 0 else end_of_key_lines(text, end)


def _random(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept base64: capitals, small letters and digits, as no hash in hex has."""
    found = text[start:end]
    if any(0x30 <= byte <= 0x39 for byte in found) and found.lower() != found != found.upper():
        yield start, end


RULES = (
    Rule(
        name="PLATFORM_TOKEN",
        gate=(
            r"dckr_pat_|\.atlasv1\.|figd_|nfp_[A-Za-z0-9]{4}|fm2_[A-Za-z0-9]{4}|pscale_|rubygems_[0-9a-f]{4}|CCIPAT_|ATBB[A-Za-z0-9]{4}"
            r"|pcsk_[A-Za-z0-9]{4}|glc_eyJ|hvb\.[A-Za-z0-9]{4}|sq0[a-z]{3}-|EAAA[A-Za-z0-9]{4}|dt0c01\.|HRKU-|napi_[A-Za-z0-9]{4}"
            r"|ops_eyJ|secret_[A-Za-z0-9]{8}|key-[0-9a-f]{8}|[0-9a-f]-us[0-9]|:APA91"
            r"|1\\*/\\*/0[A-Za-z0-9_-]{4}|webhook\.office\.com"
        ),
        pattern=(
            r"dckr_pat_[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{40,}|figd_[A-Za-z0-9_-]{30,}|nfp_[A-Za-z0-9]{30,}"
            r"|fm2_[A-Za-z0-9+/=]{40,}|pscale_(?:tkn|oauth|pw)_[A-Za-z0-9_.-]{30,}|rubygems_[0-9a-f]{48}|CCIPAT_[A-Za-z0-9]{10,}_[0-9a-f]{40}"
            r"|ATBB[A-Za-z0-9]{32}|pcsk_[A-Za-z0-9_]{40,}|glc_eyJ[A-Za-z0-9+/=]{30,}|hvb\.[A-Za-z0-9_-]{60,}"
            r"|sq0(?:atp|csp|idp)-[A-Za-z0-9_-]{22,}|EAAA[A-Za-z0-9_-]{60}|dt0c01\.[A-Z0-9]{24}\.[A-Z0-9]{64}"
            r"|HRKU-[A-Za-z0-9_-]{36,}|napi_[A-Za-z0-9]{40,}|ops_eyJ[A-Za-z0-9_-]{80,}|secret_[A-Za-z0-9]{43}"
            r"|key-[0-9a-f]{32}|[0-9a-f]{32}-us[0-9]{1,2}|AAAA[A-Za-z0-9_-]{7}:APA91[A-Za-z0-9_-]{100,}"
            r"|1//0[A-Za-z0-9_-]{40,}|webhook\.office\.com/webhookb2/(?P<value>[A-Za-z0-9@/-]{40,})"
        ),
        check=left_standalone,
        must_match=(
            "dckr_pat_" + _LONG[:27],
            "token figd_" + _LONG,
            "rubygems_" + _HEX * 3,
            "ATBB" + _LONG[:32] + ".",
            "key-" + _HEX * 2,
            _HEX * 2 + "-us12",
            "sq0atp-" + _LONG[:22] + ",",
            "pcsk_" + _LONG + _LONG,
            "https://acme.webhook.office.com/webhookb2/0a1b2c3d-aaaa-bbbb@cccc-dddd/IncomingWebhook/" + _HEX,
            "1//0" + "gabcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMN",
        ),
        must_not_match=(
            "dckr_pat_",
            "monkey-" + _HEX * 2,
            "secret_access_key_of_something",
            "key-" + _HEX,
            "patience.is.good",
            "cio" + "stands for chief information officer",
            "http://0.0.0.0//0",
            _HEX * 2 + "-use",
        ),
    ),
    Rule(
        name="PRIVATE_KEY",
        gate=r"---- BEGIN SSH2",
        pattern=r"---- BEGIN SSH2 (?:ENCRYPTED )?PRIVATE KEY ----",
        check=_ssh2,
        must_match=(
            "---- BEGIN SSH2 " + "ENCRYPTED PRIVATE KEY ----\nComment: x\nAAAA\n---- END SSH2",
            "x ---- BEGIN SSH2 " + "PRIVATE KEY ----\nP2/56wAAAi4\n---- END SSH2 PRIVATE KEY ----",
            "---- BEGIN SSH2 " + "ENCRYPTED PRIVATE KEY ----",
        ),
        must_not_match=("---- BEGIN SSH2 PUBLIC KEY ----", "BEGIN SSH2", "---- BEGIN"),
    ),
    # The private exponent of a JSON Web Key (RFC 7517); the primes with it.
    Rule(
        name="PRIVATE_KEY",
        gate=r"[\"']kty[\\\"']+",
        pattern=r"[\"'](?:d|p|q|dp|dq|qi|k)[\\\"']{1,4}\s*:\s*[\\\"']{1,4}(?P<value>[A-Za-z0-9_-]{22,})",
        must_match=(
            'the key {"kty":"EC","crv":"P-256","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"} is it',
            "{'kty': 'OKP', 'd': '" + "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A" + "'}",
            'jwk = {"kty":"RSA", "d" : "' + "X4cTteJY_gn4FYPsXB8rdXix5vwsg1FLN5E3EaG6RJoV" + '"}',
        ),
        must_not_match=(
            'see {"kty":"EC","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"} here',
            '{"d":"1"} or {"kty":"RSA","d":"short"} there',
            "kty d p q",
        ),
    ),
    Rule(
        name="PRIVATE_KEY",
        keys=r"^d$",
        pattern=r"^(?:[A-Za-z0-9_-]{43}|[A-Za-z0-9_-]{64}|[A-Za-z0-9_-]{88}|[A-Za-z0-9_-]{342,683})$",
        check=_random,
        must_match=(
            '{"kty":"EC","d":"' + "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI" + '"}',
            '{"kty":"OKP","d":"' + "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A" + '"}',
            '[{"kty":"EC","d":"' + "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE" + '"}]',
        ),
        must_not_match=(
            '{"d":"a short text"}',
            '{"d":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}',
            '{"kty":"EC","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"}',
            '{"k":"v"}',
        ),
    ),
    # The name of the key in a service account of Google: it says which key to revoke, and who had it.
    Rule(
        name="GOOGLE_KEY",
        gate=r"(?i)private_key_id",
        pattern=r"(?i)private_key_id[\"'\\\s:=]{1,8}(?P<value>[0-9a-f]{40})",
        must_match=(
            "private_key_id: " + _HEX * 2 + _HEX[:8],
            "'private_key_id': '" + _HEX * 2 + _HEX[:8] + "',",
            "PRIVATE_KEY_ID=" + _HEX * 2 + _HEX[:8],
        ),
        must_not_match=("private_key_id: none", "private_key_id=" + _HEX, _HEX * 2 + _HEX[:8]),
    ),
    Rule(
        name="GOOGLE_KEY",
        keys=r"^private_key_id$",
        pattern=r"^[0-9a-f]{40}$",
        must_match=(
            '{"private_key_id":"' + _HEX * 2 + _HEX[:8] + '"}',
            '{"type":"service_account","private_key_id":"' + _HEX * 2 + _HEX[:8] + '"}',
            '[{"private_key_id":"' + _HEX * 2 + _HEX[:8] + '"}]',
        ),
        must_not_match=(
            '{"key_id":"' + _HEX * 2 + _HEX[:8] + '"}',
            '{"private_key_id":""}',
            '{"private_key_id":"none"}',
        ),
    ),
    # WireGuard: 32 bytes in base64 behind their name.
    Rule(
        name="PRIVATE_KEY",
        gate=r"(?i)(?:private|preshared)_?key[ =:]",
        pattern=r"(?i)(?:private|preshared)_?key[ ]?[=:][ ]?(?P<value>[A-Za-z0-9+/]{43}=)",
        must_match=(
            "PrivateKey = " + "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
            "PresharedKey=" + "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=",
            "private_key: " + "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=;",
        ),
        must_not_match=(
            "PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
            "PrivateKey = ",
            "privatekey: none",
        ),
    ),
    Rule(
        name="CRYPTO_WALLET",
        gate=r"ltc1[a-z0-9]{8}|addr1[a-z0-9]{8}",
        pattern=r"ltc1[ac-hj-np-z02-9]{39,59}|addr1[ac-hj-np-z02-9]{53,98}",
        check=standalone,
        must_match=(
            "ltc1" + "qg42tkwuuxefutzxezdkdel39gfstuap288mfea",
            "pay addr1" + "vx2fxv2umyhttkxyxp8x0dlpdt3k6cwng5pxj3jhsydzerspjrlsz.",
            "(ltc1qg42tkwuuxefutzxezdkdel39gfstuap288mfea)",
        ),
        must_not_match=("ltc1short", "addr1234567890", "THE_NAME_OF_A_CONSTANT_IN_THE_CODE"),
    ),
    Rule(
        name="CRYPTO_WALLET",
        announced=True,
        pattern=r"T[1-9A-HJ-NP-Za-km-z]{33}",
        check=standalone,
        context=("tron", "trx", "usdt", "trc20", "wallet"),
        must_match=(
            "tron TJRyWwFs9wTFGZg3JbrVriFbNfCug5tDeC",
            "USDT wallet: TJRyWwFs9wTFGZg3JbrVriFbNfCug5tDeC.",
            "trx=TJRyWwFs9wTFGZg3JbrVriFbNfCug5tDeC",
        ),
        must_not_match=(
            "TJRyWwFs9wTFGZg3JbrVriFbNfCug5tDeC",
            "tron TJRyWwFs",
            "THE_NAME_OF_A_CONSTANT_IN_THE_CODE",
        ),
    ),
)
