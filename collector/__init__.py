"""Stage 1: OTLP receivers -> redaction -> publish."""
