"""Finding the process that owns a data folder, and what is said when something else answers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftgate.running import base_url, endpoints_of, request, tell_endpoints
from stream.errors import ConfigError, StartError


def test_a_process_is_found_while_it_lives_and_not_by_an_id_that_was_given_again(tmp_path: Path) -> None:
    assert endpoints_of(tmp_path) is None
    take_away = tell_endpoints(tmp_path, {"web": "http://127.0.0.1:1"})
    left = (tmp_path / "endpoints.json").read_text()
    assert json.loads(left)["pid"] == os.getpid()
    assert endpoints_of(tmp_path) == {"web": "http://127.0.0.1:1"}
    take_away()
    assert not list(tmp_path.iterdir())
    # What a killed process leaves behind; the id is that of a living one, as it always is in a container.
    (tmp_path / "endpoints.json").write_text(left)
    assert endpoints_of(tmp_path) is None
    tell_endpoints(tmp_path, {"web": "http://127.0.0.1:2"})()
    assert endpoints_of(tmp_path) is None


def test_a_folder_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftgate.running._LOOKS_S", 0.0)
    take_away = tell_endpoints(tmp_path, {"web": "http://127.0.0.1:1"})
    with pytest.raises(StartError, match="another driftgate process owns the data folder"):
        tell_endpoints(tmp_path, {"web": "http://127.0.0.1:2"})
    assert endpoints_of(tmp_path) == {"web": "http://127.0.0.1:1"}
    take_away()


@pytest.mark.parametrize("text", ["[1]", "5", '{"pid": "abc"}', '{"pid": 99999999999999999999}', "", "\xff"])
def test_a_damaged_file_names_no_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "endpoints.json").write_text(text, encoding="latin-1")
    assert endpoints_of(tmp_path) is None


def test_addresses_of_either_family_are_urls() -> None:
    assert base_url("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert base_url("localhost", 80) == "http://localhost:80"
    assert base_url("::1", 80) == "http://[::1]:80"


@contextlib.contextmanager
def _answering(reply: bytes) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(65536)
                client.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("reply", [b"what?\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"])
def test_what_does_not_speak_http_is_told_in_one_sentence(reply: bytes) -> None:
    with _answering(reply) as base, pytest.raises(StartError, match="does not answer as a driftgate process"):
        request(base, "/v1/incidents")


def test_what_is_asked_for_is_not_carried_to_another_address() -> None:
    reply = b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/v1/kill-switch\r\nContent-Length: 0\r\n\r\n"
    with (
        _answering(reply) as base,
        pytest.raises(StartError, match="sends elsewhere, to http"),
    ):
        request(base, "/v1/kill-switch", token="shown-" + "once")


@pytest.mark.parametrize("token", ["hunter2\nhunter3", "hunter2\r", "hünter2", "hunter2\0"])
def test_a_token_that_cannot_be_sent_is_not_repeated(token: str) -> None:
    with pytest.raises(ConfigError) as raised:
        request("http://127.0.0.1:1", "/v1/incidents", token=token)
    assert "nter2" not in str(raised.value)


@pytest.mark.parametrize("base", ["http://[::1", "http://127.0.0.1:eighty", "http://127.0.0.1:1/a b"])
def test_an_address_that_is_none_is_told_in_one_sentence(base: str) -> None:
    with pytest.raises(StartError, match="does not answer"):
        request(base, "/v1/incidents")
