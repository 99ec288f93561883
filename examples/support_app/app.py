"""An example support application, instrumented with the OpenTelemetry SDK as any application would be.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 \\
        python examples/support_app/app.py --gateway http://127.0.0.1:9000 --rate 20

Each conversation looks up a help page, asks the gateway and answers; spans follow the GenAI semantic conventions
(1.37 and later) and OpenInference for the retrieved documents. Customers type e-mail addresses, card numbers and keys.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import time

import aiohttp
from customers import Customer, customer
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

SYSTEM = "You are a support assistant. Answer only from the help page."


async def converse(
    session: aiohttp.ClientSession, gateway: str, tracer: trace.Tracer, person: Customer
) -> None:
    """Answer one question of ``person``."""
    with tracer.start_as_current_span("POST /support", kind=SpanKind.SERVER) as root:
        root.set_attribute("http.route", "/support")
        root.set_attribute("http.request.method", "POST")
        root.set_attribute("gen_ai.conversation.id", f"conversation-{person.number}")
        root.set_attribute("user.id", person.email)
        root.set_attribute("user.cohort", person.plan)
        with tracer.start_as_current_span("retrieval help-pages", kind=SpanKind.CLIENT) as span:
            span.set_attribute("gen_ai.operation.name", "retrieval")
            span.set_attribute("gen_ai.data_source.id", "help-pages")
            span.set_attribute("retrieval.documents.0.document.id", person.topic)
            span.set_attribute("retrieval.documents.0.document.content", person.document)
        messages = [
            {"role": "system", "content": f"{SYSTEM}\n\n{person.document}"},
            {"role": "user", "content": person.question},
        ]
        with tracer.start_as_current_span("chat support", kind=SpanKind.CLIENT) as span:
            span.set_attribute("gen_ai.operation.name", "chat")
            span.set_attribute("gen_ai.provider.name", "openai")
            span.set_attribute("gen_ai.request.model", "support")
            span.set_attribute(
                "gen_ai.input.messages",
                json.dumps([{"role": "user", "parts": [{"type": "text", "content": person.question}]}]),
            )
            span.set_attribute(
                "gen_ai.system_instructions", json.dumps([{"type": "text", "content": SYSTEM}])
            )
            try:
                await _ask(session, gateway, span, messages, person)
            except (aiohttp.ClientError, TimeoutError) as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                root.set_status(Status(StatusCode.ERROR))


async def _ask(
    session: aiohttp.ClientSession,
    gateway: str,
    span: trace.Span,
    messages: list[dict[str, str]],
    person: Customer,
) -> None:
    body = {"model": "support", "messages": messages, "user": person.email}
    async with session.post(f"{gateway}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        answer = await response.json()
        span.set_attribute("gen_ai.prompt.name", response.headers["x-prompt-name"])
        span.set_attribute("gen_ai.prompt.version", response.headers["x-prompt-version"])
    choice = answer["choices"][0]
    output = {
        "role": "assistant",
        "parts": [{"type": "text", "content": choice["message"]["content"]}],
        "finish_reason": choice["finish_reason"],
    }
    span.set_attribute("gen_ai.response.model", answer["model"])
    span.set_attribute("gen_ai.response.id", answer["id"])
    span.set_attribute("gen_ai.response.finish_reasons", [choice["finish_reason"]])
    span.set_attribute("gen_ai.output.messages", json.dumps([output]))
    span.set_attribute("gen_ai.usage.input_tokens", answer["usage"]["prompt_tokens"])
    span.set_attribute("gen_ai.usage.output_tokens", answer["usage"]["completion_tokens"])


async def run(gateway: str, rate: float, count: int, seed: int) -> None:
    """Hold ``rate`` conversations a second with customers 0, 1, 2, … until stopped or ``count`` are done."""
    provider = TracerProvider(
        resource=Resource.create({"service.name": "support-app", "deployment.environment.name": "example"})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=500))
    tracer = provider.get_tracer("support_app")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    jitter = random.Random(seed)
    running: set[asyncio.Task[None]] = set()
    begun = time.monotonic()
    due = 0.0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        for number in range(count):
            due += jitter.expovariate(rate)
            try:
                await asyncio.wait_for(stop.wait(), max(0.0, begun + due - time.monotonic()))
                break
            except TimeoutError:
                pass
            task = asyncio.create_task(converse(session, gateway, tracer, customer(number)))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
    provider.shutdown()


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description="An example support application that sends OpenTelemetry spans."
    )
    parser.add_argument("--gateway", required=True, help="base URL of the LLM gateway")
    parser.add_argument("--rate", type=float, default=20.0, help="conversations per second")
    parser.add_argument("--count", type=int, default=1_000_000, help="conversations to hold")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(run(options.gateway, options.rate, options.count, options.seed))


if __name__ == "__main__":
    main()
