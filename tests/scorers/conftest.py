"""Builders of OTLP payloads as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData
from payloads import span, traces


@pytest.fixture
def make_span() -> Callable[..., Span]:
    """Return the builder of spans."""
    return span


@pytest.fixture
def make_traces() -> Callable[..., TracesData]:
    """Return the builder of whole traces."""
    return traces
