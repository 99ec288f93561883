"""An application under one instrumentation that others wrote: asks, is given a tool call, answers it, asks by stream.

    play.py INSTRUMENTATION PROVIDER_URL OTLP_HTTP_URL

Instrumentations patch libraries for the whole process, so each has a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from opentelemetry import _logs, trace
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

SYSTEM = "You are a weather service."
QUESTION = "What is the weather in Lisbon? Tell jane.doe@example.com"
RESULT = '{"degrees": 21}'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather of a city", "parameters": SCHEMA},
}


def openai_application(provider: str) -> None:
    import openai

    client = openai.OpenAI(api_key="none", base_url=f"{provider}/v1", max_retries=0)
    messages: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    asked = {"model": "gpt-4.1-mini", "tools": [TOOL], "temperature": 0.2, "max_tokens": 100}
    first = client.chat.completions.create(messages=messages, **asked)
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": "call_weather_1", "content": RESULT},
    ]
    client.chat.completions.create(messages=messages, **asked)
    stream = client.chat.completions.create(
        messages=messages, stream=True, stream_options={"include_usage": True}, **asked
    )
    for _ in stream:
        pass
    with contextlib.suppress(openai.NotFoundError):
        client.chat.completions.create(model="broken", messages=messages[:2])


def anthropic_application(provider: str) -> None:
    import anthropic

    client = anthropic.Anthropic(api_key="none", base_url=provider, max_retries=0)
    tool = {"name": "get_weather", "description": "Weather of a city", "input_schema": SCHEMA}
    asked: dict[str, Any] = {
        "model": "claude-sonnet-4-5",
        "system": SYSTEM,
        "tools": [tool],
        "max_tokens": 100,
    }
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    first = client.messages.create(messages=messages, **asked)
    messages += [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_weather_1", "content": RESULT}],
        },
    ]
    client.messages.create(messages=messages, **asked)


def langchain_application(provider: str) -> None:
    from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    @tool
    def get_weather(city: str) -> str:
        """Weather of a city."""
        return RESULT

    model = ChatOpenAI(
        model="gpt-4.1-mini", api_key="none", base_url=f"{provider}/v1", max_retries=0
    ).bind_tools([get_weather])
    messages: list[Any] = [SystemMessage(SYSTEM), HumanMessage(QUESTION)]
    first = model.invoke(messages)
    result = get_weather.invoke(first.tool_calls[0]["args"])
    model.invoke([*messages, first, ToolMessage(result, tool_call_id="call_weather_1")])


def instrument(name: str) -> Any:
    """Switch the instrumentation on and return the application to run under it."""
    if name == "openinference-openai":
        from openinference.instrumentation.openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument()
        return openai_application
    if name == "openinference-anthropic":
        from openinference.instrumentation.anthropic import AnthropicInstrumentor

        AnthropicInstrumentor().instrument()
        return anthropic_application
    if name == "openllmetry-openai":
        from opentelemetry.instrumentation.openai import OpenAIInstrumentor as OpenLLMetry

        OpenLLMetry().instrument()
        return openai_application
    if name == "openllmetry-anthropic":
        from opentelemetry.instrumentation.anthropic import AnthropicInstrumentor as OpenLLMetryAnthropic

        OpenLLMetryAnthropic().instrument()
        return anthropic_application
    if name == "openllmetry-langchain":
        from opentelemetry.instrumentation.langchain import LangchainInstrumentor

        LangchainInstrumentor().instrument()
        return langchain_application
    if name.startswith("official-openai"):
        os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = {
            "official-openai": "true",
            "official-openai-spans": "SPAN_ONLY",
            "official-openai-events": "EVENT_ONLY",
            "official-openai-silent": "NO_CONTENT",
        }[name]
        if name != "official-openai":
            os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
            os.environ["OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT"] = "true"
        from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor as Official

        Official().instrument()
        return openai_application
    raise SystemExit(f"unknown instrumentation {name}")


def main() -> None:
    name, provider_url, otlp = sys.argv[1:]
    resource = Resource({"service.name": "weather", "deployment.environment.name": "test"})
    spans = TracerProvider(resource=resource)
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{otlp}/v1/traces")))
    trace.set_tracer_provider(spans)
    logs = LoggerProvider(resource=resource)
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(f"{otlp}/v1/logs")))
    _logs.set_logger_provider(logs)
    application = instrument(name)
    with trace.get_tracer("application").start_as_current_span("POST /ask") as root:
        root.set_attribute("http.route", "/ask")
        root.set_attribute("session.id", "s1")
        application(provider_url)
    spans.shutdown()
    logs.shutdown()


if __name__ == "__main__":
    main()
