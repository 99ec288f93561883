"""The health of an installation, from the outside: books, lags, store and disk, whether a process runs or not."""

from __future__ import annotations

import json
import shutil
from typing import Any, Literal

import msgspec

from driftgate.config import Config
from driftgate.ledger import balance, pending_spans, spans_published
from driftgate.log_view import LogView, look
from driftgate.running import endpoints_of, request
from driftgate.store_access import run_query
from stream.errors import DriftgateError

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
    Unavailable
        The Kafka brokers do not answer.
    """
    view = look(config)
    findings = [
        Finding(
            line.name,
            "ok" if line.balanced else "failed",
            f"{line.left:,} = {line.terms}"
            if line.balanced
            else f"{line.left:,} is not {line.right:,} ({line.terms})",
        )
        for line in balance(view.counters, view.handled)
    ]
    findings.append(_spans_between(view.counters, view.lags))
    findings.append(_residual(view.counters.get("collector", {})))
    drift = view.counters.get("drift", {})
    if not view.lags.get("drift") and not drift.get("poisoned"):
        told = view.counters.get("sampler", {}).get("operations_sent", 0)
        findings.append(_equal("traces told about = taken by drift", drift.get("operations_in", 0), told))
    findings.extend(_stages(config, view.lags) if view.members is None else _groups(view, view.members))
    findings.extend(_store(config, view))
    if config.data.is_dir():
        findings.append(_disk(config))
    return findings


def _spans_between(counters: dict[str, dict[str, int]], lags: dict[str, int]) -> Finding:
    pending = pending_spans(counters)
    held = counters.get("sampler", {}).get("spans_pending", 0)
    name = "spans published = taken in by the sampler"
    if pending < 0:
        return Finding(name, "failed", f"the sampler took in {-pending:,} spans more than were published")
    sampler = counters.get("sampler", {})
    if (
        pending
        and not lags.get("sampler")
        and (sampler.get("poisoned") or sampler.get("records_undecodable"))
    ):
        return Finding(name, "warning", f"{pending:,} published spans are in dead letters of the sampler")
    # The sampler keeps its offset at the oldest undecided trace, so some lag is normal while traces are pending.
    if pending and not lags.get("sampler") and not held:
        return Finding(name, "failed", f"{pending:,} published spans were never taken in")
    return Finding(name, "ok", f"{pending:,} still in the log, {held:,} in undecided traces")


def _residual(collector: dict[str, int]) -> Finding:
    """Say what the second look at published data found."""
    name, looked_at, finds = (
        "nothing left in published data",
        collector.get("residual_items", 0),
        collector.get("residual_finds", 0),
    )
    if not finds:
        return Finding(name, "ok", f"{looked_at:,} spans and log records looked at again")
    where = sorted(
        key.removeprefix("residual_finds.") for key in collector if key.startswith("residual_finds.")
    )
    return Finding(
        name,
        "failed",
        f"{finds:,} values in {looked_at:,} looked at ({', '.join(where)}): "
        "disable sending, report it with the entity and the place, and delete the data of that time",
    )


def _stages(config: Config, lags: dict[str, int]) -> list[Finding]:
    endpoints = endpoints_of(config.data)
    states: dict[str, dict[str, Any]] = {}
    judges: list[dict[str, Any]] = []
    if endpoints and "web" in endpoints:
        try:
            token = config.web.token.reveal() if config.web.token else ""
            status = json.loads(request(endpoints["web"], "/v1/status", token=token))
            states = {stage["name"]: stage for stage in status["stages"]}
            judges = status["scorers"].get("judges", [])
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
    return findings + [_judge(judge) for judge in judges]


def _judge(judge: dict[str, Any]) -> Finding:
    name = f"judge {judge['rubric']}"
    if judge["blocked"]:
        return Finding(name, "warning", f"{judge['model']} is blocked: {judge['blocked']} {judge['detail']}")
    return Finding(
        name, "ok", f"{judge['model']}, {judge['calls']:,} calls, {judge['spent_usd_today']:.2f} USD today"
    )


def _groups(view: LogView, members: dict[str, int]) -> list[Finding]:
    findings = []
    for name, lag in view.lags.items():
        count = members.get(name, 0)
        text = f"{count} workers, {lag:,} records to take"
        findings.append(Finding(f"stage {name}", "ok" if count or not lag else "warning", text))
    return findings


def _store(config: Config, view: LogView) -> list[Finding]:
    endpoints = endpoints_of(config.data)
    if endpoints and "query" not in endpoints and config.store.target.kind == "chdb":
        return [Finding("store", "warning", "not looked at: the running process has no query endpoint")]
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
        findings.append(Finding("dead letters", "warning", f"{letters:,}; see `driftgate dead-letters list`"))
    if view.whole and not view.lags.get("store"):
        # Retention has removed nothing from the log yet, so the tables must hold exactly what went through it. Where
        # processes run they may have got more since.
        later = look(config)
        keeps = config.store.retention
        if (
            not view.lags.get("sampler")
            and config.store.spans == "all"
            and _outlives(keeps.otel_traces, config)
        ):
            findings.append(_between("spans in ClickHouse", spans, _spans(view), _spans(later)))
        if _outlives(keeps.scores, config):
            findings.append(_between("scores in ClickHouse", scores, _scores(view), _scores(later)))
    return findings


def _outlives(seconds: float, config: Config) -> bool:
    """Whether a table keeps rows at least as long as the log keeps records; 0 is for ever."""
    return not seconds or seconds >= config.log.max_age


def _spans(view: LogView) -> int:
    sampler = view.counters.get("sampler", {})
    return spans_published(view.counters) - sum(
        sampler.get(f"spans_{name}", 0) for name in ("duplicate", "invalid")
    )


def _scores(view: LogView) -> int:
    scorer = view.counters.get("scorer", {})
    scores = ("scored", "skipped", "failed", "external", "feedback")
    return sum(scorer.get(f"scores_{name}", 0) for name in scores) + sum(
        scorer.get(f"anchors_{name}", 0) for name in ("scored", "skipped", "failed")
    )


def _between(name: str, found: int, least: int, most: int) -> Finding:
    return _equal(name, found, min(max(found, least), most))


def _equal(name: str, found: int, expected: int) -> Finding:
    if found == expected:
        return Finding(name, "ok", f"{found:,}")
    return Finding(name, "failed", f"{found:,} found, {expected:,} expected")


def _disk(config: Config) -> Finding:
    usage = shutil.disk_usage(config.data)
    share = usage.free / usage.total
    text = f"{usage.free / 2**30:.1f} GiB free ({share:.0%})"
    return Finding("disk", "ok" if share >= _LOW_DISK else "warning", text)
