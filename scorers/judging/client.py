"""The only file that touches litellm: asks a model, and says what a failure means.

litellm is imported at the first question, because that takes seconds. It is told to use the price table it ships with,
to read no ``.env`` file, to send no telemetry and to fetch nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from scorers.judging.prompt import Prompt
from scorers.settings import JudgeSettings
from stream.errors import ConfigError

_QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_MODE": "PRODUCTION",
}
BLOCKING = {401: "auth", 402: "billing", 403: "auth", 404: "model_unavailable"}
_LONGEST_WAIT = (
    86_400.0  # seconds; "inf" is a float, and an endpoint that was wrong once is not shut out for ever
)
_BILLING_CODES = frozenset(("insufficient_quota", "billing_hard_limit_reached", "billing_not_active"))


class Reply(msgspec.Struct, frozen=True):
    """What the model wrote, and what it used."""

    text: str
    input_tokens: int
    output_tokens: int


class ModelFault(Exception):  # noqa: N818 - named for what it is
    """The model gave no answer.

    ``reason``: ``rate_limited``, ``timeout``, ``unavailable`` (worth another attempt); ``auth``, ``billing``,
    ``model_unavailable``, ``litellm_missing`` (block the judge); ``bad_request``, ``too_long``, ``content_filter``,
    ``schema_refused`` (this request only).
    """

    def __init__(self, reason: str, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after


class ModelClient:
    """Asks the model of one judge."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._key: str | None = None

    def missing(self) -> tuple[str, str]:
        """Return why the model cannot be asked at all, as a word and a sentence; two empty texts when it can."""
        settings = self._settings
        if settings.api_key is not None:
            try:
                self._key = settings.api_key.reveal()
            except ConfigError as error:
                return "no_key", str(error)
        try:
            litellm = _litellm()
        except ImportError:
            return "litellm_missing", "litellm is not installed: pip install 'driftgate[judge]'"
        if settings.api_key is None:
            if settings.api_base is not None:
                self._key = "none"  # clients insist on some key, endpoints of one's own often need none
            else:
                self._key = None
                names = litellm.validate_environment(settings.model)["missing_keys"]
                if names:
                    return "no_key", f"set api_key, or the environment variable {' and '.join(names)}"
        return "", ""

    def prices(self) -> tuple[float, float] | None:
        """Return US dollars per input and output token; ``None`` when neither settings nor litellm's table know."""
        settings = self._settings
        into, out = settings.input_usd_per_million, settings.output_usd_per_million
        if into is not None and out is not None:
            return into / 1e6, out / 1e6
        table = _litellm().model_cost
        entry = table.get(settings.model) or table.get(settings.model.partition("/")[2]) or {}
        known = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
        if known[0] is None or known[1] is None:
            return None
        return (
            known[0] if into is None else into / 1e6,
            known[1] if out is None else out / 1e6,
        )

    async def ask(self, prompt: Prompt, response_format: dict[str, Any] | None) -> Reply:
        """Ask once.

        Raises
        ------
        ModelFault
            See there.
        """
        import openai

        settings = self._settings
        litellm = _litellm()
        given: dict[str, Any] = {
            "model": settings.model,
            "messages": [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ],
            "api_base": settings.api_base,
            "api_key": self._key,
            "timeout": settings.timeout,
            "max_tokens": settings.max_output_tokens,
            "temperature": settings.temperature,
            "response_format": response_format,
            # Retries are counted and paid for here, not inside the libraries.
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,
            # A gateway that records our calls can tell them from its users'.
            "extra_headers": {"x-driftgate-judge": "1", "baggage": "driftgate.judge=true"},
        }
        try:
            async with asyncio.timeout(settings.timeout):
                response = await litellm.acompletion(**{k: v for k, v in given.items() if v is not None})
        except TimeoutError as error:
            raise ModelFault("timeout", f"no answer within {settings.timeout:g} s") from error
        except openai.OpenAIError as error:
            raise _fault(error, litellm, response_format is not None) from error
        usage = getattr(response, "usage", None)
        choices = getattr(response, "choices", None) or []
        content = choices[0].message.content if choices else ""
        return Reply(
            content if isinstance(content, str) else "",
            max(0, int(getattr(usage, "prompt_tokens", 0) or 0)),
            max(0, int(getattr(usage, "completion_tokens", 0) or 0)),
        )


def _litellm() -> Any:
    os.environ.update(_QUIET)
    import litellm

    if litellm.suppress_debug_info is not True:
        litellm.suppress_debug_info = True
        litellm.turn_off_message_logging = True
        litellm.telemetry = False
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
            logging.getLogger(name).setLevel(
                logging.CRITICAL
            )  # it would log requests, and so recorded content
    return litellm


def _fault(error: Exception, litellm: Any, structured: bool) -> ModelFault:
    status = getattr(error, "status_code", None)
    body = getattr(error, "body", None)  # litellm overwrites the code of some errors with the status
    code = str((body.get("code") if isinstance(body, dict) else "") or getattr(error, "code", "") or "")
    name = error.__class__.__name__
    if isinstance(error, litellm.exceptions.Timeout) or status == 408:
        return ModelFault("timeout", name)
    if code in _BILLING_CODES:
        return ModelFault("billing", f"{name}: {code}")
    if status in BLOCKING:
        return ModelFault(BLOCKING[status], f"{name}: HTTP {status}")
    if status == 429:
        return ModelFault("rate_limited", name, _retry_after(error))
    if isinstance(error, litellm.exceptions.ContextWindowExceededError) or code == "context_length_exceeded":
        return ModelFault("too_long", name)
    if isinstance(error, litellm.exceptions.ContentPolicyViolationError):
        return ModelFault("content_filter", name)
    if isinstance(status, int) and 400 <= status < 500:
        return ModelFault("schema_refused" if structured else "bad_request", f"{name}: HTTP {status}")
    return ModelFault("unavailable", f"{name}: HTTP {status}" if status else name, _retry_after(error))


def _retry_after(error: Exception) -> float | None:
    headers = getattr(error, "litellm_response_headers", None) or {}
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        return _within_a_day(float(value))
    except ValueError:
        pass
    try:
        # A date is meant on the server's clock, which its own Date header tells.
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers["date"])
        return _within_a_day(wait.total_seconds())
    except (ValueError, KeyError, TypeError):
        return None


def _within_a_day(seconds: float) -> float:
    return max(0.0, min(seconds, _LONGEST_WAIT))
