"""The health of an installation, from the outside: books, lags, store and disk, whether a process runs or not."""

from __future__ import annotations

import json
import shutil
from typing import Any, Literal

import msgspec

from driftgate.config import Config
from driftgate.ledger import balance, pending_spans
from driftgate.running import endpoints_of, request
from driftgate.store_access import run_query
from stream.errors import DriftgateError
from stream.log import TopicStats
from stream.records import TOPIC_SPANS
from stream.sqlite_reading import inspect, read_ledger, read_offsets, read_stats

_LOW_DISK = 0.05

Outcome = Literal["ok", "warning", "failed"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    what: str
    outcome: Outcome
    detail: str


def examine(config: Config) -> list[Finding]:
    """Look at everything and return what was found.

    Raises
    ------
    StartError
        There is no log to look at.
    """
    with inspect(config.log_path) as reader:
        reader.execute("BEGIN")  # one moment for all of it
        counters, offsets, topics = read_ledger(reader), read_offsets(reader), read_stats(reader)
        reader.execute("COMMIT")
    findings = [
        Finding(
            line.name,
            "ok" if line.balanced else "failed",
            f"{line.left:,} = {line.terms}"
            if line.balanced
            else f"{line.left:,} is not {line.right:,} ({line.terms})",
        )
        for line in balance(counters, offsets)
    ]
    lags = _lags(offsets, topics)
    findings.append(_spans_between(counters, lags))
    findings.extend(_stages(config, lags))
    findings.extend(_store(config, counters, topics, lags))
    findings.append(_disk(config))
    return findings


def _lags(offsets: dict[str, dict[tuple[str, int], int]], topics: list[TopicStats]) -> dict[str, int]:
    ends = {(item.topic, item.partition): item.end for item in topics}
    return {
        group: sum(max(0, ends.get(place, 0) - offset) for place, offset in places.items())
        for group, places in sorted(offsets.items())
    }


def _spans_between(counters: dict[str, dict[str, int]], lags: dict[str, int]) -> Finding:
    pending = pending_spans(counters)
    held = counters.get("sampler", {}).get("spans_pending", 0)
    name = "spans published = taken in by the sampler"
    if pending < 0:
        return Finding(name, "failed", f"the sampler took in {-pending:,} spans more than were published")
    # The sampler keeps its offset at the oldest undecided trace, so some lag is normal while traces are pending.
    if pending and not lags.get("sampler") and not held:
        return Finding(name, "failed", f"{pending:,} published spans were never taken in")
    return Finding(name, "ok", f"{pending:,} still in the log, {held:,} in undecided traces")


def _stages(config: Config, lags: dict[str, int]) -> list[Finding]:
    endpoints = endpoints_of(config.data)
    states: dict[str, dict[str, Any]] = {}
    if endpoints and "web" in endpoints:
        try:
            token = config.web.token.reveal() if config.web.token else ""
            status = json.loads(request(endpoints["web"], "/v1/status", token=token))
            states = {stage["name"]: stage for stage in status["stages"]}
        except DriftgateError as error:
            return [Finding("process", "failed", str(error))]
    findings = [Finding("process", "ok", "running" if endpoints else "not running")]
    for name, lag in lags.items():
        stage = states.get(name)
        if stage is None:
            findings.append(Finding(f"stage {name}", "ok", f"{lag:,} records to take"))
            continue
        good = stage["state"] == "running"
        reason = f" ({stage['reason']})" if stage["reason"] else ""
        findings.append(
            Finding(
                f"stage {name}",
                "ok" if good else "failed",
                f"{stage['state']}{reason}, {stage['lag']:,} records to take",
            )
        )
    return findings


def _store(
    config: Config, counters: dict[str, dict[str, int]], topics: list[TopicStats], lags: dict[str, int]
) -> list[Finding]:
    try:
        answer = run_query(
            config,
            "SELECT (SELECT count() FROM otel_traces), (SELECT count() FROM scores), (SELECT count() FROM dead_letters)",
            "JSONCompactStrings",
        )
    except DriftgateError as error:
        return [Finding("store", "failed", str(error))]
    spans, scores, letters = (int(value) for value in json.loads(answer)["data"][0])
    findings = [Finding("store", "ok", f"{spans:,} spans, {scores:,} scores")]
    if letters:
        findings.append(Finding("dead letters", "warning", f"{letters:,}; see the table dead_letters"))
    whole = all(item.first == 0 for item in topics if item.topic == TOPIC_SPANS)
    if whole and not lags.get("store"):
        # Retention has removed nothing yet, so the tables must hold exactly what went through the log.
        sampler, scorer = counters.get("sampler", {}), counters.get("scorer", {})
        published = counters.get("collector", {}).get("spans_published", 0)
        if not lags.get("sampler"):
            expected = published - sum(sampler.get(f"spans_{name}", 0) for name in ("duplicate", "invalid"))
            if config.store.spans == "all":
                findings.append(_equal("spans in ClickHouse", spans, expected))
        given = sum(scorer.get(f"scores_{name}", 0) for name in ("scored", "skipped", "failed", "external"))
        findings.append(_equal("scores in ClickHouse", scores, given))
    return findings


def _equal(name: str, found: int, expected: int) -> Finding:
    if found == expected:
        return Finding(name, "ok", f"{found:,}")
    return Finding(name, "failed", f"{found:,} rows, {expected:,} expected")


def _disk(config: Config) -> Finding:
    usage = shutil.disk_usage(config.data)
    share = usage.free / usage.total
    text = f"{usage.free / 2**30:.1f} GiB free ({share:.0%})"
    return Finding("disk", "ok" if share >= _LOW_DISK else "warning", text)
