"""Finds the process that owns a data folder, and talks to its ports."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from stream.errors import ConfigError, DriftgateError, StartError

_FILE = "endpoints.json"
_LOOKS_S = 2.0  # a command that looks whether the file is locked holds it for a moment


def base_url(host: str, port: int) -> str:
    """Return the address of a listener; an IPv6 address stands in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def tell_endpoints(data: Path, endpoints: Mapping[str, str]) -> Callable[[], None]:
    """Write where this process listens into the data folder; return what takes it away again.

    The file is locked as long as the process lives. Its id would not do: in a container, every process has the same one.

    Raises
    ------
    StartError
        Another process owns the folder.
    """
    path = data / _FILE
    file = path.open("a+", encoding="utf-8")
    end = time.monotonic() + _LOOKS_S
    while not _lock(file.fileno(), fcntl.LOCK_EX):
        if time.monotonic() > end:
            file.close()
            raise StartError(f"another driftgate process owns the data folder {data}; stop it, or set `data`")
        time.sleep(0.01)
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), **endpoints}))
    file.flush()

    def take_away() -> None:
        path.unlink(missing_ok=True)
        file.close()

    return take_away


def endpoints_of(data: Path) -> dict[str, str] | None:
    """Return the addresses of the running process that owns ``data``; ``None`` when there is none."""
    try:
        with (data / _FILE).open(encoding="utf-8") as file:
            if _lock(file.fileno(), fcntl.LOCK_SH):  # nobody holds it
                return None
            found = json.load(file)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    return {key: str(value) for key, value in found.items() if key != "pid"}


def _lock(descriptor: int, kind: int) -> bool:
    """Take a lock of ``kind`` (``LOCK_EX``, ``LOCK_SH``) until the file is closed; ``False`` where another excludes it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
    ConfigError
        The token cannot be sent.
    StartError
        Nobody answers, or not in HTTP, or with another address.
    DriftgateError
        The process answered with an error; the message is its text.
    """
    url = base + path + ("?" + urlencode(parameters) if parameters else "")
    headers = {"Content-Type": content_type}
    if token:
        if not (token.isascii() and token.isprintable()):
            # Said here: what the HTTP client says of such a header repeats it.
            raise ConfigError(
                "the token is no single line of ASCII characters, and cannot be sent in a header"
            )
        headers["Authorization"] = f"Bearer {token}"
    try:
        call = Request(url, data=body, headers=headers)  # noqa: S310 - an address from our own file
        with build_opener(ProxyHandler({}), _NoRedirects()).open(call, timeout=timeout) as answer:
            content: bytes = answer.read()
            return content
    except HTTPError as error:
        if moved := error.headers.get("Location"):
            raise StartError(f"{base} sends elsewhere, to {moved}: give that address") from error
        text = error.read(4096).decode("utf-8", "replace").strip()
        raise DriftgateError(_said(text) or f"{url} answered {error.code}") from error
    except (URLError, TimeoutError, ConnectionError) as error:
        raise StartError(f"{base} does not answer; does the process run?") from error
    except (HTTPException, ValueError) as error:
        raise StartError(f"{base} does not answer as a driftgate process does: {error}") from error


class _NoRedirects(HTTPRedirectHandler):
    """Follows none: a POST would become a GET that changes nothing, and the token would go to whoever is named."""

    def redirect_request(self, *_: object) -> None:
        return None


def _said(text: str) -> str:
    """Return the sentence in an error answer of the administration port; other answers as they are."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return str(found["error"]) if isinstance(found, dict) and "error" in found else text
