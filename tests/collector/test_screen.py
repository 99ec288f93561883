"""Names in sampled traces: a real presidio-analyzer with a model made here, and failures that let nothing pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import spacy
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from collector.screen import Screen
from collector.settings import NerSettings
from driftgate.config import load
from driftgate.runtime.screened import ScreenedSampler
from stream.errors import ConfigError
from stream.stage import Batch, Output, Record, Result

NAME = "Grace Hopper"
CITY = "Arlington"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a spaCy pipeline that knows one person and one place."""
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": NAME}, {"label": "GPE", "pattern": CITY}])
    folder = tmp_path_factory.mktemp("model") / "names"
    pipeline.to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def screen(model: Path) -> Screen:
    return Screen(NerSettings(model=str(model)))


def record(**attributes: str) -> TracesData:
    data = TracesData()
    group = data.resource_spans.add()
    group.resource.attributes.add(key="owner").value.string_value = f"team of {NAME}"
    span = group.scope_spans.add().spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, name="chat")
    for key, value in attributes.items():
        span.attributes.add(key=key).value.string_value = value
    return data


def screened(screen: Screen, data: TracesData) -> tuple[TracesData, dict[str, int]]:
    result = screen.record(data.SerializeToString())
    return TracesData.FromString(result.value), result.counters


def span_of(data: TracesData) -> Span:
    return data.resource_spans[0].scope_spans[0].spans[0]


def value(data: TracesData, index: int = 0) -> str:
    return span_of(data).attributes[index].value.string_value


def test_json_with_equal_keys_or_lone_surrogates_hides_nothing_and_breaks_nothing(screen: Screen) -> None:
    sent = record(
        twice=f'{{"a":"by {NAME}","a":"by others"}}',
        inner=json.dumps({"x": f'{{"a":"by {NAME}","a":"by others"}}'}),
        surrogate=f'{{"a":"by {NAME}","b":"\\ud83d"}}',
    )
    got, _ = screened(screen, sent)
    assert value(got, 0) == '{"a":"by others"}'
    assert json.loads(value(got, 1)) == {"x": '{"a":"by others"}'}
    assert value(got, 2) == '{"a":"by [PERSON]","b":"\\ud83d"}'


def test_names_become_tags_wherever_text_stands_and_the_rest_stays(screen: Screen) -> None:
    messages = json.dumps([{"role": "user", "content": f"I am {NAME}\nfrom {CITY}.", "n": 1}])
    nested = json.dumps({"arguments": json.dumps({"to": f"write to {NAME}"})})
    sent = record(plain=f"Dear {NAME}, hello", messages=messages, nested=nested, clean="Nothing to see here")
    span = span_of(sent)
    inner = (
        span.attributes.add(key="map").value.kvlist_value.values.add(key="k").value.array_value.values.add()
    )
    inner.string_value = f"by {NAME}"
    span.status.message = f"{NAME} is not known"
    span.events.add(name="e").attributes.add(key="x").value.string_value = f"{CITY} calling"
    got, counters = screened(screen, sent)
    assert value(got) == "Dear [PERSON], hello"
    assert json.loads(value(got, 1)) == [
        {"role": "user", "content": "I am [PERSON]\nfrom [LOCATION].", "n": 1}
    ]
    assert json.loads(json.loads(value(got, 2))["arguments"]) == {"to": "write to [PERSON]"}
    assert NAME.encode() not in got.SerializeToString()
    assert CITY.encode() not in got.SerializeToString()
    expected = record(
        plain=value(got), messages=value(got, 1), nested=value(got, 2), clean="Nothing to see here"
    )
    span_of(expected).MergeFrom(
        Span(attributes=span_of(got).attributes[4:], events=span_of(got).events, status=span_of(got).status)
    )
    expected.resource_spans[0].resource.CopyFrom(got.resource_spans[0].resource)
    assert got == expected
    assert counters["screened.PERSON"] == 6
    assert counters["screened.LOCATION"] == 2


def test_what_holds_no_name_is_not_written_anew(screen: Screen) -> None:
    document = '{"a" : [1.50, "no name here"],\n "b": "x"}'
    data = record(json=document, id="sess-123")
    data.resource_spans[0].resource.Clear()
    got, _ = screened(screen, data)
    assert value(got) == document
    assert got == data
    again, counters = screened(screen, screened(screen, record(a=f"for {NAME}"))[0])
    assert value(again) == "for [PERSON]"
    assert "screened.PERSON" not in counters


def test_only_the_entities_asked_for(model: Path) -> None:
    screen = Screen(NerSettings(model=str(model), entities=("PERSON",)))
    assert value(screened(screen, record(a=f"{NAME} in {CITY}"))[0]) == f"[PERSON] in {CITY}"


class Broken:
    def find(self, text: str) -> list[tuple[int, int, str]]:
        raise RuntimeError(text)


class Slow:
    def __init__(self) -> None:
        self.now = 0.0

    def find(self, text: str) -> list[tuple[int, int, str]]:
        self.now += 15.0
        return []


@pytest.mark.parametrize("on_failure", ["blank", "keep"])
def test_what_cannot_be_looked_at_is_blanked_unless_the_configuration_says_otherwise(
    model: Path, on_failure: Any
) -> None:
    settings = NerSettings(model=str(model), on_failure=on_failure)
    got, counters = screened(Screen(settings, Broken()), record(a=f"Dear {NAME}", id="sess-123"))
    assert value(got) == ("[UNSCREENED]" if on_failure == "blank" else f"Dear {NAME}")
    assert value(got, 1) == "sess-123"
    assert counters == {"screen_failures.failed": 2, "texts_screened": 2}


def test_texts_records_and_time_are_bounded(model: Path) -> None:
    bounds = NerSettings(model=str(model), max_text_bytes=256, max_record_bytes=1024)
    long = screened(Screen(bounds), record(a=f"{NAME} " * 30, b=f"by {NAME}"))
    assert value(long[0]) == "[UNSCREENED]"
    assert value(long[0], 1) == "by [PERSON]"
    assert long[1]["screen_failures.too_long"] == 1
    many = screened(Screen(bounds), record(**{f"k{number}": f"{NAME} {'x' * 200}" for number in range(8)}))
    assert NAME.encode() not in many[0].SerializeToString()
    assert many[1]["screen_failures.too_much"] == 4
    slow = Slow()
    late = screened(
        Screen(NerSettings(model=str(model)), slow, lambda: slow.now),
        record(a="one two", b="three four", c="five six"),
    )
    assert late[1]["screen_failures.timeout"] == 2
    assert value(late[0], 2) == "[UNSCREENED]"


def test_the_samplers_records_are_screened_and_its_books_stay(screen: Screen) -> None:
    class Sampler:
        name, topics = "sampler", ("otlp_spans", "otlp_logs")

        def assign(self, partition: int, state: Any) -> None: ...

        def revoke(self, partition: int) -> None: ...

        def process(self, batch: Batch) -> Result:
            value = record(a=f"Dear {NAME}").SerializeToString()
            return Result(
                outputs=[
                    Output("traces.sampled", value, b"key", (("lane", b"uniform"),)),
                    Output("other", value),
                ],
                counters={"spans_kept": 1},
            )

    stage = ScreenedSampler(Sampler(), screen)
    result = stage.process(Batch([Record("otlp_spans", 0, 0, b"")], 0))
    kept, other = result.outputs
    assert (kept.key, kept.headers) == (b"key", (("lane", b"uniform"),))
    assert NAME.encode() not in kept.value
    assert NAME.encode() in other.value
    assert result.counters["spans_kept"] == 1
    assert result.counters["screened.PERSON"] == 2


def test_a_model_that_is_not_there_refuses_to_start_and_downloads_nothing() -> None:
    with pytest.raises(ConfigError, match=r"no spaCy model 'en_nothing_sm'.*nothing is downloaded"):
        Screen(NerSettings(model="en_nothing_sm"))


def test_names_may_not_reach_the_store_around_the_screen(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "driftgate.yaml"
    file.write_text(f"collector: {{redaction: {{ner: {{model: {model}}}}}}}\n")
    with pytest.raises(ConfigError, match=r"store\.spans: none"):
        load(file, {})
    file.write_text(file.read_text() + "store: {spans: none}\n")
    assert load(file, {}).collector.redaction.ner is not None
