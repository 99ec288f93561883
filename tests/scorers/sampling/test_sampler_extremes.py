"""Records with extreme or broken content: none of them may stop a partition of the sampler."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData

from stream.records import TOPIC_LOGS, TOPIC_SPANS

EVENT = "gen_ai.evaluation.result"


def test_absurd_amounts_count_as_not_reported(runtime: Any, rig: Any) -> None:
    """Tokens and costs beyond any sum do not take the trace's other facts with them: who reads it would refuse it."""
    made = runtime()
    huge = {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 2**63 - 1025,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cost": 1.7e308,
        "gen_ai.response.time_to_first_chunk": 1e300,
    }
    made.spans(
        0, rig.span(1, 0, status=2), *(rig.span(1, number, 0, attributes=huge) for number in range(1, 6))
    )
    made.run()
    (facts,) = made.told[0].traces
    assert (facts.input_tokens, facts.cached_tokens, facts.cost_usd, facts.first_token_s) == (None,) * 4
    assert (facts.output_tokens, facts.flags, facts.latency_s) == (35, ["error"], 1.0)


def broken_score(rig: Any, trace: int, span: int | None = None) -> bytes:
    """A log of one evaluation result whose attribute is no attribute."""
    whole = LogsData.FromString(rig.logs_payload([{"trace": trace, "span": span, "name": EVENT}]))
    log = whole.resource_logs[0].scope_logs[0].log_records[0]
    raw = log.SerializeToString() + b"\x32\x02\xff\xff"  # field 6, two bytes that are no KeyValue
    scope = b"\x12" + bytes((len(raw),)) + raw
    group = b"\x12" + bytes((len(scope),)) + scope
    return b"\x0a" + bytes((len(group),)) + group


def test_a_score_that_cannot_be_decoded_is_a_reject(runtime: Any, rig: Any) -> None:
    """Without a span, with one that was sent on, with one that was dropped: it is refused at the door."""
    made = runtime({"uniform": {"ratio": 1.0}})
    made.write(TOPIC_LOGS, 0, broken_score(rig, 1))
    made.spans(0, rig.span(2, 0))
    made.run(until=300)
    made.write(TOPIC_LOGS, 301, broken_score(rig, 2, 0))
    made.spans(302, rig.span(3, 0))
    kept = made.run(until=900)
    assert [one.trace_id for one in kept] == [rig.trace_id(3)]
    assert [one.reason for one in made.rejects] == ["undecodable", "undecodable"]
    assert made.count("records_undecodable") == 2


def test_many_scores_of_one_trace_are_cut_into_records(runtime: Any, rig: Any) -> None:
    """Scores that waited for a span in vain keep to the limit of records, as spans do."""
    made = runtime({"caps": {"max_record_bytes": 4096}})
    text = "x" * 500
    for number in range(20):
        made.logs(
            number / 10, {"trace": 1, "name": EVENT, "time": rig.START + number, "attributes": {"t": text}}
        )
    kept = made.run()
    assert len(kept) > 1
    assert max(one.size for one in kept) <= 4096
    assert sum(len(one.spans) for one in kept) == 20
    assert all(one.late for one in kept)
    assert made.count("logs_joined") == 20


DAY = 86_400.0


@pytest.mark.parametrize("restart", [False, True])
def test_a_clock_that_was_a_day_ahead_does_not_stop_decisions(runtime: Any, rig: Any, restart: bool) -> None:
    """What came while it was wrong is decided when it is put right, and what comes then when its time has come."""
    made = runtime(
        {"uniform": {"ratio": 0}, "policies": [{"type": "rate_limit", "traces_per_second": 1, "burst": 1}]}
    )
    made.spans(DAY, rig.span(1, 0))
    made.process(made.take({TOPIC_SPANS: 1}), DAY)
    made.tick(DAY + 60)
    made.spans(DAY + 61, rig.span(2, 0))  # pending when the clock is put right
    made.process(made.take({TOPIC_SPANS: 1}), DAY + 61)
    assert (made.count("traces_kept"), made.count("spans_pending")) == (1, 1)
    if restart:
        made.restart()
        made.process(made.take({TOPIC_SPANS: 9}), 0)
    made.tick(0)
    made.spans(1, rig.span(3, 0))
    made.process(made.take({TOPIC_SPANS: 9, TOPIC_LOGS: 9}), 1)
    made.tick(60)
    assert made.count("spans_pending") == 0
    assert made.count("spans_in") == made.count("spans_kept") + made.count("spans_dropped") == 3
    made.spans(70, rig.span(4, 0))
    made.process(made.take({TOPIC_SPANS: 9}), 70)
    kept = [rig.Kept(output).trace_id for output in (made.tick(130), made.outputs)[1]]
    assert rig.trace_id(4) in kept  # the rate limit goes on, too
