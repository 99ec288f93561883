"""Words and sentences of a text, for the rubrics that compare texts without a model."""

from __future__ import annotations

import re

MAX_CHARS = 200_000  # what a rubric reads of one text

_WORD = re.compile(r"[^\W_]+(?:[.,'’-][^\W_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|(?<=[。！？])|\n+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

_STOP = (
    "a about above after again all also am an and any are as at be because been before being below between both but by "
    "can could did do does doing down during each few for from further get got had has have having he her here hers him "
    "his how i if in into is it its itself just let like may me might more most must my no nor not now of off on once "
    "only or other our ours out over own please same shall she should so some such than that the their theirs them then "
    "there these they this those through to too under until up upon us very was we were what when where which while who "
    "whom why will with would yes you your yours i'm i'll i've it's you'll you're you've we'll we're that's there's "
    "don't doesn't didn't can't won't isn't aren't"
)
STOPWORDS = frozenset(_STOP.split())


def sentences(text: str) -> list[str]:
    """Return the sentences of the first 200,000 characters; line breaks end a sentence."""
    return [part for piece in _SENTENCE.split(text[:MAX_CHARS]) if (part := piece.strip())]


def words(text: str) -> list[str]:
    """Return lower-case words; numbers lose their thousands separators, runs of CJK become pairs of characters."""
    found: list[str] = []
    for match in _WORD.finditer(text[:MAX_CHARS].lower().replace("’", "'")):
        word = match.group()
        if word[0].isdigit():
            found.append(word.replace(",", ""))
        elif _CJK.search(word):
            found.extend(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        else:
            found.append(word)
    return found


def content_words(text: str) -> list[str]:
    """Return the stems of the words that carry meaning."""
    return [
        stem(word)
        for word in words(text)
        if word not in STOPWORDS and (len(word) > 2 or word[0].isdigit() or _CJK.match(word))
    ]


def stem(word: str) -> str:
    """Strip English plural and verb endings: enough to match a word with its other forms, no linguistics."""
    if word[0].isdigit() or not word.isascii():
        return word
    word = word.removesuffix("'s")
    for ending, kept in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("ly", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + kept
            break
    return word.removesuffix("e") if len(word) > 4 else word


def has_number(word: str) -> bool:
    """True for words with a digit: amounts, dates, versions."""
    return any(char.isdigit() for char in word)
