"""Names and addresses of people, found by a language model of presidio-analyzer in traces that the sampler has kept.

A model takes some 15 ms for 2 KB of text, a thousand times as long as the rules, so it never stands between a sender and
its answer: it looks at what was sampled, before that is scored, judged or stored. It is bounded per text and per record, and
what it cannot look at is blanked, not passed (``on_failure: blank``), so that traces stay in the numbers without their words.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from collector.settings import NerSettings
from stream.errors import ConfigError, StartError

_UNSCREENED = "[UNSCREENED]"
# A language model may fail in any way; none of them may let a text pass.
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Recognizer(Protocol):
    """Finds names in a text."""

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """Return start, end and entity of what was found, in characters."""


class Screened(msgspec.Struct, frozen=True):
    """A record with names replaced, and what was counted: by entity, and ``blanked`` texts with their reasons."""

    value: bytes
    counters: dict[str, int]


class Screen:
    """Replaces what a recognizer finds in every text of a record of ``traces.sampled``.

    Parameters
    ----------
    settings
        Bounds, and what to do on failure.
    recognizer
        Finds the names; presidio-analyzer with the configured model if not given.
    clock
        Seconds that only ever grow, for ``max_time``.

    Raises
    ------
    StartError
        The extra ``ner`` is not installed.
    ConfigError
        The model is not there; nothing is ever downloaded.
    """

    def __init__(
        self,
        settings: NerSettings,
        recognizer: Recognizer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._recognizer = recognizer or PresidioRecognizer(settings)
        self._clock = clock

    def record(self, value: bytes) -> Screened:
        """Return ``value`` with the names in attribute values, bodies and status messages replaced by tags."""
        try:
            data = TracesData.FromString(value)
        except DecodeError:
            return Screened(value, {"screen_undecodable": 1})  # whoever reads it next refuses it
        counts: Counter[str] = Counter()
        deadline = self._clock() + self._settings.max_time
        left = self._settings.max_record_bytes
        for message, field in _texts(data):
            text: str = getattr(message, field)
            if not _may_hold_a_name(text):
                continue
            size = len(text.encode())
            left -= size
            if size > self._settings.max_text_bytes:
                replaced = self._failed("too_long", text, counts)
            elif left < 0:
                replaced = self._failed("too_much", text, counts)
            elif self._clock() > deadline:
                replaced = self._failed("timeout", text, counts)
            else:
                replaced = self._screen(text, counts)
            if replaced != text:
                setattr(message, field, replaced)
        return Screened(data.SerializeToString() if counts else value, dict(counts))

    def _screen(self, text: str, counts: Counter[str]) -> str:
        try:
            document = _document(text)
            if document is None:
                return self._replaced(text, counts)
            changed, made = self._leaves(document, counts)
            return _written(made) if changed else text
        except _FAILURES:
            return self._failed("failed", text, counts)

    def _leaves(self, item: Any, counts: Counter[str]) -> tuple[bool, Any]:
        if isinstance(item, str):
            if not _may_hold_a_name(item):
                return False, item
            inner = _document(item)
            if inner is not None:
                changed, made = self._leaves(inner, counts)
                return changed, _written(made) if changed else item
            made = self._replaced(item, counts)
            return made != item, made
        if isinstance(item, list):
            pairs = [self._leaves(inner, counts) for inner in item]
            return any(changed for changed, _ in pairs), [made for _, made in pairs]
        if isinstance(item, dict):
            found = {key: self._leaves(inner, counts) for key, inner in item.items()}
            repeated = isinstance(item, _Repeated)
            return repeated or any(c for c, _ in found.values()), {
                key: made for key, (_, made) in found.items()
            }
        return False, item

    def _replaced(self, text: str, counts: Counter[str]) -> str:
        counts["texts_screened"] += 1
        pieces: list[str] = []
        position = 0
        for start, end, entity in sorted(self._recognizer.find(text)):
            if start < position:
                position = max(position, end)  # across another: both are gone, under the first one's name
                continue
            # What the rules put there is no name.
            if text[start - 1 : start] == "[" and text[end : end + 1] == "]":
                continue
            pieces += (text[position:start], f"[{entity}]")
            counts[f"screened.{entity}"] += 1
            position = end
        return "".join((*pieces, text[position:]))

    def _failed(self, reason: str, text: str, counts: Counter[str]) -> str:
        counts[f"screen_failures.{reason}"] += 1
        return text if self._settings.on_failure == "keep" else _UNSCREENED


class PresidioRecognizer:
    """presidio-analyzer with one spaCy model and none of its pattern recognizers: the rules do that, before."""

    def __init__(self, settings: NerSettings) -> None:
        try:
            import spacy.util
            from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
            from presidio_analyzer.nlp_engine import NlpEngineProvider
            from presidio_analyzer.predefined_recognizers import SpacyRecognizer
        except ImportError as error:
            raise StartError(
                "redaction.ner needs the extra: pip install 'driftgate[ner]' and a spaCy model"
            ) from error
        model = settings.model
        if not spacy.util.is_package(model) and not Path(model).is_dir():
            raise ConfigError(
                f"redaction.ner.model: there is no spaCy model {model!r}: install its package or name its folder; "
                "nothing is downloaded at run time"
            )
        engine = NlpEngineProvider(
            nlp_configuration={
                "nlp_engine_name": "spacy",
                "models": [{"lang_code": settings.language, "model_name": model}],
            }
        ).create_engine()
        registry = RecognizerRegistry(
            recognizers=[
                SpacyRecognizer(
                    supported_language=settings.language, supported_entities=list(settings.entities)
                )
            ],
            supported_languages=[settings.language],
        )
        self._analyzer = AnalyzerEngine(
            registry=registry, nlp_engine=engine, supported_languages=[settings.language]
        )
        self._settings = settings

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """See :meth:`Recognizer.find`."""
        return [
            (found.start, found.end, found.entity_type)
            for found in self._analyzer.analyze(
                text=text,
                language=self._settings.language,
                entities=list(self._settings.entities),
                score_threshold=self._settings.min_score,
            )
        ]


def _texts(message: Message) -> Iterator[tuple[Message, str]]:
    """Yield every string of an attribute value and every status message, as message and field."""
    name = message.DESCRIPTOR.name
    if name == "AnyValue" and message.WhichOneof("value") == "string_value":
        yield message, "string_value"
        return
    if name == "Status":
        yield message, "message"
        return
    for field, content in message.ListFields():
        if field.message_type is None:
            continue
        for item in (content,) if isinstance(content, Message) else content:
            yield from _texts(item)


def _may_hold_a_name(text: str) -> bool:
    """Whether there are two words, or one that begins with a capital: an id or a URL is not worth 15 ms."""
    return any(character.isspace() for character in text) or text[:1].isupper()


def _document(text: str) -> Any:
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        found = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


class _Repeated(dict[str, Any]):
    """An object that had two equal keys: only the last was read, so it is written anew, without the first."""


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(items)
    return made if len(made) == len(items) else _Repeated(made)


def _written(document: Any) -> str:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates, which protobuf does not take, stay escapes
        return json.dumps(document, separators=(",", ":"))
    return text
