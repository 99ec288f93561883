"""Passwords and keys of no particular maker: what stands behind ``password:`` or ``api_key=``, or under such a key."""

from __future__ import annotations

import re
from collections.abc import Iterator

from collector.redaction.pattern import latin1
from collector.redaction.rule import Rule, Span
from collector.redaction.validator import entropy

_LOGIN_WORDS = "pass(?:word|wd|phrase)|pwd|passcode|kennwort|passwort|contrase(?:ñ|n)a|mot de passe"
_KEY_WORDS = (
    "api[_. -]?key|apikey|secret[_. -]?key|client[_. -]?secret|access[_. -]?token|refresh[_. -]?token"
    "|auth[_. -]?token|private[_. -]?key|signing[_. -]?key|encryption[_. -]?key|session[_. -]?secret|app[_. -]?secret"
    "|bot[_. -]?token|x-api-key|webhook[_. -]?secret|secret|token|credentials?"
)
# Between the word and the value: quotes (of JSON, also escaped), one of : = =>, and one space.
_BETWEEN = r"[\"'\\]{0,4} ?(?:[:=]|=>|:=) ?[\"'\\]{0,4}"
# The same where a gate looks for it: JSON in JSON doubles the backslashes at every level, and the colon may be full-width.
_BETWEEN_GATE = r"\\*[^A-Za-z0-9]{0,6}(?:[:=]|\xef\xbc[\x9a\x9d])"
_VALUE = r"[^\s\"'\\,;&<>()\[\]{}`|“”‘’„«»]"

# Values that say where the secret is, or that there is none.
_PLACEHOLDER = re.compile(
    rb"[$%<{(].*|\*+|x+|\.+|-+|_+|(?:true|false|null|none|nil|undefined|required|optional|string|redacted|hidden|changeme"
    rb"|your|example|empty|unset|default|invalid|missing|incorrect|wrong|expired)(?:[_-].*)?|.*(?:\.\.\.|\xe2\x80\xa6).*",
    re.IGNORECASE | re.DOTALL,
)
# Names in code: password = request.form, self.password_1, os.environ. RE2: an underscore can be taken in two ways, and
# whoever writes enough of them would keep Python's own matcher busy for ever.
_NAME = latin1(rb"[A-Za-z_]+(?:[._][A-Za-z_]+[0-9]?)*[.:!?]?|[0-9]{1,5}|[0-9.]+%?|https?:.*")
# Where a value seems to end at one of these, it goes on unless white space, a further field or the end follows. No password
# is longer than this, and in a long line of fields each would be read to the end of the line.
_GOES_ON = re.compile(rb"[&,;|<][^\s\"'\\]{1,4096}")
_NEXT_FIELD = re.compile(rb"[&,;|<]\s*/?[A-Za-z_][\w. -]{0,63}\s*[=:>]")
_CLASSES = (re.compile(rb"[0-9]"), re.compile(rb"[a-z]"), re.compile(rb"[A-Z]"), re.compile(rb"[^0-9A-Za-z]"))
_SHORTEST_PASSWORD = 6
_SHORTEST_KEY = 16
_LEAST_ENTROPY = 3.0


def _whole(text: bytes, end: int) -> int:
    """Return the end of a password that holds characters which usually end one, so that no part of it stays."""
    if _NEXT_FIELD.match(text, end):
        return end
    more = _GOES_ON.match(text, end)
    return end if more is None else more.end()


def _password(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept six characters of two kinds or more that are neither a placeholder nor a name in code."""
    whole = _whole(text, end)
    end = whole if whole > end else start + len(text[start:end].rstrip(b".?:"))
    found = text[start:end]
    if len(found) < _SHORTEST_PASSWORD or _PLACEHOLDER.fullmatch(found) or _NAME.fullmatch(found):
        return
    if sum(kind.search(found) is not None for kind in _CLASSES) >= 2:
        yield start, end


def _key(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept sixteen characters or more with digits and letters and an entropy of three bits or more each."""
    end = start + len(text[start:end].rstrip(b".!?:"))
    found = text[start:end]
    if len(found) < _SHORTEST_KEY or _PLACEHOLDER.fullmatch(found) or _NAME.fullmatch(found):
        return
    if _CLASSES[0].search(found) and re.search(rb"[A-Za-z]", found) and entropy(found) >= _LEAST_ENTROPY:
        yield start, end


def _under_key(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept everything but placeholders: the key says what it is."""
    if not _PLACEHOLDER.fullmatch(text[start:end]):
        yield start, end


RULES = (
    Rule(
        name="SECRET",
        gate=rf"(?i)(?:{_LOGIN_WORDS.encode().decode('latin-1')}|contrase(?:\\+u00f1|%c3%b1)a){_BETWEEN_GATE}",
        pattern=rf"(?i)(?:{_LOGIN_WORDS}){_BETWEEN}(?P<value>{_VALUE}{{4,}})",
        check=_password,
        must_match=(
            "password: hunter2!",
            "my PWD=Tr0ub4dor&3 works",
            "{'password': 'c0rrect-horse'}",
            "Server=db;User Id=app;Password=" + "Zx9!kLm2;Encrypt=true",
            '{"password":"c0rrect-horse"}',
        ),
        must_not_match=(
            "password: required",
            "password = request.form.password",
            "password: ${DB_PASSWORD}",
            "PASSWORD=********",
            "password: <your password>",
            "the password is wrong",
        ),
    ),
    Rule(
        name="SECRET",
        gate=rf"(?i)(?:key|secret|token|credentials?){_BETWEEN_GATE}",
        pattern=rf"(?i)(?:{_KEY_WORDS}){_BETWEEN}(?P<value>{_VALUE}{{16,}})",
        check=_key,
        must_match=(
            "api_key=" + "9f8A7b6C5d4E3f2G1h0I",
            "client_secret: " + "Zx81-kLm2_QwErTy77pq",
            'X-Api-Key: "' + 'a1b2c3d4e5f6g7h8i9j0"',
            "export AUTH_TOKEN=" + "q1w2e3r4t5y6u7i8o9p0aa",
        ),
        must_not_match=(
            "api_key=os.environ.get",
            "token: the_next_page_of_results",
            "max_tokens=4096",
            "secret = settings.client_secret_key",
            "token=aaaaaaaaaaaaaaaaaaaa1",
        ),
    ),
    Rule(
        name="SECRET",
        keys=(
            r"(?:^|[._ -])(?:password|passwd|passphrase|pwd|passcode|kennwort|passwort|contrase.{1,2}a|api_?-?key|secret_?-?key|client_?-?secret|access_?token"
            r"|refresh_?token|auth_?token|private_?key|secret_?access_?key|bot_?token|signing_?key)$"
        ),
        pattern=r"(?s)^\s*(?P<value>\S.+\S)\s*$",
        check=_under_key,
        must_match=(
            '{"password":"c0rrect-horse-battery"}',
            '{"apiKey":"9f8A7b6C5d4E3f2G1h0I"}',
            '{"db":{"client_secret":"Zx81-kLm2_QwErTy77pq"}}',
        ),
        must_not_match=('{"password":null}', '{"password":"${DB_PASSWORD}"}', '{"passwords":"many of them"}'),
    ),
    # Keys of many meanings (page tokens, "the secret of success"): what stands there must look like one.
    Rule(
        name="SECRET",
        keys=r"(?:^|[._ -])(?:secret|token|credentials?|encryption_?-?key)$",
        pattern=r"^\s*(?P<value>\S{16,})\s*$",
        check=_key,
        must_match=(
            '{"token":"9f8A7b6C5d4E3f2G1h0I"}',
            '{"app":{"webhook_secret":"Zx81-kLm2_QwErTy77pq"}}',
            '{"apiToken":"q1w2e3r4t5y6u7i8o9p0aa"}',
        ),
        must_not_match=(
            '{"token":"the_next_page_of_results"}',
            '{"secret":"of success and 16 other things"}',
            '{"tokens":"9f8A7b6C5d4E3f2G1h0I"}',
        ),
    ),
)
