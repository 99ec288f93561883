"""A model provider on loopback that replays recorded answers: chat completions and messages, whole and streamed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_ANSWERS = Path(__file__).resolve().parents[1] / "exporters" / "answers"


class Provider:
    """Answers with the tool call as long as no tool result was sent, then with the final answer."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.endswith("/chat/completions"):
                    self._openai(asked)
                elif self.path.endswith("/messages"):
                    done = any(isinstance(m["content"], list) for m in asked["messages"])
                    self._json(recorded("anthropic_answer" if done else "anthropic_tool_call"))
                else:
                    self.send_error(404)

            def _openai(self, asked: dict[str, Any]) -> None:
                if asked["model"] == "broken":
                    self._json({"error": {"message": "no such model", "type": "invalid_request_error"}}, 404)
                    return
                done = any(m["role"] == "tool" for m in asked["messages"])
                answer = recorded("openai_answer" if done else "openai_tool_call")
                if asked.get("stream"):
                    self._stream(chunks(answer))
                else:
                    self._json(answer)

            def _json(self, body: Any, code: int = 200) -> None:
                raw = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def _stream(self, events: Iterator[dict[str, Any]]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                for event in events:
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n")
                self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Stay quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def recorded(name: str) -> dict[str, Any]:
    """Return a recorded answer."""
    answer: dict[str, Any] = json.loads((_ANSWERS / f"{name}.json").read_text())
    return answer


def chunks(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield ``answer`` as the provider streams it with usage: words, the finish reason, then the usage alone."""
    head = {key: answer[key] for key in ("created", "model", "system_fingerprint")}
    head |= {"id": answer["id"] + "-stream", "object": "chat.completion.chunk"}
    choice = answer["choices"][0]
    content = choice["message"]["content"]
    first = {"role": "assistant", "content": ""}
    for delta in (first, *({"content": word} for word in (content or "").split(" ") if content)):
        piece = {"content": delta["content"] + " "} if delta is not first else first
        yield {**head, "choices": [{"index": 0, "delta": piece, "finish_reason": None}], "usage": None}
    yield {
        **head,
        "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}],
        "usage": None,
    }
    yield {**head, "choices": [], "usage": answer["usage"]}
