"""Which settings a client may give with a query, and how far."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sinks.clickhouse.exceptions import QueryError
from sinks.store_settings import QuerySettings

# Parts of the HTTP protocol, not settings of the engine; and settings that say nothing about a read-only query.
_PROTOCOL = frozenset(
    {
        "query", "database", "default_format", "query_id", "session_id", "session_timeout", "session_check", "user",
        "password", "role", "quota_key", "compress", "decompress", "enable_http_compression", "wait_end_of_query",
        "buffer_size", "client_protocol_version", "send_progress_in_http_headers",
        "http_headers_progress_interval_ms", "http_zlib_compression_level", "stacktrace", "add_http_cors_header",
        "cancel_http_readonly_queries_on_client_close", "http_write_exception_in_output_format", "readonly",
        "log_queries", "log_comment", "log_profile_events", "async_insert", "wait_for_async_insert",
        "use_query_cache", "date_time_input_format", "cast_string_to_dynamic_use_inference", "max_insert_block_size",
        "priority", "queue_max_wait_ms", "connect_timeout", "receive_timeout", "send_timeout", "max_query_size",
        "allow_experimental_analyzer", "http_native_compression_disable_checksumming_on_decompress",
        "http_max_field_value_size", "network_compression_method", "opentelemetry_start_trace_probability",
    }
)  # fmt: skip

_ALLOWED = frozenset(
    {
        "final", "extremes", "limit", "offset", "join_use_nulls", "session_timezone", "date_time_output_format",
        "union_default_mode", "transform_null_in", "prefer_column_name_to_alias", "any_join_distinct_right_table_keys",
        "result_overflow_mode", "timeout_overflow_mode", "group_by_overflow_mode", "max_threads", "max_block_size",
        "max_rows_to_read", "max_bytes_to_read", "max_rows_to_group_by", "max_execution_speed",
        "low_cardinality_allow_in_native_format", "aggregate_functions_null_for_empty", "join_algorithm",
        "group_by_use_nulls", "max_bytes_before_external_group_by", "max_bytes_before_external_sort",
    }
)  # fmt: skip
_ALLOWED_PREFIXES = (
    "output_format_json_", "output_format_csv_", "output_format_tsv_", "output_format_native_", "output_format_pretty_",
    "output_format_arrow_", "output_format_parquet_", "output_format_decimal_", "output_format_write_statistics",
    "output_format_markdown_", "format_csv_delimiter", "format_tsv_null_representation",
)  # fmt: skip
_CAPPED = frozenset(
    {"max_execution_time", "max_result_rows", "max_result_bytes", "max_memory_usage", "max_threads"}
)
_MAX_THREADS = 16


def allowed(name: str) -> bool:
    """Tell whether a query may give this setting."""
    return name in _ALLOWED or name in _CAPPED or name.startswith(_ALLOWED_PREFIXES)


class Limits(msgspec.Struct, frozen=True):
    """Settings every query runs under, and what a client may make of them."""

    defaults: dict[str, str]

    @classmethod
    def of(cls, settings: QuerySettings) -> Limits:
        """Return the limits of the endpoint's settings."""
        seconds = f"{settings.max_execution_time:g}"
        return cls(
            {
                "final": "1",
                "session_timezone": "UTC",
                "max_execution_time": seconds,
                "max_result_rows": str(settings.max_result_rows),
                "max_result_bytes": str(settings.max_result_bytes),
                "max_memory_usage": str(settings.max_memory),
                "max_query_size": str(settings.max_query_bytes * 4 + 1024),
                "max_threads": "2",
                "use_query_cache": "0",
                "async_insert": "0",
            }
        )

    def merge(self, given: Mapping[str, str], checked: Mapping[str, str]) -> dict[str, str]:
        """Return the settings to set over the defaults: what changes nothing is left out, limits only get tighter.

        ``given`` comes from the URL; ``checked`` from the query's own text, where the gate has looked at it.

        Raises
        ------
        QueryError
            A setting is unknown or may not be given (code 164).
        """
        merged: dict[str, str] = {}
        for name, value in (*given.items(), *checked.items()):
            if name in _PROTOCOL or name.startswith("param_"):
                continue
            if not allowed(name) and name not in checked:
                raise QueryError(164, f"Setting {name} cannot be changed here", "READONLY")
            wanted = self._capped(name, value) if name in _CAPPED else value
            if wanted != self.defaults.get(name):
                merged[name] = wanted
            else:
                merged.pop(name, None)
        return merged

    def _capped(self, name: str, value: str) -> str:
        limit = float(_MAX_THREADS) if name == "max_threads" else float(self.defaults[name])
        try:
            wanted = float(value)
        except ValueError:
            raise QueryError(26, f"Setting {name} is not a number", "CANNOT_PARSE_QUOTED_STRING") from None
        if not 0 < wanted <= limit:
            return self.defaults[name]
        return f"{wanted:.15g}"
