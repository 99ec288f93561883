"""Judges against a real HTTP server that speaks the OpenAI API and fails as told."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scorers.api import Answer, Failed, Score, Skipped
from scorers.judge import Judge
from scorers.settings import JudgeSettings
from scorers.testing import Fault, HangUp, Raw, Script, ScriptedJudge, Silence
from stream.interaction import Document, Interaction, Message, Part, ToolCall, ToolDefinition

DAY_NS = 86_400 * 10**9
NOW = 20_000 * DAY_NS + 5
PRICES = {"input_usd_per_million": 1_000.0, "output_usd_per_million": 1_000.0}  # 0.12 USD per scripted call


def said(answer: str, question: str = "How long?") -> Interaction:
    return Interaction(
        trace_id="ab",
        input_messages=[Message("user", [Part("text", question)])],
        output_messages=[Message("assistant", [Part("text", answer)])],
        documents=[Document(content="Five days.")],
    )


def settings(server: ScriptedJudge, /, **changes: Any) -> JudgeSettings:
    given = {"rubric": "groundedness", "model": "openai/scripted", "api_base": server.url, "backoff": 0}
    return JudgeSettings(**{**given, **changes})


def ask(judge: Judge, *answers: str, at: int = NOW) -> list[Answer]:
    """Judge these answers one after the other."""

    async def run() -> list[Answer]:
        return [await judge.score(said(answer)) for answer in answers]

    judge.tick(at)
    return asyncio.run(run())


def together(judge: Judge, answers: Sequence[str]) -> list[Answer]:
    """Judge these answers all at once."""

    async def run() -> list[Answer]:
        return list(await asyncio.gather(*(judge.score(said(answer)) for answer in answers)))

    judge.tick(NOW)
    return asyncio.run(run())


def reasons(answers: list[Answer]) -> list[str]:
    return ["" if isinstance(answer, Score) else answer.reason for answer in answers]


def test_levels_become_values() -> None:
    """Worst is 0, best is 1, with explanation, tokens and identity."""
    with ScriptedJudge(1, 3, 5) as model:
        judge = Judge(settings(model))
        found = ask(judge, "a", "b", "c")
    assert [answer.value for answer in found if isinstance(answer, Score)] == [0.0, 0.5, 1.0]
    assert found[0] == Score(0.0, "1", "scripted", "", 0.0, 100, 20)
    evaluator = judge.evaluator()
    assert (evaluator.id, evaluator.kind, evaluator.model) == ("groundedness", "judge", "openai/scripted")
    assert evaluator.prompt_hash


def test_identity_changes_with_what_shapes_answers() -> None:
    """Model, policy, temperature and samples start a new baseline; key, address and time limits do not."""
    first = {"rubric": "toxicity", "model": "openai/a"}

    def identity(**changes: Any) -> str:
        return Judge(JudgeSettings(**{**first, **changes})).evaluator().identity

    assert identity() == identity(timeout=5, api_base="http://localhost", budget_usd_per_day=1, name="tox")
    others = [
        identity(model="openai/b"),
        identity(policy="x"),
        identity(temperature=None),
        identity(samples=3),
    ]
    assert len({identity(), *others}) == 5


@pytest.mark.parametrize(
    ("script", "reason", "calls"),
    [
        (["prose only", "{}", '{"score": 9}', 4], "unparsable", 3),
        ([Raw(b"garbage")] * 3, "unavailable", 3),
        ([Raw(b'{"choices": []}')] * 3, "unparsable", 3),
        ([HangUp()] * 3, "unavailable", 3),
        ([Fault(500)] * 3, "unavailable", 3),
        ([Fault(429, retry_after=0)] * 3, "rate_limited", 3),
        ([Silence()] * 3, "timeout", 3),
        ([Fault(400, code="context_length_exceeded")], "too_long", 1),
    ],
    ids=["prose", "garbage", "no choices", "hang up", "500", "429", "nothing", "too long"],
)
def test_what_cannot_be_used_fails_by_name(script: list[Script], reason: str, calls: int) -> None:
    """A bounded number of attempts, then a failure with its reason."""
    with ScriptedJudge(*script) as model:
        silent = any(isinstance(answer, Silence) for answer in script)
        found = ask(Judge(settings(model, timeout=0.5 if silent else 30, attempts=3)), "a")
        assert len(model.requests) == calls
    assert reasons(found) == [reason]
    assert isinstance(found[0], Failed)


def test_a_later_attempt_may_succeed() -> None:
    """Prose, an error and a request to wait, then an answer: the score is there, and all answers are paid for."""
    with ScriptedJudge("I would say it is fine.", Fault(503), Fault(429, retry_after=0), 4) as model:
        judge = Judge(settings(model, attempts=4, **PRICES))
        found = ask(judge, "a")
    assert isinstance(found[0], Score)
    assert found[0].value == 0.75
    assert found[0].cost_usd == pytest.approx(0.24)
    assert judge.status().spent_usd_today == pytest.approx(0.24)


def test_retry_after_is_honoured() -> None:
    """A short wait is waited, and not the backoff of an hour; a long one blocks the judge until then."""
    with ScriptedJudge(Fault(429, retry_after=0.01), 5, Fault(429, retry_after=120), 5) as model:
        judge = Judge(settings(model, backoff=60, max_wait=10))
        assert isinstance(ask(judge, "a")[0], Score)
        assert reasons(ask(judge, "b", "c")) == ["judge_blocked:rate_limited"] * 2
        assert len(model.requests) == 3
        status = judge.status()
        assert status.blocked == "rate_limited"
        assert status.blocked_until_unix_nano == NOW + 120 * 10**9
        assert reasons(ask(judge, "d", at=NOW + 119 * 10**9)) == ["judge_blocked:rate_limited"]
        assert isinstance(ask(judge, "d", at=NOW + 121 * 10**9)[0], Score)
        assert judge.status().blocked == ""


def test_retry_after_may_be_a_date() -> None:
    """A date is read on the server's own clock."""
    with ScriptedJudge(Fault(503, retry_after="Wed, 21 Oct 2099 07:28:00 GMT")) as model:
        assert reasons(ask(Judge(settings(model)), "a")) == ["judge_blocked:unavailable"]


@pytest.mark.parametrize("wait", ["inf", "1e400", "99999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_an_endpoint_cannot_block_a_judge_for_ever(wait: str) -> None:
    """A wait without end, or of thousands of years, is one of a day."""
    with ScriptedJudge(Fault(429, retry_after=wait), default=5) as model:
        judge = Judge(settings(model))
        assert reasons(ask(judge, "a")) == ["judge_blocked:rate_limited"]
        assert judge.status().blocked_until_unix_nano == NOW + DAY_NS
        assert reasons(ask(judge, "a", at=NOW + DAY_NS)) == [""]


def test_usage_below_nothing_earns_no_money() -> None:
    """An endpoint that tells negative tokens does not fill the budget up again."""
    with ScriptedJudge(default=5, prompt_tokens=-5_000, completion_tokens=20) as model:
        judge = Judge(settings(model, **PRICES))
        (score,) = ask(judge, "a")
        assert isinstance(score, Score)
        assert (score.input_tokens, score.output_tokens, score.cost_usd) == (0, 20, pytest.approx(0.02))
        assert judge.status().spent_usd_today == pytest.approx(0.02)


def test_what_was_paid_before_a_block_is_told() -> None:
    """The first of two samples was paid for: a record that says so is what the budget is rebuilt from."""
    with ScriptedJudge(5, Fault(401)) as model:
        judge = Judge(settings(model, samples=2, **PRICES))
        (answer,) = ask(judge, "a")
        assert isinstance(answer, Failed)
        assert (answer.reason, answer.cost_usd) == ("judge_blocked:auth", pytest.approx(0.12))
        assert judge.status().blocked == "auth"


def test_a_clock_that_was_days_ahead_is_put_right() -> None:
    """The money of the wrong day, and a block until its end, do not outlive the correction."""
    with ScriptedJudge(default=5) as model:
        judge = Judge(settings(model, budget_usd_per_day=0.25, max_output_tokens=16, **PRICES))
        wrong = NOW + 400 * DAY_NS
        ask(judge, "a", "b", "c", at=wrong)
        assert judge.status().blocked == "budget"
        judge.tick(wrong - 3600 * 10**9)  # a little back is no correction
        assert judge.status().blocked == "budget"
        judge.tick(NOW)
        assert (judge.status().blocked, judge.status().spent_usd_today) == ("", 0.0)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(401), "auth"),
        (Fault(403), "auth"),
        (Fault(402), "billing"),
        (Fault(429, code="insufficient_quota"), "billing"),
        (Fault(404), "model_unavailable"),
    ],
)
def test_refused_keys_bills_and_models_block(fault: Fault, why: str) -> None:
    """One call finds out, the others are skipped with the reason; later one call tries again."""
    with ScriptedJudge(fault, default=5) as model:
        judge = Judge(settings(model, blocked_pause=300))
        assert reasons(ask(judge, "a", "b", "c")) == [f"judge_blocked:{why}"] * 3
        assert len(model.requests) == 1
        assert judge.status().blocked == why
        assert judge.status().detail
        assert reasons(ask(judge, "a", "b", at=NOW + 301 * 10**9)) == ["", ""]


def test_circuit_breaker() -> None:
    """Failures in a row block; one probe decides about going on."""
    with ScriptedJudge(*["prose"] * 4, default=5) as model:
        judge = Judge(settings(model, attempts=1, breaker_failures=3, breaker_pause=30))
        assert reasons(ask(judge, "a", "b", "c", "d")) == ["unparsable"] * 3 + ["judge_blocked:circuit_open"]
        later = NOW + 31 * 10**9
        assert reasons(ask(judge, "e", "f", at=later)) == ["unparsable", "judge_blocked:circuit_open"]
        assert len(model.requests) == 4
        assert reasons(ask(judge, "g", "h", at=later + 31 * 10**9)) == ["", ""]


def test_only_one_probe_at_a_time() -> None:
    """After the pause many scores want in; one goes."""
    with ScriptedJudge("prose", default="prose") as model:
        judge = Judge(settings(model, attempts=1, breaker_failures=1, breaker_pause=1, concurrency=8))
        ask(judge, "a")
        judge.tick(NOW + 2 * 10**9)
        found = together_at(judge, [str(n) for n in range(6)])
        assert reasons(found).count("unparsable") == 1
        assert len(model.requests) == 2


def together_at(judge: Judge, answers: Sequence[str]) -> list[Answer]:
    async def run() -> list[Answer]:
        return list(await asyncio.gather(*(judge.score(said(answer)) for answer in answers)))

    return asyncio.run(run())


def test_budget_holds_even_for_many_at_once() -> None:
    """Calls under way count with the most they can cost; the rest is skipped by name, and the next day is new."""
    with ScriptedJudge(default=5) as model:
        # 0.12 per call; the reservation is about 1.5
        judge = Judge(settings(model, budget_usd_per_day=2.0, max_output_tokens=16, concurrency=32, **PRICES))
        first = together(judge, [str(n) for n in range(40)])
        assert 1 <= reasons(first).count("") <= 16
        assert set(reasons(first)) == {"", "judge_blocked:budget"}
        ask(judge, *(f"again {n}" for n in range(40)))
        status = judge.status()
        assert status.spent_usd_today <= 2.0
        assert status.blocked == "budget"
        assert "of 2.0 USD" in status.detail
        assert len(model.requests) * 0.12 == pytest.approx(status.spent_usd_today)
        assert reasons(ask(judge, "tomorrow", at=NOW + DAY_NS)) == [""]


def test_no_money_and_unknown_prices() -> None:
    """A budget of nothing blocks; so does a budget for a model whose price nobody knows."""
    with ScriptedJudge() as model:
        assert reasons(ask(Judge(settings(model, budget_usd_per_day=0)), "a")) == [
            "judge_blocked:price_unknown"
        ]
        assert reasons(ask(Judge(settings(model, budget_usd_per_day=0, **PRICES)), "a")) == [
            "judge_blocked:budget"
        ]
        assert reasons(ask(Judge(settings(model, budget_usd_per_day=5)), "a")) == [
            "judge_blocked:price_unknown"
        ]
        assert model.requests == []
        assert reasons(ask(Judge(settings(model)), "a")) == [""]
        assert reasons(
            ask(Judge(settings(model, budget_usd_per_day=5, model="openai/gpt-4o-mini")), "a")
        ) == [""]


def test_missing_key_blocks_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never silently skipped: the status names the variable."""
    for name in ("OPENAI_API_KEY", "NO_SUCH_VARIABLE"):
        monkeypatch.delenv(name, raising=False)
    by_reference = Judge(
        JudgeSettings(rubric="toxicity", model="openai/gpt-4o-mini", api_key="${env:NO_SUCH_VARIABLE}")  # type: ignore[arg-type]
    )
    assert reasons(ask(by_reference, "a")) == ["judge_blocked:no_key"]
    assert "NO_SUCH_VARIABLE" in by_reference.status().detail
    by_default = Judge(JudgeSettings(rubric="toxicity", model="openai/gpt-4o-mini"))
    assert reasons(ask(by_default, "a")) == ["judge_blocked:no_key"]
    assert "OPENAI_API_KEY" in by_default.status().detail


def test_the_key_is_sent_and_calls_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway on the way can tell judge calls from its users'."""
    key = "sk-" + "test" * 5
    monkeypatch.setenv("JUDGE_KEY", key)
    with ScriptedJudge() as model:
        judge = Judge(settings(model, api_key="${env:JUDGE_KEY}"))
        ask(judge, "a")
        headers, request = model.headers[0], model.requests[0]
    assert headers["authorization"] == f"Bearer {key}"
    assert headers["x-driftgate-judge"] == "1"
    assert request["temperature"] == 0
    assert request["response_format"]["type"] == "json_schema"
    assert key not in repr(judge.status())


def test_equal_content_is_judged_once() -> None:
    """From memory later, and by waiting while the first call is under way; remembered answers cost nothing."""
    with ScriptedJudge(default=4) as model:
        judge = Judge(settings(model, **PRICES))
        at_once = together(judge, ["same"] * 5 + ["other"])
        assert len(model.requests) == 2
        assert sum(answer.cost_usd for answer in at_once if isinstance(answer, Score)) == pytest.approx(0.24)
        later = ask(judge, "same")
        assert later == [Score(0.75, "4", "scripted")]
        assert len(model.requests) == 2
        assert judge.status().cache_hits == 5


def test_the_cache_is_bounded_and_forgets_failures() -> None:
    """Least recently used content is judged again, and so is what failed."""
    with ScriptedJudge("prose", default=4) as model:
        judge = Judge(settings(model, cache_entries=2, attempts=1))
        assert reasons(ask(judge, "a", "a")) == ["unparsable", ""]
        ask(judge, "b", "a", "c", "a", "b")
        assert len(model.requests) == 5


def test_concurrency_is_limited() -> None:
    """Exactly as many calls under way as configured: fewer would break the barrier, more are counted."""
    lock, barrier = threading.Lock(), threading.Barrier(3)
    under_way = [0]
    most = [0]

    def answer(request: dict[str, Any]) -> int:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        barrier.wait(20)
        with lock:
            under_way[0] -= 1
        return 5

    with ScriptedJudge(default=answer) as model:
        found = together(Judge(settings(model, concurrency=3)), [str(n) for n in range(9)])
    assert reasons(found) == [""] * 9
    assert most == [3]


def test_several_samples_are_averaged() -> None:
    """The mean of the levels; all of them are paid."""
    with ScriptedJudge(1, 5, 5) as model:
        found = ask(Judge(settings(model, samples=3, temperature=1.0, **PRICES)), "a")
    assert isinstance(found[0], Score)
    assert found[0].value == pytest.approx(2 / 3)
    assert found[0].cost_usd == pytest.approx(0.36)


def test_endpoints_without_structured_output() -> None:
    """auto asks by text alone after a refusal, once for all; json_object is sent as it is."""

    def refuse(request: dict[str, Any]) -> Any:
        return Fault(400, message="response_format is not supported") if "response_format" in request else 5

    with ScriptedJudge(default=refuse) as model:
        judge = Judge(settings(model))
        assert reasons(ask(judge, "a", "b")) == ["", ""]
        assert len(model.requests) == 3
    with ScriptedJudge(default=5) as model:
        ask(Judge(settings(model, structured_output="json_object")), "a")
        ask(Judge(settings(model, structured_output="text")), "a")
        assert model.requests[0]["response_format"] == {"type": "json_object"}
        assert "response_format" not in model.requests[1]


def test_rubrics_say_when_they_do_not_apply() -> None:
    """Each rubric needs its material; the model is not asked without it."""
    empty = Interaction()
    bare = Interaction(output_messages=[Message("assistant", [Part("text", "hi")])])
    expected = {
        "groundedness": "no_documents",
        "context_adherence": "no_context",
        "answer_relevance": "no_question",
        "refusal_calibration": "no_question",
        "tool_call_accuracy": "no_tool_calls",
        "task_completion": "no_question",
    }
    with ScriptedJudge(default=1) as model:
        for rubric in ("toxicity", "policy_compliance", *expected):
            judge = Judge(settings(model, rubric=rubric, policy="Be polite."))
            judge.tick(NOW)
            nothing = asyncio.run(judge.score(empty))
            assert isinstance(nothing, Skipped)
            assert nothing.reason in ("no_content", "no_tool_calls")
            found = asyncio.run(judge.score(bare))
            if rubric in expected:
                assert found == Skipped(expected[rubric])
            else:
                assert isinstance(found, Score)
                assert found.value == 1.0
        assert len(model.requests) == 2
        calls = Interaction(
            input_messages=[Message("user", [Part("text", "weather?")])],
            tool_calls=[ToolCall("weather", arguments={"city": "Paris"})],
            tool_definitions=[ToolDefinition("weather")],
        )
        assert isinstance(
            asyncio.run(Judge(settings(model, rubric="tool_call_accuracy")).score(calls)), Score
        )
        shown = model.requests[-1]["messages"][1]["content"]
        assert '{"name":"weather","arguments":{"city":"Paris"}}' in shown


PROBE = """
import sys
seen = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        seen.append(args[1][0] if event == "socket.connect" else args[0])
sys.addaudithook(watch)
import asyncio, json
import scorers.stage, scorers.judge
assert "litellm" not in sys.modules, "litellm must be imported at the first question only"
from scorers.judge import Judge
from scorers.settings import JudgeSettings
from stream.interaction import Interaction, Message, Part
judge = Judge(JudgeSettings(rubric="toxicity", model="openai/scripted", api_base=sys.argv[1]))
answer = asyncio.run(judge.score(Interaction(output_messages=[Message("assistant", [Part("text", "hi")])])))
print(json.dumps({"value": answer.value, "seen": sorted(set(map(str, seen)))}))
"""


def test_no_call_home(tmp_path: Path) -> None:
    """From import to answer the process talks to the judge's endpoint alone, and reads no .env file."""
    (tmp_path / ".env").write_text("OPENAI_BASE_URL=http://192.0.2.1/\nHTTP_PROXY=http://192.0.2.1/\n")
    with ScriptedJudge(default=1) as model:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, model.url],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"value": 1.0, "seen": ["127.0.0.1"]}
