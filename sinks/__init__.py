"""Stage 4: ClickHouse, incidents and notifications, rollback, OTLP export."""
