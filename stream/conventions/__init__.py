"""The dialects in which applications describe LLM calls on spans, one file each.

A dialect is a function ``read(span, reading)`` that fills what is still empty in the :class:`Reading`. Spans mix
dialects freely (a GenAI chat span next to OpenInference documents), so all of them read every span, newest first.
``docs`` of the names: OpenTelemetry GenAI semantic conventions, OpenInference ``spec/``, OpenLLMetry
``opentelemetry-semantic-conventions-ai``.
"""

from __future__ import annotations

from stream.conventions import genai, genai_events, genai_indexed, openinference, openllmetry
from stream.conventions.reading import Reading
from stream.spans import SpanView

DIALECTS = (genai.read, openinference.read, genai_indexed.read, openllmetry.read, genai_events.read)


def read(span: SpanView) -> Reading:
    """Return what any dialect says about ``span``. Never raises, whatever the span carries."""
    reading = Reading()
    for dialect in DIALECTS:
        dialect(span, reading)
    return reading
