"""Templates, pointers and settings of the HTTP rollback adapter."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from yarl import URL

from sinks.alerts_settings import AlertSettings, RollbackSettings
from sinks.rollback.adapter import RollbackAdapter
from sinks.rollback.http import HttpRollback, equal, resolve_pointer
from sinks.rollback.template import check_template, render, render_header, render_pointer, render_url
from stream.plugins import subclasses_in

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@given(ANY_TEXT)
def test_a_value_in_a_url_stays_where_it_was_put(value: str) -> None:
    assume(value not in ("", ".", ".."))
    made = URL(
        render_url(
            "https://gw.example/r/{{rollout}}/off?c={{candidate}}#f", {"rollout": value, "candidate": value}
        )
    )
    parts = urlsplit(str(made))
    assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "gw.example", "f")
    before, name, after = parts.path.rsplit("/", 2)
    assert (before, unquote(name), after) == ("/r", value, "off")
    assert parse_qs(parts.query, keep_blank_values=True, strict_parsing=True) == {"c": [value]}


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_a_value_that_would_change_the_path_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in a URL"):
        render_url("https://gw.example/r/{{rollout}}/off", {"rollout": value})


@given(ANY_TEXT)
def test_a_value_in_a_body_never_changes_its_shape(value: str) -> None:
    body = {"a": "{{candidate}}", "b": ["x {{candidate}} y"], "c": {"fixed": 1}}
    made = json.loads(msgspec.json.encode(render(body, {"candidate": value})))
    assert made == {"a": value, "b": [f"x {value} y"], "c": {"fixed": 1}}


@given(ANY_TEXT)
def test_a_value_in_a_header_has_no_control_characters(value: str) -> None:
    made = render_header("v={{candidate}}", {"candidate": value})
    assert all(0x20 <= ord(char) < 0x7F for char in made)


@given(JSON)
def test_a_whole_placeholder_keeps_the_type(value: Any) -> None:
    assert equal(render({"set": "{{ previous }}"}, {"previous": value}), {"set": value})


@given(st.text(max_size=30), JSON)
def test_a_pointer_reaches_any_key(key: str, value: Any) -> None:
    document = {"weights": {key: value, key + "x": "other"}}
    pointer = render_pointer("/weights/{{candidate}}", {"candidate": key})
    assert equal(resolve_pointer(document, pointer), value)


@pytest.mark.parametrize(
    "pointer",
    ["/a", "/list/2", "/list/01", "/list/-1", "/list/-", "/text/0", "/list/²", "/list/" + "9" * 5000],
)
def test_a_pointer_to_nothing_is_an_error(pointer: str) -> None:
    with pytest.raises(LookupError):
        resolve_pointer({"list": [1, 2], "text": "abc"}, pointer)


def test_the_examples_of_rfc_6901() -> None:
    document = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "m~n": 8, " ": 7}
    wanted = {
        "": document,
        "/foo": ["bar", "baz"],
        "/foo/0": "bar",
        "/": 0,
        "/a~1b": 1,
        "/c%d": 2,
        "/m~0n": 8,
        "/ ": 7,
    }
    for pointer, value in wanted.items():
        assert resolve_pointer(document, pointer) == value


def test_zero_is_not_false() -> None:
    assert equal(0, 0.0)
    assert not equal(0, False)
    assert not equal([1], [True])
    assert not equal({"a": 1}, {"a": 1, "b": 2})


@pytest.mark.parametrize("text", ["{{unknown}}", "{{candidate", "{{ candidate }", "x {{}} y"])
def test_a_wrong_placeholder_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="placeholder"):
        check_template({"a": [text]})


def test_the_adapter_is_found_by_its_type() -> None:
    assert subclasses_in("sinks.rollback", RollbackAdapter) == {"http": HttpRollback}


TARGET = {"name": "g", "url": "https://g.example/rollback"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "https://{{rollout}}.example/x"}, "not in its host"),
        ({"url": "https://user:pw@g.example/"}, "credentials"),
        ({"url": "ftp://g.example/"}, "https://example.org"),
        ({"url": "https://g.example/{{nope}}"}, "unknown placeholder"),
        ({"body": {"a": "{{nope}}"}}, "unknown placeholder"),
        ({"headers": {"Authorization": "x"}}, "set by driftgate"),
        ({"headers": {"X-A": "{{nope}}"}}, "unknown placeholder"),
        ({"token": "plain-text"}, "by reference"),
        ({"timeout": "2h"}, "less than or equal"),
        ({"retry": 1}, "Extra inputs"),
        ({"name": "white space"}, "pattern"),
        ({"read": {"url": "https://g.example", "pointer": "no-slash"}}, "pattern"),
    ],
)
def test_target_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RollbackSettings.model_validate({"targets": [{**TARGET, **change}]})


@pytest.mark.parametrize(
    ("alerts", "message"),
    [
        ({"channels": [{"type": "slack", "url": "https://hooks.slack.com/x"}]}, "by reference"),
        ({"channels": [{"type": "slak", "url": "${env:X}"}]}, "does not match any of the expected tags"),
        ({"channels": [{"type": "slack", "url": "${env:X}"}] * 2}, "two channels are called 'slack'"),
        ({"channels": [{"type": "webhook", "url": "https://h.example", "secrets": []}]}, "at least 1"),
        ({"silences": [{"ends": "2026-01-01T00:00:00"}]}, "time zone"),
        ({"warn_states": ["ok"]}, "cannot open an incident"),
        ({"repeat_interval": "1s"}, "greater than or equal"),
    ],
)
def test_alert_mistakes_are_named(alerts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AlertSettings.model_validate(alerts)


def test_two_targets_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two targets are called 'g'"):
        RollbackSettings.model_validate({"targets": [TARGET, TARGET]})


def test_everything_has_a_default_and_nothing_is_called_by_default() -> None:
    assert RollbackSettings().mode == "observe"
    assert AlertSettings().channels == ()
    assert not AlertSettings().allow_private_networks


@pytest.mark.parametrize("page", ["alerts.md", "rollback.md"])
def test_the_examples_of_the_documentation_are_valid(page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        for section, data in yaml.safe_load(block).items():
            {"alerts": AlertSettings, "rollback": RollbackSettings}[section].model_validate(data)
