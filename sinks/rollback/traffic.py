"""Traffic by arm, counted in ``otel_traces`` with SQL.

Instrumentations write one fact under several attribute names, so each cohort attribute is looked up under all names that
:mod:`stream.interaction_record` knows for it. The arm stands on the span that called the model, while a route may stand
on the root span only; hence ``match`` is asked of the whole trace (a name listed earlier wins, wherever it stands) and
the arm of the span. Names and values travel as query parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stream.interaction_record import (
    ENVIRONMENT_KEYS,
    PROMPT_NAME_KEYS,
    PROMPT_VERSION_KEYS,
    ROUTE_KEYS,
    SERVICE_KEYS,
    USER_COHORT_KEYS,
)

Query = Callable[[str, Mapping[str, Any]], Sequence[Sequence[Any]]]

# Cohort attribute -> span or resource attributes; the first that is set counts.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "prompt_version": PROMPT_VERSION_KEYS,
    "prompt_name": PROMPT_NAME_KEYS,
    "model": ("gen_ai.request.model", "llm.model_name", "gen_ai.response.model"),
    "route": ROUTE_KEYS,
    "user_cohort": USER_COHORT_KEYS,
    "service": SERVICE_KEYS,
    "environment": ENVIRONMENT_KEYS,
}
_TRACE_SLACK = 3600  # seconds that a trace's other spans may start before the arm's span


class SqlTraffic:
    """A :class:`sinks.rollback.verification.TrafficReader` over ``query(sql, parameters) -> rows``.

    Parameters
    ----------
    query
        Runs a statement with ClickHouse's ``{name:Type}`` parameters. It should raise
        :class:`stream.errors.Transient` when the store cannot be read.
    attributes
        Further names per cohort attribute, looked at before :data:`ATTRIBUTES`.
    table
        The table of spans.
    """

    def __init__(
        self, query: Query, attributes: Mapping[str, Sequence[str]] | None = None, table: str = "otel_traces"
    ) -> None:
        if not table.replace(".", "").replace("_", "").isalnum():
            raise ValueError(f"{table!r} is not a table name")
        self._query = query
        self._table = table
        self._attributes = attributes or {}

    def names(self, attribute: str) -> list[str]:
        """Return the attribute names that ``attribute`` is looked up under."""
        known = (*self._attributes.get(attribute, ()), *ATTRIBUTES.get(attribute, ()), attribute)
        return list(dict.fromkeys(known))

    def traffic(
        self, tenant: str, match: Mapping[str, str], arm: str, since_ns: int, until_ns: int
    ) -> Mapping[str, int]:
        """See :meth:`sinks.rollback.verification.TrafficReader.traffic`."""
        parameters: dict[str, Any] = {
            "tenant": tenant,
            "since": since_ns,
            "until": until_ns,
            "slack": since_ns - _TRACE_SLACK * 1_000_000_000,
            "arm": self.names(arm),
        }
        conditions = []
        for number, (attribute, value) in enumerate(sorted(match.items())):
            parameters[f"names{number}"] = self.names(attribute)
            parameters[f"value{number}"] = value
            values = _values(f"names{number}")
            conditions.append(
                f"AND TraceId IN (SELECT TraceId FROM {self._table} "  # noqa: S608 - checked name, bound values
                "WHERE Tenant = {tenant:String} AND Timestamp >= fromUnixTimestamp64Nano({slack:Int64}) "
                "AND Timestamp < fromUnixTimestamp64Nano({until:Int64}) GROUP BY TraceId "
                f"HAVING {_first(f'maxForEach({values})')} = {{value{number}:String}})"
            )
        rows = self._query(
            f"SELECT {_first(_values('arm'))} AS arm_value, uniqExact(TraceId, SpanId) AS spans FROM {self._table} "  # noqa: S608
            "WHERE Tenant = {tenant:String} AND Timestamp >= fromUnixTimestamp64Nano({since:Int64}) "
            "AND Timestamp < fromUnixTimestamp64Nano({until:Int64}) AND arm_value != '' "
            f"{' '.join(conditions)} GROUP BY arm_value",
            parameters,
        )
        return {str(row[0]): int(row[1]) for row in rows}


def _values(parameter: str) -> str:
    return (
        "arrayMap(n -> if(SpanAttributes[n] != '', SpanAttributes[n], ResourceAttributes[n]), "
        f"{{{parameter}:Array(String)}})"
    )


def _first(array: str) -> str:
    return f"arrayFirst(v -> v != '', {array})"
