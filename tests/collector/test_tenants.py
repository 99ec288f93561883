"""Whose token it is, given as a secret or as its digest."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from collector.settings import TenantSettings
from collector.tenants import Tenants
from stream.errors import ConfigError, Permanent

TOKEN = "0123456789" + "abcdefghij"
OTHER = "abcdefghij" + "0123456789"


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def tenants(*sections: dict[str, Any]) -> Tenants:
    return Tenants([TenantSettings.model_validate(section) for section in sections])


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANT_TOKEN", TOKEN)


def test_a_digest_stands_for_its_token() -> None:
    made = tenants(
        {"name": "a", "token": "${env:TENANT_TOKEN}"}, {"name": "b", "token_sha256": sha256(OTHER)}
    )
    assert made.of(f"Bearer {TOKEN}") == "a"
    assert made.of(f"bearer {OTHER} ") == "b"
    for wrong in (sha256(OTHER), OTHER + "x", OTHER[:-1]):
        with pytest.raises(Permanent) as caught:
            made.of(f"Bearer {wrong}")
        assert caught.value.reason == "unauthenticated"


def test_one_token_for_two_tenants_is_refused_also_as_a_digest() -> None:
    with pytest.raises(ConfigError, match="a and b have the same token"):
        tenants({"name": "a", "token": "${env:TENANT_TOKEN}"}, {"name": "b", "token_sha256": sha256(TOKEN)})


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"token": "${env:TENANT_TOKEN}", "token_sha256": sha256(OTHER)},
        {"token_sha256": "abc"},
        {"token_sha256": sha256(OTHER).upper()},
    ],
)
def test_exactly_one_of_both_is_needed(section: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="token"):
        TenantSettings.model_validate({"name": "a"} | section)
