"""The filter behind ``driftgate redact``."""

from __future__ import annotations

import io
import json
import os
import threading
from typing import Any

import pytest

from collector.redact_stream import redact_stream
from collector.redaction.engine import Engine
from collector.settings import RedactionSettings

PEM = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEA7\nshort\n-----END RSA " + "PRIVATE KEY-----"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def run(engine: Engine, text: str | bytes, **options: Any) -> tuple[str, dict[str, int]]:
    target = io.BytesIO()
    source = io.BytesIO(text.encode() if isinstance(text, str) else text)
    report = redact_stream(source, target, engine, **options)
    return target.getvalue().decode("utf-8", "replace"), report.entities


def test_text(engine: Engine) -> None:
    text = "one a@example.com\r\n\n  two\t203.0.113.77\nlast b@example.com"
    assert run(engine, text) == ("one [EMAIL]\r\n\n  two\t[IPV4]\nlast [EMAIL]", {"EMAIL": 2, "IPV4": 1})


def test_clean_lines_are_unchanged_byte_for_byte(engine: Engine) -> None:
    text = b'{ "a" : 1.0 }\n\xff\xfe\n\n{"a":[1,2]}   \r\nend'
    target = io.BytesIO()
    redact_stream(io.BytesIO(text), target, engine, "jsonl")
    assert target.getvalue() == text


def test_a_private_key_over_lines(engine: Engine) -> None:
    assert run(engine, f"a\nkey: {PEM} end\nb\n") == ("a\nkey: [PRIVATE_KEY] end\nb\n", {"PRIVATE_KEY": 1})
    cut = PEM.replace("-----END RSA " + "PRIVATE KEY-----", "").replace("short\n", "")
    assert run(engine, cut)[0].strip() == "[PRIVATE_KEY]"


@pytest.mark.parametrize(
    ("key", "entity"),
    [
        (
            "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nComment: x\nP2/56wAAAi4AAAA3aWYt\n---- END SSH2",
            "PRIVATE_KEY",
        ),
        (
            "PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\nAAAAIGVhc3kgdG8g\nPrivate-MAC: 00ff",
            "PLATFORM_TOKEN",
        ),
    ],
)
def test_keys_of_other_makers_over_lines(engine: Engine, key: str, entity: str) -> None:
    output, entities = run(engine, f"a\n{key}\nb@example.com\n")
    assert entities == {entity: 1, "EMAIL": 1}
    assert not any(line in output for line in key.splitlines()[1:-1])


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_how_the_bytes_arrive_does_not_matter(engine: Engine, chunk: int) -> None:
    text = (f"mail jane.doe@example.com\n{PEM}\n" * 3 + "é 203.0.113.77").encode()

    class Slow(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read(chunk)

    target = io.BytesIO()
    redact_stream(Slow(text), target, engine)
    assert target.getvalue().decode() == "mail [EMAIL]\n[PRIVATE_KEY]\n" * 3 + "é [IPV4]"


def test_jsonl(engine: Engine) -> None:
    lines = [
        json.dumps({"a": "x\njane.doe@example.com", "n": 1}),
        "not json jane.doe@example.com",
        json.dumps({"key": PEM}),
        json.dumps({"cut": PEM})[:58],
        json.dumps({"b": 2}),
    ]
    output, counts = run(engine, "\n".join(lines) + "\n", format="jsonl")
    first, second, third, fourth, fifth = output.splitlines()
    assert json.loads(first) == {"a": "x\n[EMAIL]", "n": 1}
    assert second == "not json [EMAIL]"
    assert json.loads(third) == {"key": "[PRIVATE_KEY]"}
    assert fourth == '{"cut": "[PRIVATE_KEY]'
    assert fifth == lines[4]
    assert counts == {"EMAIL": 2, "PRIVATE_KEY": 2}


@pytest.mark.parametrize(("form", "marker"), [("text", "[UNSCANNABLE]"), ("jsonl", '"[UNSCANNABLE]"')])
def test_what_cannot_be_scanned_does_not_pass(form: Any, marker: str) -> None:
    made = Engine(RedactionSettings(max_candidates=100))
    many = "+1 415 555 2671; " * 200
    output, counts = run(made, f"a\n{many}\nb\n", format=form)
    assert output == f"a\n{marker}\nb\n"
    assert counts == {"UNSCANNABLE": 1}


def test_a_line_that_is_too_long_does_not_pass(engine: Engine) -> None:
    text = "short\n" + "x" * 600_000 + " jane.doe@example.com\nnext\n" + "y" * 600_000
    output, counts = run(engine, text, max_line_bytes=500_000)
    assert output == "short\n[UNSCANNABLE]\nnext\n[UNSCANNABLE]\n"
    assert counts == {"UNSCANNABLE": 2}


def test_lines_come_out_as_they_come_in(engine: Engine) -> None:
    read_end, write_end = os.pipe()
    out_read, out_write = os.pipe()
    with (
        os.fdopen(read_end, "rb") as source,
        os.fdopen(out_write, "wb") as target,
        os.fdopen(out_read, "rb") as seen,
    ):
        worker = threading.Thread(target=redact_stream, args=(source, target, engine))
        worker.start()
        with os.fdopen(write_end, "wb", buffering=0) as feed:
            feed.write(b"first a@example.com\nsecond")
            # Readable although the writer has not finished.
            assert seen.readline() == b"first [EMAIL]\n"
        worker.join()
        target.close()
        assert seen.read() == b"second"
