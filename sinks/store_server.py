"""A ClickHouse server behind the store, reached over HTTP with clickhouse-connect."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from sinks.store_cluster import Placement
from sinks.store_errors import STORE_ERRORS, code_of
from sinks.store_settings import StoreSettings, Target
from stream.errors import StartError


class Server:
    """A connection to a ClickHouse server; the database is created if it is missing.

    Raises
    ------
    StartError
        The server cannot be reached or refuses the user.
    """

    def __init__(self, settings: StoreSettings, engine_settings: Mapping[str, Any]) -> None:
        target = settings.target
        self.database = target.database
        self._insert_lock = threading.Lock()
        self._password = settings.password.reveal() if settings.password is not None else ""
        try:
            first = self._client(target, settings, {}, "")
            try:
                _make_database(first, target)
            finally:
                first.close()
            self.client = self._client(target, settings, engine_settings, target.database)
        except STORE_ERRORS as error:
            raise StartError(_start_message(target, error)) from error

    def _client(
        self, target: Target, settings: StoreSettings, engine: Mapping[str, Any], database: str
    ) -> Any:
        import clickhouse_connect

        return clickhouse_connect.get_client(
            host=target.host,
            port=target.port,
            username=target.username,
            password=self._password,
            database=database or None,
            secure=target.secure,
            verify=target.verify,
            ca_cert=target.ca_cert or None,
            connect_timeout=settings.connect_timeout,
            send_receive_timeout=settings.query_timeout + 5,
            settings=dict(engine),
            autogenerate_session_id=False,  # a session would refuse two statements at once
            query_retries=0,
            compress="lz4",
        )

    def close(self) -> None:
        """Close the connections; idempotent."""
        self.client.close()


def _make_database(client: Any, target: Target) -> None:
    # Asked first, because ON CLUSTER waits for every replica, and a restart must not need the one that is down.
    known = client.query(
        "SELECT count() FROM system.databases WHERE name = {name:String}",
        parameters={"name": target.database},
    )
    if not known.result_rows[0][0]:
        client.command(Placement.of(target).statement(f"CREATE DATABASE IF NOT EXISTS `{target.database}`"))


def _start_message(target: Target, error: Exception) -> str:
    where = f"{target.host}:{target.port}"
    code = code_of(error)
    if code in (192, 193, 194, 516):
        return (
            f"ClickHouse at {where} refuses the user {target.username!r}: check store.url and store.password"
        )
    if code:
        return f"ClickHouse at {where} fails (code {code}): {str(error).splitlines()[0][:300]}"
    return f"cannot reach ClickHouse at {where}: {error.__class__.__name__}; check store.url and that the server runs"
