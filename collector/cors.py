"""Cross-origin requests: which pages of other origins a browser lets send to us (Fetch standard, "CORS protocol")."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from collector.settings import CorsSettings

_HEADERS = ("content-type", "content-encoding", "authorization")


def cross_origin(settings: CorsSettings) -> Any:
    """Return a middleware that answers browsers' questions before a request, and marks answers that a page may read."""
    anybody = "*" in settings.allowed_origins
    headers = ", ".join(dict.fromkeys((*_HEADERS, *(name.lower() for name in settings.allowed_headers))))

    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is None:
            return await handler(request)  # type: ignore[no-any-return]
        allowed = anybody or origin in settings.allowed_origins
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        answer = web.Response(status=204 if allowed else 403) if asks else await handler(request)
        answer.headers["Vary"] = "Origin"
        if allowed:
            # No Allow-Credentials: cookies mean nothing here.
            answer.headers["Access-Control-Allow-Origin"] = "*" if anybody else origin
            if asks:
                answer.headers["Access-Control-Allow-Methods"] = "POST"
                answer.headers["Access-Control-Allow-Headers"] = headers
                answer.headers["Access-Control-Max-Age"] = str(int(settings.max_age))
            else:
                answer.headers["Access-Control-Expose-Headers"] = "Retry-After"
        return answer

    return middleware
