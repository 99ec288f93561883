"""The built-in rubrics: what they say, and when they say that they do not apply."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError

from scorers.api import Failed, Score, Scorer, Skipped
from scorers.languages import detect
from scorers.refusals import refusal_in
from scorers.registry import builtin
from scorers.rubrics.banned_phrases import BannedPhrases
from scorers.rubrics.cost import Cost
from scorers.rubrics.error import Error
from scorers.rubrics.groundedness_lexical import GroundednessLexical
from scorers.rubrics.json_schema import JsonSchema
from scorers.rubrics.language import Language
from scorers.rubrics.latency import Latency
from scorers.rubrics.length import Length
from scorers.rubrics.refusal import Refusal
from scorers.rubrics.required_phrases import RequiredPhrases
from scorers.rubrics.tool_calls import ToolCalls
from scorers.schema import Schema, SchemaUnusable
from stream.interaction import Document, Interaction, Message, Part, ToolCall, ToolDefinition, Usage


def said(answer: str = "", question: str = "", **more: Any) -> Interaction:
    """An interaction that answers ``answer``."""
    return Interaction(
        input_messages=[Message("user", [Part("text", question)])] if question else [],
        output_messages=[Message("assistant", [Part("text", answer)])] if answer else [],
        **more,
    )


def outcome(answer: Any) -> Any:
    """A value with its label, or the reason why there is none."""
    assert isinstance(answer, Score | Skipped | Failed)
    return (float(answer.value or 0), answer.label) if isinstance(answer, Score) else answer.reason


def test_all_rubrics_are_found() -> None:
    """One file each, found by name."""
    assert sorted(builtin()) == [
        "banned_phrases",
        "cost",
        "error",
        "groundedness_lexical",
        "json_schema",
        "language",
        "latency",
        "length",
        "refusal",
        "required_phrases",
        "tool_calls",
    ]


def test_error() -> None:
    """Status decides, the type is the label."""
    assert outcome(Error().score(said(status="error", error_type="timeout"))) == (0, "timeout")
    assert outcome(Error().score(said())) == (1, "ok")


def test_latency() -> None:
    """Limits are inclusive; unknown is skipped."""
    rubric = Latency(limit="2s", first_chunk_limit="500ms")
    assert outcome(rubric.score(said(latency_s=2.0))) == (1, "in_time")
    assert outcome(rubric.score(said(latency_s=2.1))) == (0, "slow")
    assert outcome(rubric.score(said(latency_s=1.0, time_to_first_chunk=0.6))) == (0, "slow_first_chunk")
    assert outcome(rubric.score(said())) == "no_latency"


def test_cost() -> None:
    """The reported cost, else tokens times prices."""
    assert outcome(Cost(limit_usd=0.1).score(said(cost_usd=0.1))) == (1, "within")
    assert outcome(Cost(limit_usd=0.1).score(said(cost_usd=0.2))) == (0, "over")
    priced = Cost(limit_usd=0.1, input_usd_per_million=10, output_usd_per_million=100)
    assert outcome(priced.score(said(usage=Usage(5_000, 400)))) == (1, "within")
    assert outcome(priced.score(said(usage=Usage(5_000, 600)))) == (0, "over")
    assert outcome(priced.score(said())) == "no_cost"
    assert outcome(Cost().score(said(usage=Usage(5_000, 600)))) == "no_cost"


def test_length() -> None:
    """Limits in characters; tool-only answers have no length, an empty answer is too short."""
    rubric = Length(min_chars=3, max_chars=5)
    assert [outcome(rubric.score(said(text))) for text in ("ab", "abc", "abcdef")] == [
        (0, "too_short"),
        (1, "in_range"),
        (0, "too_long"),
    ]
    assert outcome(rubric.score(said())) == "no_content"
    call = Interaction(output_messages=[Message("assistant", [Part("tool_call", name="t")])])
    assert outcome(rubric.score(call)) == "no_text"
    empty = Interaction(
        input_messages=[Message("user", [Part("text", "hi")])], output_messages=[Message("assistant")]
    )
    assert outcome(rubric.score(empty)) == (0, "too_short")
    with pytest.raises(ValidationError, match="must not be above"):
        Length(min_chars=9, max_chars=5)


def test_banned_and_required_phrases() -> None:
    """Case and spacing do not matter, word boundaries do; patterns are RE2."""
    banned = BannedPhrases(phrases=["money  back", "über"], patterns=[r"\b\d{3}-\d{4}\b"])
    assert outcome(banned.score(said("We give MONEY\nBACK."))) == (0, "banned")
    assert outcome(banned.score(said("call 555-1234"))) == (0, "banned")
    assert outcome(banned.score(said("moneyback, money backs"))) == (1, "clean")
    assert outcome(banned.score(said("ÜBER alles"))) == (0, "banned")
    assert outcome(banned.score(said())) == "no_content"
    required = RequiredPhrases(phrases=["kind regards", "ticket"])
    assert outcome(required.score(said("Your ticket. Kind regards"))) == (1, "complete")
    half = required.score(said("Your ticket"))
    assert outcome(half) == (0.5, "missing")
    assert "kind regards" in half.explanation
    for options in ({}, {"patterns": ["(?=lookahead)"]}):
        with pytest.raises(ValidationError):
            BannedPhrases(**options)


REFUSALS = [
    "I'm sorry, but I can't help with that request.",
    "I’m sorry, I cannot assist with that.",
    "As an AI language model, I cannot answer this question.",
    "Unfortunately, I am unable to provide this information.",
    "I must respectfully decline.",
    "I'm not able to discuss that topic.",
    "I won't provide instructions for this.",
    "I am not comfortable with answering this.",
    "Es tut mir leid, aber dabei kann ich Ihnen nicht helfen.",
    "Ich kann dir dabei leider nicht helfen.",
    "Je suis désolé, mais je ne peux pas vous aider avec cela.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "Mi dispiace, non posso aiutarti.",
    "Desculpe, mas não posso ajudar com isso.",
]
ANSWERS = [
    "Refunds are paid within five working days.",
    "I can't stress enough how important a backup is.",
    "You cannot cancel an order that has shipped, but you can return it.",
    "Sorry to hear that! Your parcel arrives tomorrow.",
    "I cannot help but admire the question. The answer is 42.",
    "The model cannot answer questions about images; use the vision endpoint.",
    "If the app says 'I can't connect', restart it.",
    "Unfortunately the item is out of stock until May.",
    "As an AI company, we publish a report each year.",
    "Leider ist der Artikel nicht auf Lager.",
    "x" * 400 + " I'm sorry, but I can't help with that.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_recognised(text: str) -> None:
    """The words of common models, in six languages."""
    assert outcome(Refusal().score(said(text))) == (0, "refused")


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_no_refusals(text: str) -> None:
    """Words that only look like a refusal."""
    assert refusal_in(text) == ""


def test_refusal_by_finish_reason() -> None:
    """A filter that stopped the answer refused it, with or without words."""
    assert outcome(Refusal().score(said(finish_reasons=["content_filter"]))) == (0, "filtered")
    assert outcome(Refusal().score(said())) == "no_content"


def test_json_schema() -> None:
    """The whole answer must be JSON that satisfies the schema."""
    rubric = JsonSchema(json_schema={"type": "object", "required": ["city"]})
    assert outcome(rubric.score(said('{"city": "Paris"}'))) == (1, "valid")
    broken = rubric.score(said('{"secret": "x"}'))
    assert outcome(broken) == (0, "invalid")
    assert broken.explanation == "$: required"
    assert outcome(rubric.score(said("Paris"))) == (0, "not_json")
    assert outcome(rubric.score(said('```json\n{"city": "Paris"}\n```'))) == (0, "not_json")
    fenced = JsonSchema(json_schema={"type": "object", "required": ["city"]}, allow_fence=True)
    assert outcome(fenced.score(said('```json\n{"city": "Paris"}\n```'))) == (1, "valid")
    assert outcome(rubric.score(said())) == "no_content"
    assert outcome(JsonSchema().score(said("[1]"))) == "json_not_expected"
    assert outcome(JsonSchema().score(said("[1]", output_type="json"))) == (1, "valid")
    assert outcome(JsonSchema().score(said("[1", output_type="json"))) == (0, "not_json")
    with pytest.raises(ValidationError):
        JsonSchema(json_schema={"type": "no-such-type"})


WEATHER = ToolDefinition("weather", "", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})  # fmt: skip


def test_tool_calls() -> None:
    """Names and arguments against the declared tools."""

    def score(*calls: ToolCall, tools: list[ToolDefinition] | None = None) -> Any:
        tools = [WEATHER, ToolDefinition("now")] if tools is None else tools
        return outcome(ToolCalls().score(Interaction(tool_calls=list(calls), tool_definitions=tools)))

    good = ToolCall("weather", arguments={"city": "Paris"})
    assert score(good, ToolCall("now", arguments="")) == (1, "valid")
    assert score(good, ToolCall("launch", arguments={})) == (0.5, "invalid")
    assert score(ToolCall("weather", arguments={"city": 5})) == (0, "invalid")
    assert score(ToolCall("weather", arguments='{"city": ')) == (0, "invalid")
    assert score(ToolCall("weather", arguments=None)) == (1, "valid")
    assert score() == "no_tool_calls"
    assert score(good, tools=[]) == "no_tool_definitions"
    unusable = ToolDefinition("weather", "", {"type": 7})
    assert score(good, tools=[unusable]) == (1, "valid")
    # All checks of one interaction share their steps: the last calls are judged by their names.
    names = [f"n{number}" for number in range(10_000)]
    heavy = ToolDefinition("heavy", "", {"properties": {"of": {"items": {"enum": names}}}})
    checked, left, bad = (
        ToolCall("heavy", arguments={"of": ["x"] * 15}),
        good,
        ToolCall("weather", arguments={}),
    )
    assert score(checked, bad, tools=[WEATHER, heavy]) == (0, "invalid")
    value, label = score(checked, checked, bad, left, tools=[WEATHER, heavy])
    assert (value, label) == (0.75, "invalid")


def test_schemas_of_strangers_are_harmless() -> None:
    """References are not fetched, cannot multiply or loop without end, and patterns run in linear time."""
    with pytest.raises(SchemaUnusable, match="not part of it"):
        Schema({"$ref": "http://127.0.0.1:9/schema.json"}).problem({})
    with pytest.raises(SchemaUnusable):
        Schema({"$ref": "#"}).problem({})
    laughs = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 10} for n in range(10)}
    start = time.monotonic()
    with pytest.raises(SchemaUnusable, match="multiply"):
        Schema({"$ref": "#/$defs/d0", "$defs": {**laughs, "d10": {}}}).problem({})
    slow = Schema({"pattern": "^(a+)+$"})
    assert slow.problem("a" * 50_000 + "!") == "$: pattern"
    assert time.monotonic() - start < 20  # either would take years
    with pytest.raises(SchemaUnusable, match="RE2"):
        Schema({"pattern": "(?=a)"}).problem("a")
    with pytest.raises(SchemaUnusable, match="patternProperties"):
        Schema({"patternProperties": {"^(a+)+$": {}}})


LONG = [f"a{number}" for number in range(30_000)]
LARGE: list[Any] = list(range(100_000))


@pytest.mark.parametrize(
    ("schema", "instance"),
    [
        ({"items": {"enum": [f"b{number}" for number in range(10_000)]}}, LONG),
        ({"anyOf": [{"type": "string"}] * 1_000}, LARGE),  # each error repeats all of it
        ({"items": True, "unevaluatedItems": False}, LARGE),
    ],
)
def test_checks_that_would_take_hours_are_given_up(schema: dict[str, Any], instance: Any) -> None:
    """Nobody waits for a check whose steps are the product of a large schema and a large instance."""
    with pytest.raises(SchemaUnusable, match="steps"):
        Schema(schema).problem(instance)


def test_items_that_must_differ_are_compared_in_linear_time() -> None:
    """Also where they cannot be sorted, in instances and in schemas; equal is what JSON Schema says."""
    differ = Schema({"uniqueItems": True})
    assert differ.problem([1, *LONG]) == ""
    assert differ.problem([1, *LONG, "a7"]) == "$: uniqueItems"
    assert differ.problem([1, True, "1", 0, False, None, [], {}, [1], [True]]) == ""
    assert differ.problem([{"a": [1, 2]}, {"a": [1.0, 2]}]) == "$: uniqueItems"
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "enum": [1, *LONG[:20_000]]}
    assert Schema(old).problem("a19999") == ""
    with pytest.raises(SchemaUnusable, match="not a valid"):
        Schema({**old, "enum": [1, "a", 1]})
    # What is large and plain is still checked.
    assert Schema({"items": {"type": "integer", "minimum": 0}}).problem(LARGE[:60_000]) == ""


DOCUMENT = Document(
    content="Refunds are paid within five working days after the returned parcel reaches our warehouse. "
    "Opened headphones can be returned within 30 days. Orders above 1,000 euros ship free."
)


def test_groundedness() -> None:
    """Sentences whose words stand in the documents, and numbers that do."""

    def score(answer: str, question: str = "How long does a refund take?", **options: Any) -> Any:
        found = GroundednessLexical(**options).score(said(answer, question, documents=[DOCUMENT]))
        return found.value if isinstance(found, Score) else found.reason

    assert score("Refunds are paid within five working days after the parcel reaches the warehouse.") == 1
    assert score("A refund is paid within five working days. The parcel must reach our warehouse.") == 1
    assert score("Refunds arrive instantly as store credit with a bonus voucher.") == 0
    assert score("Opened headphones can be returned within 90 days.") == 0
    assert score("Orders above 1000 euros ship free.") == 1
    mixed = score(
        "Refunds are paid within five working days. Our friendly astronauts deliver chocolate everywhere."
    )
    assert 0.3 < mixed < 0.7
    assert score("Of course! Refunds are paid within five working days.") == 1
    assert score("Yes.") == "no_claims"
    assert score("I'm sorry, but I can't help with that request.") == "refusal"


def test_groundedness_needs_documents() -> None:
    """Without anything to compare with there is no score."""
    rubric = GroundednessLexical()
    answer = "Refunds are paid within five working days."
    assert outcome(rubric.score(said(answer))) == "no_documents"
    assert outcome(rubric.score(said(answer, documents=[Document("id-only")]))) == "no_document_content"
    assert outcome(rubric.score(said("", documents=[DOCUMENT]))) == "no_content"
    system = said(answer, system_instructions=[Part("text", DOCUMENT.content)])
    assert outcome(GroundednessLexical(context="documents_and_system").score(system)) == (1, "")


LANGUAGES = {
    "en": "The parcel will arrive on Monday and you can follow it with the number in the message.",
    "de": "Das Paket kommt am Montag an und Sie können es mit der Nummer in der Nachricht verfolgen.",
    "fr": "Le colis arrive lundi et vous pouvez le suivre avec le numéro qui est dans le message.",
    "es": "El paquete llega el lunes y puede seguirlo con el número que está en el mensaje.",
    "it": "Il pacco arriva lunedì e può seguirlo con il numero che è nel messaggio della spedizione.",
    "pt": "O pacote chega na segunda-feira e você pode acompanhar com o número que está na mensagem.",
    "nl": "Het pakket komt op maandag aan en u kunt het volgen met het nummer dat in het bericht staat.",
    "ru": "Посылка придёт в понедельник.",
    "ja": "荷物は月曜日に届きます。",
    "zh": "包裹将于星期一送达。",
    "ko": "소포는 월요일에 도착합니다.",
    "ar": "سيصل الطرد يوم الاثنين.",
}


@pytest.mark.parametrize("code", LANGUAGES)
def test_language_is_recognised(code: str) -> None:
    """One sentence each."""
    assert detect(LANGUAGES[code]) == code


def test_language() -> None:
    """The configured languages, or that of the question."""
    assert outcome(Language(expected=["de", "fr"]).score(said(LANGUAGES["de"]))) == (1, "de")
    assert outcome(Language(expected=["fr"]).score(said(LANGUAGES["de"]))) == (0, "de")
    assert outcome(Language().score(said(LANGUAGES["en"], LANGUAGES["en"]))) == (1, "en")
    assert outcome(Language().score(said(LANGUAGES["en"], LANGUAGES["ja"]))) == (0, "en")
    assert outcome(Language().score(said(LANGUAGES["en"], "ok?"))) == "question_undetermined"
    assert outcome(Language().score(said("42"))) == "undetermined"
    assert outcome(Language().score(said())) == "no_content"
    with pytest.raises(ValidationError, match="cannot recognise"):
        Language(expected=["tlh"])


@pytest.mark.parametrize("name", sorted(builtin()))
def test_long_answers_are_no_trouble(name: str) -> None:
    """A megabyte of words, of one letter, of opening brackets."""
    options: dict[str, Any] = {"phrases": ["zzz"]} if "phrases" in name else {}
    rubric: Scorer = builtin()[name](**options)
    for text in (
        "refund sorry i can't " * 50_000,
        "a" * 1_000_000,
        "[" * 1_000_000,
        "I " + "as an ai " * 100_000,
    ):
        answer = rubric.score(said(text, text, documents=[Document(content=text)], output_type="json"))
        assert isinstance(answer, Score | Skipped | Failed)
