"""Any gateway with an HTTP endpoint: a templated request, with read-before-write and compare-and-set.

Guarantee: at most one effective rollback per decision if the gateway does any one of these: honours the
``Idempotency-Key`` (the same for every try), honours ``If-Match``, or lets its state be read so that ``read.done`` tells
that it has happened.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sinks.alerts_settings import HttpTarget
from sinks.outgoing import Outgoing, Reply
from sinks.rollback.adapter import Called, Order, Reading, RollbackAdapter
from sinks.rollback.template import render, render_header, render_pointer, render_url
from stream.errors import Permanent, Transient

_PREVIOUS = 16 << 10  # bytes of JSON that are kept of the state before
_DETAIL = 200
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")


class HttpRollback(RollbackAdapter):
    """See the module."""

    name = "http"

    def __init__(self, target: HttpTarget, http: Outgoing) -> None:
        self._target = target
        self._http = http

    def check(self) -> None:
        """See :meth:`RollbackAdapter.check`."""
        if self._target.token is not None:
            self._target.token.reveal()

    async def read(self, order: Order) -> Reading:
        """See :meth:`RollbackAdapter.read`."""
        read = self._target.read
        if read is None:
            return Reading()
        values = _values(order, None)
        reply = await self._request("GET", _url(read.url, values), {"Accept": "application/json"}, b"")
        if reply.status == 429 or reply.status == 408 or reply.status >= 500:
            raise Transient(
                f"read_http_{reply.status}", "the state cannot be read now", retry_after=_wait(reply)
            )
        if not 200 <= reply.status < 300:
            raise Permanent(f"read_http_{reply.status}", "the gateway refused to show its state")
        try:
            state = msgspec.json.decode(reply.body)
            found = resolve_pointer(state, render_pointer(read.pointer, values))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Permanent(
                "read_not_json", "the gateway's state is not JSON, or is cut at max_response"
            ) from error
        except LookupError as error:
            raise Permanent("read_pointer", "the gateway's state has nothing at read.pointer") from error
        kept = found if len(msgspec.json.encode(found)) <= _PREVIOUS else {"left_out": "larger than 16 KiB"}
        if read.done is not None and equal(found, render(read.done, values)):
            return Reading(previous=kept, done=True)
        # After a try that may have arrived, the state may rightly differ; the idempotency key covers that case.
        if read.expect is not None and not order.repeated and not equal(found, render(read.expect, values)):
            raise Permanent("changed", "the gateway's state is not what it must be for this rollback")
        return Reading(previous=kept, etag=reply.headers.get("etag", "") if read.etag else "")

    async def call(self, order: Order, reading: Reading) -> Called:
        """See :meth:`RollbackAdapter.call`."""
        target = self._target
        values = _values(order, reading)
        headers = {name: render_header(text, values) for name, text in target.headers.items()}
        headers["Idempotency-Key"] = order.idempotency_key
        body = b""
        if target.body is not None:
            body = msgspec.json.encode(render(target.body, values))
            headers.setdefault("Content-Type", "application/json")
        if reading.etag:
            headers["If-Match"] = reading.etag
        reply = await self._request(target.method, _url(target.url, values), headers, body)
        if 200 <= reply.status < 300:
            return Called(status_code=reply.status)
        if reply.status == 412 and reading.etag:
            raise Transient(
                "changed_meanwhile", "the gateway changed between read and write", retry_after=0.1
            )
        # 409: another try with this key is still being worked on (draft-ietf-httpapi-idempotency-key-header).
        if reply.status in (408, 409, 425, 429) or reply.status >= 500:
            raise Transient(f"http_{reply.status}", _excerpt(reply), retry_after=_wait(reply))
        raise Permanent(f"http_{reply.status}", _excerpt(reply))

    def plan(self, order: Order, reading: Reading) -> dict[str, Any]:
        """See :meth:`RollbackAdapter.plan`."""
        values = _values(order, reading)
        return {
            "method": self._target.method,
            "url": _url(self._target.url, values),
            "body": render(self._target.body, values),
        }

    def undo(self, order: Order, reading: Reading) -> dict[str, Any] | None:
        """See :meth:`RollbackAdapter.undo`."""
        undo = self._target.undo
        if undo is None:
            return None
        values = _values(order, reading)
        return {"method": undo.method, "url": _url(undo.url, values), "body": render(undo.body, values)}

    async def _request(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Reply:
        if self._target.token is not None:
            headers["Authorization"] = f"Bearer {self._target.token.reveal()}"
        return await self._http.request(
            method, url, headers=headers, body=body, timeout=self._target.timeout,
            max_response=self._target.max_response,
        )  # fmt: skip


def resolve_pointer(document: Any, pointer: str) -> Any:
    """Return the value at a JSON Pointer (RFC 6901); raises ``LookupError`` if there is none."""
    value = document
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value[key]
        elif isinstance(value, list) and _INDEX.fullmatch(key):
            value = value[int(key)]
        else:
            raise LookupError(pointer)
    return value


def equal(left: Any, right: Any) -> bool:
    """Compare JSON values: 0 and 0.0 are equal, 0 and false are not."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(equal(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def _values(order: Order, reading: Reading | None) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.structs.asdict(order)
    values["previous"] = reading.previous if reading is not None else None
    return values


def _url(url: str, values: dict[str, Any]) -> str:
    try:
        return render_url(url, values)
    except ValueError as error:
        raise Permanent("bad_url", str(error)) from error


def _wait(reply: Reply) -> float:
    return reply.retry_after() or 0.001


def _excerpt(reply: Reply) -> str:
    text = reply.body[: 4 * _DETAIL].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else " " for char in text)[:_DETAIL]
