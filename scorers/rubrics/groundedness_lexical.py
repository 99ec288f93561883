"""How much of the answer stands in the retrieved documents, by its words?"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from scorers.api import Score, Scorer, Skipped
from scorers.refusals import refusal_in
from scorers.text import content_words, has_number, sentences
from stream.interaction import Interaction
from stream.settings import Settings

MAX_SOURCE_WORDS = 200_000


class GroundednessOptions(Settings):
    """When a sentence counts as grounded."""

    min_overlap: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of a sentence's content words that must occur in the documents (or the question)."""

    min_words: Annotated[int, Field(ge=1, le=100)] = 3
    """Sentences with fewer content words claim nothing and do not count."""

    context: Literal["documents", "documents_and_system"] = "documents"
    """Where support may come from, besides the question: retrieved documents, or the system instructions too."""


class GroundednessLexical(Scorer):
    """The share of the answer's content words that stand in grounded sentences, 0 to 1.

    A sentence is grounded when enough of its content words (stems; no stop words) occur in the documents or the
    question, and every number in it does. Words are compared, not meaning: a paraphrase scores low and a negation
    scores high, so use it to compare versions, and a judge to judge an answer. Skipped without documents, for answers
    that claim nothing, and for refusals, which have a rubric of their own.
    """

    name = "groundedness_lexical"
    Options = GroundednessOptions
    options: GroundednessOptions

    def score(self, interaction: Interaction) -> Score | Skipped:
        """Compare words."""
        answer = interaction.output_text
        if not answer:
            return Skipped("no_content")
        if not interaction.documents and self.options.context == "documents":
            return Skipped("no_documents")
        texts = [document.content for document in interaction.documents if document.content]
        if self.options.context == "documents_and_system" and interaction.system_text:
            texts.append(interaction.system_text)
        if not texts:
            return Skipped("no_document_content")
        if refusal_in(answer):
            return Skipped("refusal")
        support: set[str] = set(content_words(interaction.input_text))
        for text in texts:
            support.update(content_words(text))
            if len(support) > MAX_SOURCE_WORDS:
                break
        return self._compared(answer, support)

    def _compared(self, answer: str, support: set[str]) -> Score | Skipped:
        total = grounded = 0
        first_loose = ""
        for sentence in sentences(answer):
            found = content_words(sentence)
            if len(found) < self.options.min_words:
                continue
            total += len(found)
            held = sum(word in support for word in found)
            numbers_hold = all(word in support for word in found if has_number(word))
            if numbers_hold and held >= self.options.min_overlap * len(found):
                grounded += len(found)
            elif not first_loose:
                first_loose = sentence[:200]
        if not total:
            return Skipped("no_claims")
        if first_loose:
            return Score(grounded / total, explanation=f"not in the documents: {first_loose}")
        return Score(1.0)
