"""An example scorer: does the answer say where it stands?

Answers of a support assistant should name the page they rest on, as ``[refunds]``. The scorer gives the share of
sentences that do, and only for answers that had documents to cite. In ``driftgate.yaml``::

    scorers:
      rubrics:
        - error
        - use: examples/scorers/cites_source.py:CitesSource
          options: {min_words: 4}

The path is relative to the configuration file. Test it like any class: ``tests/scorers/test_example_scorer.py`` does.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from driftgate import Interaction, Score, Scorer, Skipped
from stream.settings import Settings

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?!\[)")
_CITATION = re.compile(r"\[([\w./-]{1,64})\]")


class CitesSourceOptions(Settings):
    """What counts."""

    min_words: Annotated[int, Field(ge=1)] = 5
    """Shorter sentences ("You are welcome.") need no source."""


class CitesSource(Scorer):
    """The share of sentences that cite a document which was really retrieved, 0 to 1."""

    name = "cites_source"
    version = "1"  # raise it when you change what is counted: old and new scores are then kept apart
    Options = CitesSourceOptions
    options: CitesSourceOptions

    def score(self, interaction: Interaction) -> Score | Skipped:
        """Look at every sentence."""
        if not interaction.output_text:
            return Skipped("no_content")
        known = {document.id for document in interaction.documents if document.id}
        if not known:
            return Skipped("no_document_ids")
        claims = [
            sentence
            for sentence in _SENTENCE.split(interaction.output_text)
            if len(_CITATION.sub("", sentence).split()) >= self.options.min_words
        ]
        if not claims:
            return Skipped("no_claims")
        loose = [sentence for sentence in claims if not known.intersection(_CITATION.findall(sentence))]
        return Score(
            1 - len(loose) / len(claims),
            label="cited" if not loose else "uncited",
            explanation=f"no source: {loose[0][:200]}" if loose else "",
        )
