"""The configuration of the collector: defaults that work, and mistakes that are told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from collector.settings import CollectorSettings
from collector.tenants import Tenants
from stream.errors import ConfigError


def test_the_defaults_work() -> None:
    settings = CollectorSettings()
    assert (settings.grpc.host, settings.grpc.port) == ("127.0.0.1", 4317)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 4318)
    assert settings.max_request_bytes == 64 << 20
    assert CollectorSettings.model_validate(settings.model_dump()) == settings


def test_every_field_is_described() -> None:
    schema = CollectorSettings.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    missing = [
        f"{section['title']}.{name}"
        for section in sections
        for name, field in section.get("properties", {}).items()
        if not field.get("description")
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grcp": {}}, "grcp"),
        ({"grpc": {"port": 70000}}, "port"),
        ({"max_request_bytes": "64 potatoes"}, "max_request_bytes"),
        ({"max_request_bytes": "512MiB"}, "max_in_flight_bytes must be at least max_request_bytes"),
        ({"tenants": [{"name": "a", "token": "plain text"}]}, "by reference"),
        ({"tenants": [{"name": "a", "token": "${env:A}"}] * 2}, "same name"),
        ({"redaction": {"operators": {"EMAIL": "hash"}}}, "operators"),
        ({"redaction": {"rules": [{"name": "lower", "pattern": "x"}]}}, "must_match"),
    ],
)
def test_a_mistake_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CollectorSettings.model_validate(given)


def test_tokens_must_be_there_long_and_different(monkeypatch: pytest.MonkeyPatch) -> None:
    def tenants(*tokens: str) -> Tenants:
        made = []
        for number, token in enumerate(tokens):
            monkeypatch.setenv(f"TOKEN_{number}", token)
            made.append({"name": f"t{number}", "token": f"${{env:TOKEN_{number}}}"})
        return Tenants(CollectorSettings.model_validate({"tenants": made}).tenants)

    assert tenants("a" * 16, "b" * 16).of("bearer " + "b" * 16) == "t1"
    with pytest.raises(ConfigError, match="at least 16"):
        tenants("short")
    with pytest.raises(ConfigError, match="same token"):
        tenants("a" * 16, "a" * 16)
