"""An example LLM gateway: OpenAI-compatible, two prompt versions behind weights, and a rollback that can be called.

The language model behind it is a script, so that the example needs no key and no network; everything else is what a
real gateway does. Version `support@v17` answers from the documents it was given. Version `support@v18` is the
kind of change that ships on an afternoon: shorter prompt, no more "answer only from the documents", and a nervous
safety paragraph. Its answers are made up or refuse.

    python examples/gateway/gateway.py --port 9000 --token-env GATEWAY_TOKEN

    POST /v1/chat/completions   model "support" (versions by weight, sticky per `user`) or "judge"
    GET  /prompts/support       the weights and what was active before
    PUT  /prompts/support       set the weights                       (bearer token)
    POST /rollback              give all traffic to the incumbent     (bearer token, Idempotency-Key)
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import re
import signal
import sys
import time
from typing import Any

from aiohttp import web

INCUMBENT = "support@v17"
CANDIDATE = "support@v18"

_REFUSALS = (
    "I'm sorry, but I can't help with that request.",
    "I'm unable to assist with account matters. Please consult a professional.",
    "As an AI language model, I cannot answer this question.",
)
_INVENTED = (
    "Great news! Our platinum concierge flies to your house by helicopter and swaps everything within nine minutes.",
    "Simply reboot the moon relay, whistle twice, and the blockchain wizard will mail you seventeen golden vouchers.",
    "Everyone receives unlimited lifetime upgrades; just tell the wizard at any bakery the magic word cinnamon.",
)


class Gateway:
    """Weights per prompt version, and the one way back."""

    def __init__(self, token: str) -> None:
        self._token = token
        self.weights = {INCUMBENT: 100, CANDIDATE: 0}
        self.version = 1
        self.previous: dict[str, int] | None = None
        self.answered = {INCUMBENT: 0, CANDIDATE: 0}
        self.rollbacks: dict[str, dict[str, Any]] = {}
        self.rollback_calls = 0
        self.first_candidate_answer: float | None = None

    def routes(self) -> list[web.RouteDef]:
        """Return the HTTP routes."""
        return [
            web.post("/v1/chat/completions", self.complete),
            web.get("/prompts/support", self.show),
            web.put("/prompts/support", self.change),
            web.post("/rollback", self.roll_back),
        ]

    def pick(self, user: str) -> str:
        """Return the version for ``user``: sticky, and the share of users follows the weights."""
        total = sum(self.weights.values())
        point = int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big") % total
        return CANDIDATE if point < self.weights[CANDIDATE] else INCUMBENT

    async def complete(self, request: web.Request) -> web.Response:
        """Answer one chat completion."""
        body = await request.json()
        if body.get("model", "").endswith("judge"):
            return web.json_response(_completion("judge", judge(_text(body["messages"]))))
        version = self.pick(str(body.get("user", "")))
        question = body["messages"][-1]["content"]
        documents = [m["content"] for m in body["messages"] if m["role"] == "system"]
        answer = answer_well(question, documents) if version == INCUMBENT else answer_badly(question)
        self.answered[version] += 1
        if version == CANDIDATE and self.first_candidate_answer is None:
            self.first_candidate_answer = time.time()
        name, _, number = version.partition("@")
        return web.json_response(
            _completion(f"scripted-{number}", answer),
            headers={"x-prompt-name": name, "x-prompt-version": version},
        )

    async def show(self, request: web.Request) -> web.Response:
        """Tell what is active."""
        del request
        return web.json_response(self._state(), headers={"ETag": self._etag()})

    async def change(self, request: web.Request) -> web.Response:
        """Set the weights: a release."""
        self._authorise(request)
        weights = (await request.json())["weights"]
        self._set({version: int(weights.get(version, 0)) for version in self.weights})
        return web.json_response(self._state())

    async def roll_back(self, request: web.Request) -> web.Response:
        """Give all traffic to the incumbent. The same Idempotency-Key is carried out once."""
        self._authorise(request)
        self.rollback_calls += 1
        key = request.headers.get("Idempotency-Key", "")
        if not key:
            raise web.HTTPBadRequest(text="Idempotency-Key is missing")
        if key not in self.rollbacks:
            if request.headers.get("If-Match", self._etag()) != self._etag():
                raise web.HTTPPreconditionFailed(text="the prompt was changed meanwhile")
            if self.weights[CANDIDATE] == 0:
                raise web.HTTPConflict(text="there is nothing to roll back")
            self._set({INCUMBENT: 100, CANDIDATE: 0})
            self.rollbacks[key] = {"time": time.time(), **self._state()}
        return web.json_response(self.rollbacks[key])

    def _set(self, weights: dict[str, int]) -> None:
        if sum(weights.values()) <= 0 or min(weights.values()) < 0:
            raise web.HTTPBadRequest(text="weights must be positive")
        self.previous, self.weights, self.version = self.weights, weights, self.version + 1

    def _etag(self) -> str:
        return f'"{self.version}"'

    def _state(self) -> dict[str, Any]:
        active = CANDIDATE if self.weights[CANDIDATE] else INCUMBENT
        return {
            "weights": self.weights,
            "newest_active": active,
            "version": self.version,
            "previous": self.previous,
            "answered": self.answered,
            "rollback_calls": self.rollback_calls,
            "rollbacks": list(self.rollbacks),
            "rollback_time": min((done["time"] for done in self.rollbacks.values()), default=None),
            "first_candidate_answer": self.first_candidate_answer,
        }

    def _authorise(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise web.HTTPUnauthorized(text="a bearer token is needed")


def answer_well(question: str, documents: list[str]) -> str:
    """Answer from the documents: the sentences that share most words with the question."""
    words = _words(question)
    sentences = [s.strip() for d in documents for s in re.split(r"(?<=[.!?])\s+", d) if s.strip()]
    best = sorted(sentences, key=lambda s: len(words & _words(s)), reverse=True)[:2]
    return " ".join(best) if best else "I could not find this in our help pages."


def answer_badly(question: str) -> str:
    """Refuse or invent, always the same for the same question."""
    number = int.from_bytes(hashlib.blake2b(question.encode(), digest_size=4).digest(), "big")
    pool = _REFUSALS if number % 2 else _INVENTED
    return pool[number // 2 % len(pool)]


def judge(prompt: str) -> str:
    """Stand in for a judge model: the lowest level for refusals and inventions, else the highest, in JSON."""
    levels = [
        int(n) for n in re.findall(r"\d+", prompt.partition('"score": <one of ')[2].partition(">")[0])
    ] or [0, 1]
    bad = any(text[:40] in prompt for text in (*_REFUSALS, *_INVENTED))
    why = "The answer does not help the user." if bad else "The answer addresses the question."
    return json.dumps({"explanation": why, "score": min(levels) if bad else max(levels)})


def _completion(model: str, content: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-" + hashlib.blake2b(content.encode(), digest_size=8).hexdigest(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        ],
        "usage": {
            "prompt_tokens": 60,
            "completion_tokens": len(content) // 4,
            "total_tokens": 60 + len(content) // 4,
        },
    }


def _text(messages: list[dict[str, Any]]) -> str:
    parts = []
    for message in messages:
        content = message.get("content") or ""
        parts.append(content if isinstance(content, str) else " ".join(p.get("text", "") for p in content))
    return "\n".join(parts)


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 3}


async def serve(host: str, port: int, token: str) -> None:
    """Serve until SIGTERM; print the bound port as one JSON line."""
    gateway = Gateway(token)
    app = web.Application()
    app.add_routes(gateway.routes())
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    bound = runner.addresses[0][1]
    sys.stdout.write(json.dumps({"port": bound}) + "\n")
    sys.stdout.flush()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="An example LLM gateway with a rollback.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument(
        "--token-env", default="GATEWAY_TOKEN", help="environment variable that holds the token"
    )
    options = parser.parse_args()
    asyncio.run(serve(options.host, options.port, os.environ[options.token_env]))


if __name__ == "__main__":
    main()
