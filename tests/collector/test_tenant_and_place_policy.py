"""Operators per tenant and per place, and the time that a scan may take."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData
from pydantic import ValidationError

from collector.ingest import Ingest
from collector.redaction.engine import Engine
from collector.redaction.residual import Residual
from collector.settings import CollectorSettings, RedactionSettings
from stream.errors import ConfigError

CARD = "4111 1111 " + "1111 1111"
MAIL = "jane.doe@example.com"
TEXT = f"{MAIL} {CARD} 203.0.113.77"


def ingest(clock: Any = None, **redaction: Any) -> Ingest:
    settings = CollectorSettings.model_validate({"redaction": redaction})
    return Ingest(settings, clock=clock) if clock else Ingest(settings)


def request(spans: int = 1) -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    group = made.resource_spans.add()
    group.resource.attributes.add(key="host.name").value.string_value = TEXT
    scope = group.scope_spans.add()
    for number in range(spans):
        span = scope.spans.add(trace_id=b"t" * 16, span_id=number.to_bytes(8, "big"), name=TEXT)
        span.span_id = (number + 1).to_bytes(8, "big")
        span.attributes.add(key="gen_ai.input.messages").value.string_value = TEXT
        span.attributes.add(key="other").value.string_value = TEXT
        inner = span.attributes.add(key="app").value.kvlist_value.values.add(key="user")
        inner.value.kvlist_value.values.add(key="mail").value.string_value = TEXT
        span.events.add(name="e").attributes.add(key="gen_ai.input.messages").value.string_value = TEXT
    return made


def sent(made: Ingest, tenant: str = "default") -> tuple[Span, dict[str, str], Any]:
    ingested = made.traces(request(), tenant)
    group = TracesData.FromString(ingested.outputs[0].value).resource_spans[0]
    span = group.scope_spans[0].spans[0]
    return (
        span,
        {item.key: item.value.string_value for item in (*group.resource.attributes, *span.attributes)},
        ingested,
    )


def test_a_tenant_has_operators_of_its_own() -> None:
    made = ingest(
        operators={"EMAIL": "mask"},
        tenants={
            "acme": {"operators": {"CARD": "drop", "IPV4": "keep"}},
            "calm": {"default_operator": "keep"},
        },
    )
    assert sent(made)[0].name == "**** [CARD] [IPV4]"
    assert sent(made, "acme")[0].name == "****  203.0.113.77"
    # A tenant's default comes before the general operator of an entity.
    assert sent(made, "calm")[0].name == TEXT
    assert sent(made)[0].name == "**** [CARD] [IPV4]"


def test_a_key_that_one_tenant_keeps_is_redacted_for_another() -> None:
    made = ingest(tenants={"calm": {"default_operator": "keep"}})
    for tenant, key in (("calm", MAIL), ("default", "[EMAIL]"), ("calm", MAIL)):
        asked = request()
        asked.resource_spans[0].scope_spans[0].spans[0].attributes.add(key=MAIL)
        out = TracesData.FromString(made.traces(asked, tenant).outputs[0].value)
        assert out.resource_spans[0].scope_spans[0].spans[0].attributes[3].key == key


def test_places_have_operators_of_their_own() -> None:
    made = ingest(
        operators={"CARD": "mask"},
        paths=[
            {"path": "span.attributes.gen_ai.input.messages", "operators": {"EMAIL": "drop"}},
            {"path": "attributes.gen_ai.*", "operator": "keep"},
            {"path": "span.attributes.app.user.mail", "operator": "tag", "operators": {"IPV4": "keep"}},
            {"path": "span.name", "allow": [MAIL]},
        ],
    )
    span, attributes, _ = sent(made)
    assert attributes["gen_ai.input.messages"] == " ****1111 [IPV4]"  # the first entry that matches decides
    assert span.events[0].attributes[0].value.string_value == TEXT
    assert attributes["other"] == attributes["host.name"] == "[EMAIL] ****1111 [IPV4]"
    mail = span.attributes[2].value.kvlist_value.values[0].value.kvlist_value.values[0].value.string_value
    assert mail == "[EMAIL] [CARD] 203.0.113.77"
    assert span.name == f"{MAIL} ****1111 [IPV4]"


def test_a_tenants_place_comes_before_a_general_one() -> None:
    made = ingest(
        paths=[{"path": "*", "operator": "mask"}],
        tenants={"acme": {"paths": [{"path": "span.name", "operator": "tag"}]}},
    )
    assert sent(made)[0].name == "**** ****1111 ****"
    span, attributes, _ = sent(made, "acme")
    assert span.name == "[EMAIL] [CARD] [IPV4]"
    assert attributes["other"] == "**** ****1111 ****"


def test_allow_of_a_tenant_spares_the_text_and_nothing_around_it() -> None:
    made = ingest(allow=["203.0.113.77"], tenants={"acme": {"allow": [MAIL]}})
    assert sent(made, "acme")[0].name == f"{MAIL} [CARD] 203.0.113.77"
    assert sent(made)[0].name == "[EMAIL] [CARD] 203.0.113.77"


def test_ids_become_pseudonyms_unless_their_place_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSEUDONYM_KEY", "k" * 32)
    monkeypatch.setenv("ACME_KEY", "a" * 32)
    engine = Engine(
        RedactionSettings.model_validate(
            {
                "pseudonym": {"key": "${env:PSEUDONYM_KEY}"},
                "paths": [{"path": "log.attributes.user.id", "operator": "tag"}],
                "tenants": {"acme": {"pseudonym": {"key": "${env:ACME_KEY}", "key_id": "acme"}}},
            }
        )
    )
    assert engine.redact(MAIL, hint="user.id")[0].startswith("pii:email:k1:")
    assert engine.redact(MAIL, hint="user.id", tenant="acme")[0].startswith("pii:email:acme:")
    assert engine.redact(MAIL, hint="user.id", path="log.attributes.user.id")[0] == "[EMAIL]"
    assert engine.redact(MAIL, hint="user.id", path="span.attributes.user.id")[0].startswith("pii:")


def test_each_tenant_has_a_policy_version_that_travels_with_its_data() -> None:
    made = ingest(tenants={"acme": {"operators": {"IPV4": "keep"}}})
    versions = [
        dict(sent(made, tenant)[2].outputs[0].headers)["redaction-policy"] for tenant in ("acme", "b", "c")
    ]
    assert versions[0] != versions[1] == versions[2]
    changed = ingest(tenants={"acme": {"operators": {"IPV4": "drop"}}})
    again = [
        dict(sent(changed, tenant)[2].outputs[0].headers)["redaction-policy"] for tenant in ("acme", "b")
    ]
    assert again[0] != versions[0]
    assert again[1] == versions[1]


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"tenants": {"acme": {"operators": {"EMIAL": "mask"}}}}, r"tenants\.acme\.operators"),
        ({"paths": [{"path": "a", "operators": {"EMIAL": "mask"}}]}, r"paths\[a\]\.operators"),
    ],
)
def test_unknown_entities_are_refused_where_they_stand(settings: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=where + " names .'EMIAL'"):
        Engine(RedactionSettings.model_validate(settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tenants": {"acme": {"default_operator": "pseudonym"}}},
            r"redaction\.tenants\.acme\.pseudonym\.key",
        ),
        ({"paths": [{"path": "a", "operator": "pseudonym"}]}, r"redaction\.pseudonym\.key"),
        ({"paths": [{"path": "span.name", "remove": True}]}, "only attributes can be removed"),
    ],
)
def test_what_cannot_be_done_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RedactionSettings.model_validate(settings)


def test_what_is_not_scanned_in_time_does_not_pass() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01
        return now[0]

    made = ingest(clock, max_scan_time=1.0)
    ingested = made.traces(request(100))
    assert ingested.refused["scan_timeout"] > 0
    assert ingested.received == 100 == ingested.accepted + ingested.rejected
    assert "max_scan_time" in ingested.message
    for output in ingested.outputs:
        assert MAIL.encode() not in output.value
    assert ingest(lambda: 0.0).traces(request(100)).accepted == 100


def test_attributes_are_removed_whole_and_counted() -> None:
    made = ingest(
        paths=[
            {"path": "attributes.gen_ai.*", "remove": True},
            {"path": "span.attributes.app.user.*", "remove": True},
        ],
        tenants={"acme": {"paths": [{"path": "resource.attributes.host.name", "remove": True}]}},
    )
    span, attributes, ingested = sent(made)
    assert set(attributes) == {"host.name", "other", "app"}
    assert len(span.events[0].attributes) == 0
    assert len(span.attributes[1].value.kvlist_value.values[0].value.kvlist_value.values) == 0
    removed = {
        place: count
        for (entity, place), count in ingested.report.places.items()
        if entity == "REMOVED_ATTRIBUTE"
    }
    assert removed == {"span.attribute": 2, "event.attribute": 1}
    assert set(sent(made, "acme")[1]) == {"other", "app"}


def test_what_is_remembered_does_not_grow_with_the_keys_and_values_of_senders() -> None:
    settings = CollectorSettings.model_validate(
        {
            "tenants": [{"name": "acme", "token_sha256": "0" * 64}],
            "redaction": {
                "paths": [
                    {"path": "attributes.*.debug", "remove": True},
                    {"path": "attributes.other", "operator": "keep"},
                ]
            },
        }
    )
    made = Ingest(settings)
    residual = Residual(made.engine, 1.0)
    long = "k" * 100_000

    def send(number: int) -> None:
        sent = request()
        (span,) = sent.resource_spans[0].scope_spans[0].spans
        span.attributes.add(key=f"{number}.{long}").value.string_value = TEXT
        span.attributes.add(key="http.route").value.string_value = f"{number}.{long}"
        (output,) = made.traces(sent, "acme").outputs
        residual.scan(output)

    send(-1)
    tracemalloc.start()
    try:
        for number in range(20):
            send(number)
        assert tracemalloc.get_traced_memory()[0] < 10 * len(long)
    finally:
        tracemalloc.stop()
