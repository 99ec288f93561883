"""What a sound configuration may still not mean: names that nothing answers to, and protection that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from collector.tenants import DEFAULT_TENANT
from driftgate.config import Config

ANY = "*"


def doubts(config: Config, rubrics: Iterable[str]) -> list[str]:
    """Return one sentence for each thing that is allowed and probably not meant.

    Parameters
    ----------
    rubrics
        Names that the configured scorers write.
    """
    return [
        *_unwritten(config, {*rubrics, *config.scorers.external}),
        *_unknown_rollouts(config),
        *_uncalled(config),
        *_open(config),
        *_unknown_tenants(config),
    ]


def _unwritten(config: Config, known: set[str]) -> Iterator[str]:
    """A gate on a rubric that nobody scores never decides, and looks as if it did."""
    named = [
        (f"drift.rollouts.{number}.{key}", getattr(rollout, key))
        for number, rollout in enumerate(config.drift.rollouts)
        for key in ("rubrics", "severe")
    ]
    named += [
        (f"drift.watches.{number}.rubrics", item.rubrics) for number, item in enumerate(config.drift.watches)
    ]
    for place, names in named:
        for name in names:
            if name in known:
                continue
            close = difflib.get_close_matches(name, known, n=1)
            yield (
                f"`{place}`: no configured scorer or judge writes {name!r}"
                + (f"; did you mean {close[0]!r}?" if close else "")
                + " Unless another tool sends scores by that name, nothing is ever decided about it."
            )
    if not config.sampling.uniform.ratio and any(names for _, names in named):
        yield "`sampling.uniform.ratio` is 0: no rubric is ever tested, only operational streams"


def _unknown_rollouts(config: Config) -> Iterator[str]:
    known = {item.name for item in config.drift.rollouts}
    known |= {item.name for item in config.drift.watches}
    known |= {item.name for item in config.drift.budgets}
    named = [
        (f"alerts.channels.{number}.rollouts", name)
        for number, channel in enumerate(config.alerts.channels)
        for name in channel.rollouts
    ]
    named += [
        (f"alerts.silences.{number}.rollout", silence.rollout)
        for number, silence in enumerate(config.alerts.silences)
        if silence.rollout
    ]
    named += [
        (f"rollback.targets.{number}.rollout", target.rollout)
        for number, target in enumerate(config.rollback.targets)
        if target.rollout != ANY
    ]
    for place, name in named:
        if name not in known:
            yield f"`{place}`: no rollout is called {name!r}; known: {', '.join(sorted(known)) or 'none'}"


def _uncalled(config: Config) -> Iterator[str]:
    if config.rollback.mode == "observe":
        return
    served = {target.rollout for target in config.rollback.targets}
    for rollout in config.drift.rollouts:
        if not served & {ANY, rollout.name}:
            yield (
                f"`rollback.mode` is {config.rollback.mode}, and no target serves the rollout {rollout.name!r}: "
                "it is never rolled back"
            )


def _open(config: Config) -> Iterator[str]:
    if config.collector.tenants:
        return
    for name in ("grpc", "http"):
        listener = getattr(config.collector, name)
        if (
            listener.enabled
            and listener.host not in ("localhost", "::1")
            and not listener.host.startswith("127.")
        ):
            yield f"`collector.{name}.host` is {listener.host} and there are no `collector.tenants`: anybody may send"


def _unknown_tenants(config: Config) -> Iterator[str]:
    """A policy for a name that no sender has protects nobody."""
    known = {tenant.name for tenant in config.collector.tenants} or {DEFAULT_TENANT}
    for name in config.collector.redaction.tenants:
        if name not in known:
            yield (
                f"`collector.redaction.tenants.{name}`: no tenant of `collector.tenants` has this name; known: "
                f"{', '.join(sorted(known))}. Unless other producers write it to Kafka, nothing is redacted by it"
            )
