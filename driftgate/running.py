"""Finds the process that owns a data folder, and talks to its ports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

import psutil

from stream.errors import DriftgateError, StartError


def endpoints_of(data: Path) -> dict[str, str] | None:
    """Return the addresses of the running process that owns ``data``; ``None`` when there is none."""
    try:
        found: dict[str, Any] = json.loads((data / "endpoints.json").read_text())
    except (OSError, ValueError):
        return None
    pid = found.pop("pid", 0)
    return {key: str(value) for key, value in found.items()} if pid and psutil.pid_exists(int(pid)) else None


def request(
    base: str,
    path: str,
    *,
    parameters: Mapping[str, str] | None = None,
    body: bytes | None = None,
    token: str = "",
    content_type: str = "application/json",
    timeout: float = 60.0,
) -> bytes:
    """Send one request to our own process and return the answer's body; POST when there is a ``body``.

    Raises
    ------
    StartError
        Nobody answers.
    DriftgateError
        The process answered with an error; the message is its text.
    """
    url = base + path + ("?" + urlencode(parameters) if parameters else "")
    headers = {"Content-Type": content_type}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    call = Request(url, data=body, headers=headers)  # noqa: S310 - an address from our own file
    try:
        with build_opener(ProxyHandler({})).open(call, timeout=timeout) as answer:
            content: bytes = answer.read()
            return content
    except HTTPError as error:
        text = error.read(4096).decode("utf-8", "replace").strip()
        raise DriftgateError(_said(text) or f"{url} answered {error.code}") from error
    except (URLError, TimeoutError, ConnectionError) as error:
        raise StartError(f"{base} does not answer; does the process run?") from error


def _said(text: str) -> str:
    """Return the sentence in an error answer of the administration port; other answers as they are."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return str(found["error"]) if isinstance(found, dict) and "error" in found else text
