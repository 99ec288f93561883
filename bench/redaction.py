"""CPU microseconds that redaction takes per 2 KB of text; what ``re`` and Presidio take for the same texts.

    python -P bench/redaction.py [--texts 200] [--rounds 9] [--warm 20] [--disable ENTITY ...] [--sets]

Texts of 2 KB: prose of which 0, 1 and 20 % hold one entity, source code, and high-entropy text (ids, hashes, base64). All
engines read the same texts, interleaved in one run, and every round reads new ones: RE2 builds its automata while it
reads, and a text that was read before costs less than it should. ``--warm`` rounds come first and do not count (ours only).
The figure is the median of the rounds.

"all" has every built-in rule, which is the default; "secrets" only keys, tokens and passwords; "people" e-mail addresses,
telephone numbers, cards, accounts, social security numbers and addresses of machines. ``re`` is one compiled pattern per
rule, without the checks, as a redaction processor without a gate does it; what it cannot compile is left out and named.
With ``presidio-analyzer`` installed (the extra ``ner``) its pattern recognisers run too, without a language model.
``--sets`` prints in addition what each file of rules costs: the time without its entities against the time with all.
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
    # It would fetch a list of top-level domains from the network; a copy comes with it.
    suffixes = importlib.import_module("tldextract.tldextract")
    suffixes.TLD_EXTRACTOR = suffixes.TLDExtract(suffix_list_urls=(), cache_dir=None)
    importlib.import_module("tldextract").extract = suffixes.TLD_EXTRACTOR
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
            sum(bool(r.analyze(text, r.supported_entities, nlp_artifacts=None)) for r in recognizers) > 0
            for text in (raw.decode() for raw in texts)
        )

    return run


def micros(run: Redact, texts: list[bytes]) -> float:
    """Return the CPU microseconds per text of one pass."""
    began = time.process_time()
    run(texts)
    return (time.process_time() - began) / len(texts) * 1e6


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "prose, 0 % hold an entity": lambda rng: prose(rng, 0),
    "prose, 1 %": lambda rng: prose(rng, 0.01),
    "prose, 20 %": lambda rng: prose(rng, 0.2),
    "source code": code,
    "high entropy": entropy,
}


def compare(engines: dict[str, Redact], count: int, rounds: int, warm: int) -> dict[str, dict[str, float]]:
    """Run all engines on all kinds of text, interleaved; return the medians."""
    found: dict[str, dict[str, float]] = {}
    for title, make in KINDS.items():
        taken: dict[str, list[float]] = {name: [] for name in engines}
        rng = random.Random(7)
        for number in range(-warm, rounds):
            corpus = [make(rng) for _ in range(count)]
            for name, run in engines.items():
                # Hundreds of times slower ones see fewer texts.
                if name.startswith("driftgate"):
                    figure = micros(run, corpus)
                elif number >= -1:
                    figure = micros(run, corpus[: max(4, count // 20)])
                if number >= 0:
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
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warm", type=int, default=20)
    parser.add_argument("--disable", nargs="*", default=[])
    parser.add_argument("--sets", action="store_true")
    options = parser.parse_args()
    engine = Engine(RedactionSettings(disable=tuple(options.disable)))
    standard, left_out = standard_library()
    named = families()
    others = {
        name: sorted({entity for file, entities in named.items() if file not in files for entity in entities})
        for name, files in (
            ("secrets", ("credentials", "vendors", "platforms", "passwords")),
            ("people", ("contact", "finance", "identity", "network")),
        )
    }
    engines: dict[str, Redact] = {"driftgate all": gated(engine)}
    for name, entities in others.items():
        kept = {entity for file in named for entity in named[file]} - set(entities)
        engines[f"driftgate {name}"] = gated(
            Engine(rules=[rule for rule in built_in_rules() if rule.name in kept])
        )
    engines["re"] = standard
    if (other := presidio()) is not None:
        engines["presidio"] = other
    print(f"{len(engine.rules)} rules, CPU µs per 2 KB, median of {options.rounds} rounds of new texts")
    if left_out:
        print(f"re cannot compile the patterns of {', '.join(sorted(set(left_out)))}")
    for title, medians in compare(engines, options.texts, options.rounds, options.warm).items():
        ours = medians["driftgate all"]
        figures = "".join(
            f"  {name.removeprefix('driftgate ')} {figure:8.1f}"
            + (f" (x{figure / ours:.0f})" if not name.startswith("driftgate") else "")
            for name, figure in medians.items()
        )
        print(f"{title:28}{figures}")
    if options.sets:
        print("\nwithout one file of rules: µs per 2 KB less than with all")
        fewer = {
            f"driftgate {name}": gated(Engine(RedactionSettings(disable=tuple(entities))))
            for name, entities in named.items()
        }
        found = compare(
            {"driftgate all": gated(engine), **fewer}, options.texts, options.rounds, options.warm
        )
        for title, medians in found.items():
            saved = "".join(
                f"  {name.removeprefix('driftgate ')} {medians['driftgate all'] - figure:+.1f}"
                for name, figure in medians.items()
                if name != "driftgate all"
            )
            print(f"{title:28}{medians['driftgate all']:7.1f}{saved}")


if __name__ == "__main__":
    main()
