"""A language model that does what a test tells it: a real HTTP server that speaks the OpenAI chat API.

>>> with ScriptedJudge(4, "no idea", Fault(429, retry_after=0)) as model:   # doctest: +SKIP
...     settings = JudgeSettings(rubric="groundedness", model="openai/any", api_base=model.url, api_key=...)

Use it to test judges, and scorers of your own that ask a model. It needs no network beyond the loopback interface.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import msgspec


class Fault(msgspec.Struct, frozen=True):
    """An HTTP error; ``retry_after`` is sent as the header of that name, ``code`` as the error's code in the body."""

    status: int
    retry_after: float | str | None = None
    code: str = ""
    message: str = "scripted fault"


class Silence(msgspec.Struct, frozen=True):
    """No answer at all: the connection stays open until the client gives up or the server closes."""


class HangUp(msgspec.Struct, frozen=True):
    """The connection closes without an answer."""


class Raw(msgspec.Struct, frozen=True):
    """A body that is not what the API promises."""

    body: bytes
    content_type: str = "application/json"


Step = float | bool | str | Fault | Silence | HangUp | Raw
Script = Step | Callable[[dict[str, Any]], Step]


class ScriptedJudge:
    """The server. Each request takes the next step of ``script``; afterwards every request gets ``default``.

    A number is answered as ``{"explanation": …, "score": number}``, text as it stands. A callable gets the decoded
    request body and returns a step. ``requests`` holds the decoded bodies, ``headers`` the headers, in order.
    """

    def __init__(
        self, *script: Script, default: Script = 5, prompt_tokens: int = 100, completion_tokens: int = 20
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self._script = list(script)
        self._default = default
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The ``api_base`` of the server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _next(self, request: dict[str, Any], headers: dict[str, str]) -> Step:
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            step = self._script.pop(0) if self._script else self._default
        return step(request) if callable(step) else step

    def _completion(self, content: str, request: dict[str, Any]) -> bytes:
        return json.dumps(
            {
                "id": f"chatcmpl-{len(self.requests)}",
                "object": "chat.completion",
                "created": 1_700_000_000,
                "model": request.get("model", "scripted"),
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": content},
                    }
                ],
                "usage": {
                    "prompt_tokens": self.prompt_tokens,
                    "completion_tokens": self.completion_tokens,
                    "total_tokens": self.prompt_tokens + self.completion_tokens,
                },
            }
        ).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                request = json.loads(body)
                headers = {key.lower(): value for key, value in self.headers.items()}
                step = judge._next(request, headers)
                if isinstance(step, Silence | HangUp):
                    if isinstance(step, Silence):
                        judge._closing.wait(60)
                    self.close_connection = True
                    return
                if isinstance(step, Fault):
                    error = {"message": step.message, "type": step.code or "error", "code": step.code or None}
                    extra = {} if step.retry_after is None else {"retry-after": str(step.retry_after)}
                    self._send(step.status, json.dumps({"error": error}).encode(), **extra)
                elif isinstance(step, Raw):
                    self._send(200, step.body, content_type=step.content_type)
                elif isinstance(step, str):
                    self._send(200, judge._completion(step, request))
                else:
                    answer = json.dumps({"explanation": "scripted", "score": step})
                    self._send(200, judge._completion(answer, request))

            def _send(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                content_type = headers.pop("content_type", "application/json")
                for name, value in {"content-type": content_type, **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is given
                """Stay quiet."""

        return Handler
