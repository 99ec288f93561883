"""Recognise the language of a text by its script and its most frequent words; no model, no data files."""

from __future__ import annotations

import re

MAX_CHARS = 5_000
MIN_WORDS = 4  # known frequent words that must occur
MIN_LEAD = 1.4  # how far the best language must be ahead of the second

_WORDS = {
    "en": "the and is are of to in that it you for with on this be as not your can have from will by at or we an if",
    "de": "der die das und ist nicht sie ich wir ein eine zu den mit auf für von im dem des sich es auch werden kann "
    "ihr ihre wird oder bei nach wenn",
    "fr": "le la les et est des une un pour que vous dans pas sur avec nous votre ce ne qui par au plus sont du être "
    "peut ou si cette",
    "es": "el la los las y es de que en un una para con no por su se del al lo como más puede está usted si o son este",
    "it": "il la di che e è un una per non con sono si del della nel le gli lo dei può questo da al più come o ha se",
    "pt": "o a os as e é de que em um uma para com não por se do da no na mais você pode seu sua ou são como este está",
    "nl": "de het een en is van ik je niet dat op te met voor zijn u we kan naar bij of uw er als dit ook worden aan",
    "pl": "i w nie na się jest do to że z o jak co po dla ale czy przez lub od może są przy tym oraz",
    "sv": "och att det är en som för på av inte med till den har du kan ett om vi eller från ska din vid så",
    "tr": "ve bir bu için ile de da ne var mi olarak daha çok gibi olan kadar sonra siz ben değil veya en",
}
_FREQUENT = {code: frozenset(text.split()) for code, text in _WORDS.items()}
_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
)
LANGUAGES = frozenset(_WORDS) | {code for code, _ in _SCRIPTS}
_LETTERS = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+")


def detect(text: str) -> str:
    """Return the ISO 639-1 code of the language of ``text``, "" if it cannot be told.

    Scripts of several languages count as the most spoken one: Cyrillic is ``ru``, Arabic script is ``ar``. Japanese is
    told from Chinese by its kana.
    """
    text = text[:MAX_CHARS]
    letters = len(_LETTERS.findall(text))
    if letters < 2:
        return ""
    for code, script in _SCRIPTS:
        share = len(script.findall(text)) / letters
        if share > 0.4 or (code == "ja" and share > 0.15):
            return code
    words = _WORD.findall(text.lower())
    counts = sorted(
        ((sum(word in frequent for word in words), code) for code, frequent in _FREQUENT.items()),
        reverse=True,
    )
    (best, code), (second, _) = counts[0], counts[1]
    return code if best >= MIN_WORDS and best >= MIN_LEAD * second else ""
