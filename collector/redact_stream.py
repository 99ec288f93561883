"""Redact a stream line by line: what ``driftgate redact`` does between its standard input and output.

Memory is bounded by ``max_line_bytes``. What is read is written as soon as its lines are complete, so it works behind
``tail -f``. A line that cannot be scanned is replaced by a marker, never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Literal

from collector.redaction.engine import Engine
from collector.redaction.report import RedactionReport
from collector.redaction.rule import Unscannable

_READ = 256 << 10
# How a private key that stretches over lines begins, and what is in its last line.
_KEYS = (
    (re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"), b"-----END"),
    (re.compile(rb"---- BEGIN SSH2 [A-Z ]*PRIVATE KEY"), b"---- END"),
    (re.compile(rb"PuTTY-User-Key-File-[0-9]:"), b"Private-MAC:"),
)
_MOST_KEY_BYTES = 64 << 10
_UNSCANNABLE = "UNSCANNABLE"

Format = Literal["text", "jsonl"]


def redact_stream(
    source: IO[bytes],
    target: IO[bytes],
    engine: Engine,
    format: Format = "text",  # noqa: A002 - as the command's option
    *,
    max_line_bytes: int = 16 << 20,
) -> RedactionReport:
    """Copy ``source`` to ``target``, redacted.

    Parameters
    ----------
    source, target
        Binary streams. Nothing is closed.
    engine
        The redaction engine.
    format
        ``text``: a private key may stretch over lines. ``jsonl``: one JSON value per line, and a marker for a line that
        cannot be scanned is JSON too; a line that is not JSON is redacted as text.
    max_line_bytes
        Longest line that is scanned; a longer one is replaced by the marker.

    Returns
    -------
    RedactionReport
        Counts per entity with the place ``line``; lines replaced by a marker count as ``UNSCANNABLE``.
    """
    report = RedactionReport()
    marker = f"[{_UNSCANNABLE}]".encode()
    if format == "jsonl":
        marker = b'"' + marker + b'"'
    for lines in _blocks(source, max_line_bytes):
        bodies = [b"" if line is None else line.rstrip(b"\r\n") for line in lines]
        found = engine.redact_batch(bodies, [""] * len(bodies))
        out: list[bytes] = []
        for index, (line, body) in enumerate(zip(lines, bodies, strict=True)):
            result = found.get(index)
            if line is None or isinstance(result, Unscannable):
                report.add("line", (_UNSCANNABLE,))
                out.append(marker + (b"\n" if line is None else line[len(body) :]))
            elif result is not None:
                report.add("line", result.entities)
                out.append(result.text + line[len(body) :])
            else:
                out.append(line)
        target.write(b"".join(out))
        target.flush()
    return report


def _blocks(source: IO[bytes], max_line_bytes: int) -> Iterator[list[bytes | None]]:
    """Yield what has arrived as lines with their ends; private keys are one line, lines that are too long are ``None``."""
    key: list[bytes] = []
    key_size = 0
    key_end = b""
    for lines in _lines(source, max_line_bytes):
        block: list[bytes | None] = []
        for line in lines:
            if key:
                key.append(line or b"")
                key_size += len(line or b"")
                if line is None or key_end in line or key_size > _MOST_KEY_BYTES:
                    block.append(b"".join(key))
                    block += [None] if line is None else []
                    key, key_size = [], 0
            elif line is not None and (key_end := _end_of_key(line)):
                key, key_size = [line], len(line)
            else:
                block.append(line)
        if block:
            yield block
    if key:
        yield [b"".join(key)]


def _end_of_key(line: bytes) -> bytes:
    """Return what ends the private key that begins in ``line`` and does not end there; empty if none does."""
    if line.lstrip()[:1] in (b"{", b"[", b'"'):
        return b""  # in a JSON line the key is one string, cut off or not
    for begin, end in _KEYS:
        if (match := begin.search(line)) is not None and end not in line[match.end() :]:
            return end
    return b""


def _lines(source: IO[bytes], max_line_bytes: int) -> Iterator[list[bytes | None]]:
    read = getattr(source, "read1", source.read)
    parts: list[bytes] = []  # of the unfinished line
    size = 0
    too_long = False
    while data := read(_READ):
        *complete, rest = _split(data)
        lines: list[bytes | None] = []
        for line in complete:
            if too_long or size + len(line) > max_line_bytes:
                lines.append(None)
            else:
                lines.append(b"".join((*parts, line)) if parts else line)
            parts, size, too_long = [], 0, False
        size += len(rest)
        if size > max_line_bytes:
            parts, too_long = [], True
        elif rest:
            parts.append(rest)
        if lines:
            yield lines
    if too_long:
        yield [None]
    elif parts:
        yield [b"".join(parts)]


def _split(data: bytes) -> list[bytes]:
    """Split behind each newline; the last piece is what follows the last newline, possibly nothing."""
    pieces = data.split(b"\n")
    return [piece + b"\n" for piece in pieces[:-1]] + pieces[-1:]
