"""Phrases and patterns to look for in a text, and rubrics that do."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from scorers.api import Score, Scorer, Skipped
from stream.interaction import Interaction
from stream.settings import Settings

Phrase = Annotated[str, Field(min_length=1, max_length=1_000)]


class PhraseOptions(Settings):
    """What to look for; at least one phrase or pattern."""

    phrases: list[Phrase] = Field(default=[], max_length=10_000)
    """Texts, found anywhere between word boundaries, whatever their case and spacing."""

    patterns: list[Phrase] = Field(default=[], max_length=1_000)
    """Regular expressions in RE2 syntax, searched as they are."""

    @model_validator(mode="after")
    def _something(self) -> PhraseOptions:
        if not self.phrases and not self.patterns:
            raise ValueError("name at least one phrase or pattern")
        for pattern in self.patterns:
            _compile(pattern)
        return self


def _compile(pattern: str) -> Any:
    import re2

    try:
        return re2.compile(pattern)
    except re2.error as error:
        raise ValueError(f"the pattern {pattern!r} is not RE2: {error}") from error


def _words(text: str) -> str:
    return " ".join(text.casefold().split())


class Phrases:
    """Finds which of the phrases and patterns occur in a text, in linear time."""

    def __init__(self, options: PhraseOptions) -> None:
        self.names = list(dict.fromkeys([*options.phrases, *options.patterns]))
        self._phrases = [(phrase, _words(phrase)) for phrase in options.phrases]
        self._patterns = [(pattern, _compile(pattern)) for pattern in options.patterns]

    def found(self, text: str) -> list[str]:
        """Return the names of those that occur."""
        plain = _words(text)
        hits = [name for name, phrase in self._phrases if _occurs(phrase, plain)]
        return hits + [name for name, pattern in self._patterns if pattern.search(text)]


def _occurs(phrase: str, text: str) -> bool:
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        before = text[start - 1] if start else " "
        after = text[end] if end < len(text) else " "
        if not (_joined(before, phrase[0]) or _joined(phrase[-1], after)):
            return True
        start = text.find(phrase, start + 1)
    return False


def _joined(left: str, right: str) -> bool:
    # Scripts without spaces have no word boundaries, so only alphabets with upper and lower case need them.
    return left.isalnum() and right.isalnum() and left.isascii() and right.isascii()


class PhraseScorer(Scorer):
    """A rubric about which of the phrases and patterns the answer holds; a subclass says what they are worth."""

    Options = PhraseOptions
    options: PhraseOptions

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self._phrases = Phrases(self.options)

    def score(self, interaction: Interaction) -> Score | Skipped:
        """Search."""
        text = interaction.output_text
        if not text:
            return Skipped("no_content")
        return self.rated(self._phrases.found(text), self._phrases.names)

    def rated(self, found: list[str], wanted: list[str]) -> Score:
        """Return the score of an answer that holds ``found`` of ``wanted``."""
        raise NotImplementedError
