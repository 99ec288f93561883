"""``driftgate digest``: which of all watched cohorts got worse in a period, over all partitions."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from driftgate.cli import chosen, config_option
from driftgate.terminal import say

_SQL = """
SELECT tenant, rollout, evidence FROM verdicts
WHERE kind = 'digest'
  AND (tenant, rollout, time) IN (SELECT tenant, rollout, max(time) FROM verdicts WHERE kind = 'digest' GROUP BY tenant, rollout)
ORDER BY tenant, rollout, verdict_id
"""


@click.command("digest")
@click.option("--watch", default="", help="Only this watch.")
@click.option("--tenant", default="", help="Only this tenant.")
@click.option(
    "--alpha", type=click.FloatRange(0, 0.5, min_open=True), default=None, help="Instead of the watch's own."
)
@click.option("--all", "everything", is_flag=True, help="Show what was not found worse as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document per watch and tenant.")
@config_option
def command(
    watch: str, tenant: str, alpha: float | None, everything: bool, as_json: bool, config_path: Path | None
) -> None:
    """Show the last digest of every watch: e-BH over all its cohorts and rubrics.

    Of the cohorts it names, at most a share of alpha is expected not to be worse, however many there are and however they
    depend on each other. Partitions are put together here.
    """
    from driftgate.config import load
    from driftgate.store_access import run_query

    answer = run_query(load(chosen(config_path)), _SQL, "JSONCompact")
    found = [
        digest
        for digest in together(json.loads(answer)["data"], alpha)
        if watch in ("", digest["watch"]) and tenant in ("", digest["tenant"])
    ]
    if as_json:
        for digest in found:
            sys.stdout.write(json.dumps(digest) + "\n")
        return
    if not found:
        say("no digest yet: one is made at the end of every period of a watch that has learned a baseline")
    for digest in found:
        _show(digest, everything)


def together(rows: list[list[str]], alpha: float | None = None) -> list[dict[str, Any]]:
    """Put the digests of one watch, tenant and period together and find anew over all of them.

    ``rows`` are (tenant, watch, evidence as JSON), the newest first; of each watch and tenant the last period counts.
    """
    from drift.digest import e_bh
    from stream.records import Evidence

    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for tenant, watch, text in rows:
        told = msgspec.json.decode(text, type=Evidence).digest
        if told is None:
            continue
        digest = merged.setdefault(
            (tenant, watch),
            {
                "tenant": tenant,
                "watch": watch,
                "start": told.start_unix_nano,
                "end": told.end_unix_nano,
                "alpha": alpha if alpha is not None else told.alpha,
                "streams": 0,
                "entries": [],
            },
        )
        if told.end_unix_nano == digest["end"]:
            digest["streams"] += told.streams
            digest["entries"] += [msgspec.structs.asdict(entry) for entry in told.entries]
    for digest in merged.values():
        digest["entries"].sort(key=lambda entry: (-entry["e_value"], entry["cohort"], entry["rubric"]))
        values = [entry["e_value"] for entry in digest["entries"]]
        found = e_bh(values, digest["alpha"], digest["streams"])
        for entry, worse in zip(digest["entries"], found, strict=True):
            entry["worse"] = worse
        digest["found"] = sum(found)
    return [merged[key] for key in sorted(merged)]


def _show(digest: dict[str, Any], everything: bool) -> None:
    span = " to ".join(
        datetime.fromtimestamp(digest[name] / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M")
        for name in ("start", "end")
    )
    say(
        f"{digest['watch']} ({digest['tenant']}), {span} UTC: {digest['found']} of {digest['streams']} streams got worse "
        f"(false discovery rate {digest['alpha']:g})"
    )
    entries = [entry for entry in digest["entries"] if everything or entry["worse"]]
    if not entries:
        return
    rows = [("", "rubric", "cohort", "e-value", "mean", "expected", "units")]
    rows += [
        (
            "worse" if entry["worse"] else "",
            entry["rubric"],
            entry["cohort"],
            f"{entry['e_value']:.3g}",
            _number(entry.get("mean")),
            _number(entry.get("expected")),
            str(entry.get("units", 0)),
        )
        for entry in entries
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
