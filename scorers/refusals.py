"""The words models refuse with."""

from __future__ import annotations

import re

# A refusal opens an answer; further down the same words are usually quoted or about a detail.
OPENING_CHARS = 320

_VERBS = (
    r"(?:help|assist|answer|provide|comply|fulfil|fulfill|do that|do this|support|share|give|offer|discuss|continue|"
    r"respond|engage|process|complete|generate|create|write|support|access|advise|comment|proceed)"
)
_CANNOT = (
    r"(?:can ?not|can't|am not able to|'m not able to|am unable to|'m unable to|won't|will not be able to)"
)

_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\bi(?:,? (?:as an ai[^,.]{{0,40}},)?)? ?{_CANNOT} (?:\w+ ){{0,2}}?{_VERBS}\b",
        rf"\b(?:sorry|apologi[sz]e|unfortunately|afraid)\b[^.!?]{{0,40}}\b(?:i|we) ?{_CANNOT}\b",
        r"\bas an? (?:ai|artificial intelligence|large language|language)(?: language)?(?: model| assistant)?\b"
        r"[^.!?]{0,60}\b(?:can ?not|can't|unable|not able|won't|don't|do not|not allowed|not permitted)\b",
        r"\bi (?:must|have to|need to) (?:respectfully |politely )?(?:decline|refuse)\b",
        r"\bi(?:'m| am) (?:not (?:allowed|permitted|authori[sz]ed|comfortable)|unable) (?:to|with)\b",
        r"\bi(?:'d| would) (?:rather|prefer) not (?:to )?(?:answer|help|discuss|say)\b",
        r"\b(?:this|that|your) (?:request|question|topic) (?:violates|goes against|is (?:against|outside|not allowed))\b",
        r"\b(?:it|that) (?:goes )?(?:against|violates) (?:my|our) (?:guidelines|policy|policies|programming)\b",
        r"\bich kann (?:dir |ihnen |das |dabei |diese [^.!?]{0,30})?(?:leider )?(?:dabei |damit |darauf )?(?:leider )?"
        r"nicht (?:helfen|weiterhelfen|beantworten|antworten|bereitstellen)",
        r"\b(?:tut mir leid|leider)\b[^.!?]{0,60}\b(?:kann|darf) ich\b[^.!?]{0,60}\bnicht\b",
        r"\bje (?:ne peux|ne suis|suis désolée?)[^.!?]{0,40}\b(?:pas|peux)\b[^.!?]{0,20}"
        r"\b(?:aider|répondre|fournir|en mesure)",
        r"\b(?:lo siento|lamento|disculpa)\b[^.!?]{0,40}\bno (?:puedo|podemos)\b",
        r"\bno puedo (?:ayudar|responder|proporcionar)",
        r"\b(?:mi dispiace|spiacente)\b[^.!?]{0,40}\bnon (?:posso|possiamo)\b",
        r"\bnon posso (?:aiutar|rispondere|fornire)",
        r"\b(?:desculpe|sinto muito|lamento)\b[^.!?]{0,40}\bnão (?:posso|podemos)\b",
        r"\bnão posso (?:ajudar|responder|fornecer)",
    )
)
_NOT_REFUSALS = re.compile(
    r"\b(?:can ?not|can't) (?:help|assist|provide|answer)?\s*(?:but|enough|wait|stress|emphasi[sz]e|overstate)\b",
    re.IGNORECASE,
)


def refusal_in(text: str) -> str:
    """Return the words of ``text`` that refuse, "" if none do."""
    opening = _NOT_REFUSALS.sub(" ", text[:OPENING_CHARS].replace("’", "'"))
    for pattern in _PATTERNS:
        if match := pattern.search(opening):
            return match.group()[:120]
    return ""
