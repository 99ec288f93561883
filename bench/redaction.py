"""Microseconds that redaction takes per 2 KB of text, and what the standard library's ``re`` takes for the same patterns.

    python -P bench/redaction.py [--texts 400] [--rounds 7] [--disable ENTITY ...] [--sets]

Texts of 2 KB: prose of which 0, 1 and 20 % hold one entity, source code, and high-entropy text (ids, hashes, base64).
All engines read the same texts, interleaved in one run; the figure is the median of the rounds. ``re`` is one compiled
pattern per rule, without the checks, as a redaction processor without a gate does it; what it cannot compile is left out
and named. With ``presidio-analyzer`` installed (it is no dependency) its pattern recognisers run too, without a language
model. ``--sets`` prints in addition what each file of rules costs: the time without its entities against the time with all.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import importlib.util
import pkgutil
import random
import re
import time
from collections.abc import Callable
from typing import Any

from collector.redaction import rules as rules_package
from collector.redaction.engine import Engine
from collector.redaction.policy import built_in_rules
from collector.settings import RedactionSettings

_SIZE = 2048
_BATCH = 100  # texts in one call, as in a request of 100 spans
_WORDS = (
    "the customer asked about an order and said that refund was late please send invoice number tomorrow we will check "
    "status of delivery with warehouse in Berlin price is 12.50 per item total 1,250.00 for 100 pieces thanks model "
    "answered within 350 ms using 1200 tokens version 2.4.1 at 2024-08-06 12:30 which seemed fine to everyone there"
)
_CODE = '''def handler(event: dict[str, int], *, retries: int = 3) -> None:
    """Retry up to ``retries`` times."""
    for attempt in range(1, retries + 1):
        response = client.post(f"{BASE_URL}/v1/items/{event['id']}", json={"n": attempt}, timeout=30.0)
        if response.status_code == 200 and response.headers.get("etag") != "W/0815":
            return response.json()["items"][0]["name"].strip().lower()
        logger.warning("attempt %d of %d failed: %s", attempt, retries, response.text[:120])
    raise RuntimeError(f"gave up after {retries} attempts, see https://example.com/docs/errors#retry")
'''
_PLANTED = (
    "jane.doe@example.com",
    "+1 415-555-2671",
    "4111 1111 " + "1111 1111",
    "DE89 3704 0044 " + "0532 0130 00",
    "203.0.113.77",
    "536-90-" + "4399",
)

Redact = Callable[[list[bytes]], int]


def prose(rng: random.Random, share: float) -> bytes:
    """Make a text of 2 KB that holds an entity with probability ``share``."""
    words_of_prose = _WORDS.split()
    words: list[str] = []
    length = 0
    while length < _SIZE:
        words.append(rng.choice(words_of_prose))
        length += len(words[-1]) + 1
    if rng.random() < share:
        words[rng.randrange(len(words))] = rng.choice(_PLANTED)
    return " ".join(words).encode()[:_SIZE]


def code(rng: random.Random) -> bytes:
    """Make 2 KB of source code."""
    text = "".join(_CODE.replace("item", rng.choice(_WORDS[:60].split())) for _ in range(4))
    return text.encode()[:_SIZE]


def entropy(rng: random.Random) -> bytes:
    """Make 2 KB of ids, hashes and base64."""
    parts: list[str] = []
    while sum(map(len, parts)) < _SIZE:
        parts += (
            rng.randbytes(16).hex(),
            base64.urlsafe_b64encode(rng.randbytes(24)).decode(),
            str(rng.randrange(10**9)),
            rng.randbytes(4).hex().upper(),
        )
    return " ".join(parts).encode()[:_SIZE]


def gated(engine: Engine) -> Redact:
    """Return our engine over batches."""

    def run(texts: list[bytes]) -> int:
        changed = 0
        for first in range(0, len(texts), _BATCH):
            batch = texts[first : first + _BATCH]
            changed += len(engine.redact_batch(batch, [""] * len(batch)))
        return changed

    return run


def standard_library() -> tuple[Redact, list[str]]:
    """Return ``re``, one pattern after the other, and the entities whose patterns it cannot compile."""
    patterns: list[re.Pattern[str]] = []
    left_out: list[str] = []
    for rule in built_in_rules():
        # RE2 has \p{L} and \p{N}, the standard library has not.
        pattern = rule.pattern.replace(r"\p{L}\p{N}", r"\w").replace(r"\p{L}", r"[^\W\d_]")
        try:
            patterns.append(re.compile(pattern))
        except re.error:
            left_out.append(rule.name)

    def run(texts: list[bytes]) -> int:
        changed = 0
        for raw in texts:
            text = before = raw.decode()
            for pattern in patterns:
                text = pattern.sub("[X]", text)
            changed += text != before
        return changed

    return run, left_out


def presidio() -> Redact | None:
    """Return Presidio's pattern recognisers, or ``None`` if it is not installed."""
    if importlib.util.find_spec("presidio_analyzer") is None:
        return None
    registry_module = importlib.import_module("presidio_analyzer.recognizer_registry")
    pattern_module = importlib.import_module("presidio_analyzer")
    registry = registry_module.RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    recognizers = [
        recognizer
        for recognizer in registry.recognizers
        if isinstance(recognizer, pattern_module.PatternRecognizer)
    ]

    def run(texts: list[bytes]) -> int:
        return sum(
            any(r.analyze(text, r.supported_entities, nlp_artifacts=None) for r in recognizers)
            for text in (raw.decode() for raw in texts)
        )

    return run


def micros(run: Redact, texts: list[bytes]) -> float:
    """Return the microseconds per text of one pass."""
    began = time.perf_counter()
    run(texts)
    return (time.perf_counter() - began) / len(texts) * 1e6


def corpora(count: int) -> dict[str, list[bytes]]:
    """Return the texts by name."""
    rng = random.Random(7)
    return {
        "prose, 0 % hold an entity": [prose(rng, 0) for _ in range(count)],
        "prose, 1 %": [prose(rng, 0.01) for _ in range(count)],
        "prose, 20 %": [prose(rng, 0.2) for _ in range(count)],
        "source code": [code(rng) for _ in range(count)],
        "high entropy": [entropy(rng) for _ in range(count)],
    }


def compare(
    engines: dict[str, Redact], texts: dict[str, list[bytes]], rounds: int
) -> dict[str, dict[str, float]]:
    """Run all engines on all texts, interleaved; return the medians."""
    found: dict[str, dict[str, float]] = {}
    for title, corpus in texts.items():
        taken: dict[str, list[float]] = {name: [] for name in engines}
        for number in range(rounds + 1):
            for name, run in engines.items():
                # Hundreds of times slower ones see fewer texts.
                seen = corpus if name.startswith("driftgate") else corpus[: max(4, len(corpus) // 20)]
                figure = micros(run, seen)
                if number:  # the first round fills caches
                    taken[name].append(figure)
        found[title] = {name: sorted(figures)[len(figures) // 2] for name, figures in taken.items()}
    return found


def families() -> dict[str, list[str]]:
    """Return the entities of each file of rules."""
    named: dict[str, list[str]] = {}
    for info in sorted(pkgutil.iter_modules(rules_package.__path__), key=lambda item: item.name):
        module: Any = importlib.import_module(f"{rules_package.__name__}.{info.name}")
        named[info.name] = sorted({rule.name for rule in module.RULES})
    return named


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--disable", nargs="*", default=[])
    parser.add_argument("--sets", action="store_true")
    options = parser.parse_args()
    texts = corpora(options.texts)
    engine = Engine(RedactionSettings(disable=tuple(options.disable)))
    standard, left_out = standard_library()
    engines: dict[str, Redact] = {"driftgate": gated(engine), "re": standard}
    if (other := presidio()) is not None:
        engines["presidio"] = other
    print(f"{len(engine.rules)} rules, µs per 2 KB, median of {options.rounds} rounds")
    if left_out:
        print(f"re cannot compile the patterns of {', '.join(sorted(set(left_out)))}")
    for title, medians in compare(engines, texts, options.rounds).items():
        ours = medians["driftgate"]
        figures = "".join(
            f"{name:>12} {figure:9.1f}" + (f" (x{figure / ours:.0f})" if name != "driftgate" else "")
            for name, figure in medians.items()
        )
        print(f"{title:28}{figures}")
    if options.sets:
        print("\nwithout one file of rules: µs per 2 KB less than with all")
        fewer = {
            f"driftgate {name}": gated(Engine(RedactionSettings(disable=tuple(entities))))
            for name, entities in families().items()
        }
        found = compare({"driftgate": gated(engine), **fewer}, texts, options.rounds)
        for title, medians in found.items():
            saved = "".join(
                f"  {name.removeprefix('driftgate ')} {medians['driftgate'] - figure:+.1f}"
                for name, figure in medians.items()
                if name != "driftgate"
            )
            print(f"{title:28}{medians['driftgate']:7.1f}{saved}")


if __name__ == "__main__":
    main()
