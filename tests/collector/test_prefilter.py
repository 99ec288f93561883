"""What the gates let pass unread is what reading everything would let pass: the same bytes come out of both.

The reference walks through every string of every span and tries every rule on every reading of it. Requests are drawn: every
entity in every form, at either end of strings whose length looks like a letter, under keys that announce it, in numbers,
maps and arrays up to and beyond the depth allowed, in names, states, events, links and resources; and noise.

``DRIFTGATE_PREFILTER_REQUESTS`` sets how many requests are drawn; nightly runs set more.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import pytest
from open_gates import Open
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from planted import DIGITS, FORMS, Value, values

from collector.ingest import Ingest
from collector.redaction.engine import Engine
from collector.redaction.policy import built_in_rules
from collector.settings import CollectorSettings

REQUESTS = int(os.environ.get("DRIFTGATE_PREFILTER_REQUESTS", "60"))
_SPANS = 30
_KEYS = (
    "gen_ai.input.messages", "gen_ai.request.model", "n", "user.phone", "userDob", "patientMRN", "passportNumber",
    "db.password", "accessToken", "customer.tax_id", "tel", "text", "mac", "payment.card", "http.url", "ssn", "note",
)  # fmt: skip
_NOISE = (
    "0123456789", "0123456789 .-+()/", "abcdef0123456789", "abcXYZ 0189@.:/-_=+\\nu%{}[]\"'", "é日ü١ \u00a0\u2013\u200b０９ＡZ",
    "".join(map(chr, range(1, 128))),
)  # fmt: skip


class Draw:
    """Draws requests."""

    def __init__(self, seed: int, planted: Sequence[Value]) -> None:
        self.r = random.Random(seed)
        self.planted = planted

    def noise(self) -> str:
        return "".join(self.r.choices(self.r.choice(_NOISE), k=self.r.randrange(1, 60)))

    def text(self) -> str:
        r = self.r
        kind = r.random()
        if kind < 0.35:
            return r.choice(
                ("gpt-4.1", "stop", "the customer said thanks", "call me or text me", "2024-08-06 12:30:45")
            )
        if kind < 0.6:
            return self.noise()
        value = r.choice(self.planted)
        form = r.choice([form for form in FORMS if not form.digits_only or value.entity in DIGITS])
        text: str = form.write(r.choice(("", "", r.choice("xZ0-(,\n"))) + value.text)
        if r.random() < 0.5:
            # A length that is a letter or digit on the wire, or the second byte of one.
            length = r.choice(
                (r.randrange(48, 58), r.randrange(65, 91), r.randrange(97, 123), r.randrange(8320, 8400))
            )
            pad = " " * max(0, length - len(text.encode()))
            text = text + pad if r.random() < 0.8 else pad + text
        return text

    def number(self) -> int:
        r = self.r
        return r.choice(
            (
                r.randrange(1000), r.randrange(10**8 - 3, 10**8 + 3), -r.randrange(10**8 - 3, 10**8 + 3), r.randrange(2**62),
                4111111111111111, -4111111111111111, 536904399, 4155552671, 19850314,
            )
        )  # fmt: skip

    def value(self, value: Any, depth: int = 0) -> None:
        r = self.r
        kind = r.random()
        if kind < 0.6 or depth > 26:
            value.string_value = self.text()
        elif kind < 0.7:
            value.int_value = self.number()
        elif kind < 0.75:
            value.double_value = float(self.number())
        elif kind < 0.8:
            value.bytes_value = r.choice((self.text().encode(), r.randbytes(r.randrange(40))))
        elif kind < 0.82:
            value.bool_value = True
        elif kind < 0.83:
            value.string_value_strindex = r.randrange(2**31)
        else:
            # Sometimes so deep that it is refused.
            for _ in range(r.choice((1, 1, 2, r.randrange(17, 24)))):
                if r.random() < 0.5:
                    value.array_value.values.add().int_value = 1
                    value = value.array_value.values.add()
                else:
                    value.kvlist_value.values.add(key="k").value.bool_value = True
                    value = value.kvlist_value.values.add(key=r.choice(_KEYS)).value
                depth += 1
            if r.random() < 0.1:
                value.array_value.SetInParent()
            else:
                self.value(value, depth + 10)

    def attributes(self, attributes: Any, most: int) -> None:
        for _ in range(self.r.randrange(most + 1)):
            key = self.text() if self.r.random() < 0.05 else self.r.choice(_KEYS)
            self.value(attributes.add(key=key).value)

    def maybe(self) -> str:
        return self.text() if self.r.random() < 0.15 else ""

    def frame(self, group: Any, scope: Any) -> None:
        group.schema_url, scope.schema_url = self.maybe(), self.maybe()
        self.attributes(group.resource.attributes, 2)
        if self.r.random() < 0.2:
            group.resource.entity_refs.add(
                type=self.maybe(), id_keys=[self.text()], description_keys=[self.text()]
            )
        scope.scope.name = self.maybe()
        self.attributes(scope.scope.attributes, 1)

    def traces(self) -> ExportTraceServiceRequest:
        request = ExportTraceServiceRequest()
        while (made := sum(len(s.spans) for g in request.resource_spans for s in g.scope_spans)) < _SPANS:
            group = request.resource_spans.add()
            for _ in range(self.r.randrange(3)):
                scope = group.scope_spans.add()
                self.frame(group, scope)
                for _ in range(self.r.randrange(5)):
                    span = scope.spans.add(
                        trace_id=self.r.randbytes(16), span_id=self.r.randbytes(8), name=self.maybe(),
                        trace_state=self.maybe(), kind=self.r.randrange(6), start_time_unix_nano=self.r.randrange(2**63),
                    )  # fmt: skip
                    made += 1
                    self.attributes(span.attributes, 4)
                    if self.r.random() < 0.3:
                        span.status.message = self.text()
                    if self.r.random() < 0.3:
                        self.attributes(span.events.add(name=self.maybe()).attributes, 2)
                    if self.r.random() < 0.2:
                        link = span.links.add(trace_id=b"t" * 16, span_id=b"s" * 8, trace_state=self.maybe())
                        self.attributes(link.attributes, 1)
        return request

    def logs(self) -> ExportLogsServiceRequest:
        request = ExportLogsServiceRequest()
        for _ in range(_SPANS // 3):
            group = request.resource_logs.add()
            scope = group.scope_logs.add()
            self.frame(group, scope)
            for _ in range(3):
                record = scope.log_records.add(
                    trace_id=self.r.randbytes(16), severity_text=self.maybe(), event_name=self.maybe()
                )
                self.attributes(record.attributes, 3)
                if self.r.random() < 0.8:
                    self.value(record.body)
        return request


@pytest.fixture(scope="module")
def planted() -> list[Value]:
    return values(Engine(), 4)


@pytest.fixture(scope="module")
def ingests() -> tuple[Ingest, Ingest]:
    settings = CollectorSettings()
    engine, reference = Engine(), Engine()
    reference.gates = Open(reference)
    return Ingest(settings, engine=engine), Ingest(settings, engine=reference)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(REQUESTS))
@pytest.mark.parametrize("signal", ["traces", "logs"])
def test_the_same_bytes_as_reading_everything(
    ingests: tuple[Ingest, Ingest], planted: list[Value], signal: str, seed: int
) -> None:
    payload = getattr(Draw(seed, planted), signal)().SerializeToString()
    fast, everything = (getattr(ingest, signal)(payload) for ingest in ingests)
    kind = ExportTraceServiceRequest if signal == "traces" else ExportLogsServiceRequest
    assert [kind.FromString(output.value) for output in fast.outputs] == [
        kind.FromString(output.value) for output in everything.outputs
    ]
    assert fast == everything


@pytest.mark.timeout(600)
@pytest.mark.parametrize("often", ["", "call me, ", "4155552671 ", "text 12 "])
def test_the_same_texts_of_a_batch(ingests: tuple[Ingest, Ingest], planted: list[Value], often: str) -> None:
    """What is frequent at the beginning of a batch decides what is looked for first, and nothing else."""
    for seed in range(REQUESTS // 2):
        draw = Draw(1000 + seed, planted)
        texts = [often.encode() * 60, *(draw.text().encode() for _ in range(20))]
        hints = [draw.r.choice(("", *_KEYS)) for _ in texts]
        fast, everything = (ingest.engine.redact_batch(texts, hints) for ingest in ingests)
        assert fast == everything


def test_every_rule_has_a_gate() -> None:
    assert [rule.name for rule in built_in_rules() if not (rule.gate or rule.announced or rule.keys)] == []


def _span(request: ExportTraceServiceRequest) -> Any:
    return request.resource_spans.add().scope_spans.add().spans.add(trace_id=b"t" * 16, span_id=b"s" * 8)


def _suspects(ingests: tuple[Ingest, Ingest], request: ExportTraceServiceRequest) -> set[int]:
    """Return {0} if any gate is open in ``request``."""
    data = request.SerializeToString()
    return ingests[0].engine.gates.suspects_on_wire(data, lambda: [len(data)], most_containers=10)


def test_what_every_model_call_has_opens_no_gate(ingests: tuple[Ingest, Ingest]) -> None:
    """Else every span would be walked through, and redaction take twice as long."""
    request = ExportTraceServiceRequest()
    span = _span(request)
    for key in (
        "operation.name", "provider.name", "request.model", "response.model", "response.id", "conversation.id",
        "prompt.version", "agent.id", "workflow.name", "output.type", "tool.call.id",
    ):  # fmt: skip
        span.attributes.add(key=f"gen_ai.{key}").value.string_value = "support-answer"
    for key in ("service.name", "session.id", "thread", "prompt.id", "http.request.method", "user.cohort"):
        span.attributes.add(key=key).value.string_value = "support-answer"
    for key in ("input.messages", "output.messages"):
        text = '[{"role":"user","parts":[{"type":"text","content":"where is my order please"}]}]'
        span.attributes.add(key=f"gen_ai.{key}").value.string_value = text
    assert _suspects(ingests, request) == set()


@pytest.mark.parametrize(
    "key", ["d", "D", "private_key_id", "privateKeyId", "PRIVATE_KEY_ID", "privateKey_id"]
)
def test_a_key_that_a_rule_names_whole_opens_the_gate(ingests: tuple[Ingest, Ingest], key: str) -> None:
    secrets = (
        "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9" + "-E9LI",
        "9f86d081884c7d659a2f" + "eaa0c55ad015a3bf4f1b",
    )
    for nested in (False, True):
        request = ExportTraceServiceRequest()
        span = _span(request)
        value = span.attributes.add(key="jwk" if nested else key).value
        for secret in secrets:
            if nested:
                value.kvlist_value.values.add(key=key).value.string_value = secret
            else:
                value.string_value = secret
        assert _suspects(ingests, request) == {0}
