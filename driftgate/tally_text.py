"""What a budget's or a digest's verdict says, in their own words: they are a sum and a list, and compare no two arms."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from drift.settings import BudgetSettings, DigestSettings, DriftSettings
from stream.records import BudgetEvidence, DigestEntry, DigestEvidence, Verdict

_SHOWN = 10  # streams of a digest


def about(verdict: Verdict) -> str:
    """Return what the verdict is about."""
    budget, digest = verdict.evidence.budget, verdict.evidence.digest
    tenant = f", tenant {verdict.tenant}"
    if budget is not None:
        of = verdict.candidate or "everything together"
        return f"budget {verdict.rollout} of {of}{tenant}: the {budget.period} from {_moment(budget.start_unix_nano)} UTC on"
    if digest is not None:
        span = f"{_moment(digest.start_unix_nano)} to {_moment(digest.end_unix_nano)} UTC"
        return f"digest of watch {verdict.rollout}{tenant}: all its cohorts and rubrics, {span}"
    return f"{verdict.kind} {verdict.rollout}{tenant}"


def evidence(verdict: Verdict) -> list[str]:
    """Return what it rests on, a line each."""
    budget, digest = verdict.evidence.budget, verdict.evidence.digest
    if budget is not None:
        return _used(budget)
    return _found(digest) if digest is not None else []


def settings(verdict: Verdict, drift: DriftSettings) -> list[str]:
    """Return what was configured for it, a line each."""
    if verdict.kind == "budget":
        return [_limit(one) for one in drift.budgets if one.name == verdict.rollout]
    return [_digest_settings(one.digest, one.margin) for one in drift.watches if one.name == verdict.rollout]


def history(verdicts: list[Verdict]) -> Iterator[str]:
    """Yield a table of verdicts of one budget or of one watch's digests, oldest first."""
    if verdicts[-1].kind == "budget":
        yield f"{'time (UTC)':<21}{'state':<14}{'used':>14}{'of':>14}{'share':>8}{'by its end':>12}"
        for one in verdicts:
            if (budget := one.evidence.budget) is not None:
                end = "" if budget.projected is None else f"{budget.projected / budget.limit:.0%}"
                yield (
                    f"{_moment(one.time_unix_nano):<21}{one.state:<14}{budget.used:>14,.6g}{budget.limit:>14,.6g}"
                    f"{budget.used / budget.limit:>8.0%}{end:>12}"
                ).rstrip()
        return
    yield f"{'period ends (UTC)':<21}{'state':<14}{'streams':>8}{'worse':>8}"
    for one in verdicts:
        if (digest := one.evidence.digest) is not None:
            yield f"{_moment(one.time_unix_nano):<21}{one.state:<14}{digest.streams:>8,}{digest.found:>8,}"


def _used(budget: BudgetEvidence) -> list[str]:
    unit = "USD" if budget.unit == "usd" else "tokens"
    rows = [f"{budget.used:,.6g} of {budget.limit:,.6g} {unit} used, {budget.used / budget.limit:.0%}"]
    if budget.projected is not None:
        rows.append(
            f"at this rate {budget.projected:,.6g} {unit} by the end of the {budget.period}, "
            f"{budget.projected / budget.limit:.0%}"
        )
    rows.append("a sum of what was reported, not a test: it has no error rate")
    return rows


def _found(digest: DigestEvidence) -> list[str]:
    rows = [
        f"{digest.found:,} of {digest.streams:,} streams got worse; of those named, at most {digest.alpha:.0%} are expected to be "
        "healthy (e-BH)"
    ]
    named = [entry for entry in digest.entries if entry.worse]
    rest = [entry for entry in digest.entries if not entry.worse]
    rows += [_entry(entry) for entry in named[:_SHOWN]]
    if len(named) > _SHOWN:
        rows.append(f"and {digest.found - _SHOWN:,} more: driftgate digest")
    if rest and len(named) < _SHOWN:
        rows.append(f"next, not named: {_entry(rest[0])}")
    return rows


def _entry(entry: DigestEntry) -> str:
    means = "no unit" if entry.mean is None else f"mean {entry.mean:.3f}"
    expected = "" if entry.expected is None else f" where {entry.expected:.3f} was expected"
    return f"{entry.rubric} of {entry.cohort}: {means}{expected}, e-value {entry.e_value:,.4g}, {entry.units:,} units"


def _limit(budget: BudgetSettings) -> str:
    what = "what the application spends" if budget.of == "application" else "what judges spend"
    match = "".join(f", {name}={value}" for name, value in sorted(budget.match.items()))
    per = f", for every {', '.join(budget.per)} by itself" if budget.per else ""
    limit = f"{budget.usd:,g} USD" if budget.usd is not None else f"{budget.tokens:,} tokens"
    return f"{what}{match}{per}: {limit} a {budget.period}; warns at {budget.warn_at:.0%}, pages at all of it"


def _digest_settings(digest: DigestSettings, margin: float) -> str:
    told = "a warning to the channels" if digest.notify else "not sent to the channels"
    return f"one per {digest.period}, alpha {digest.alpha:g}, margin {margin:g}; {told}"


def _moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
