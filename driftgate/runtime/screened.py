"""The sampler with a screen behind it: what it keeps is looked at for names before anybody reads it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from collector.screen import Screen
from driftgate.config import Config
from scorers.sampler import SamplerStage
from stream.records import TOPIC_SAMPLED
from stream.stage import Batch, Output, Result, Stage


def sampler_stage(config: Config) -> Stage:
    """Return the sampler, with a screen for names behind it if one is configured.

    Raises
    ------
    StartError, ConfigError
        The screen's extra or its model is missing.
    """
    sampler = SamplerStage(config.sampling)
    if config.collector.redaction.ner is None:
        return sampler
    return ScreenedSampler(sampler, Screen(config.collector.redaction.ner))


class ScreenedSampler:
    """A stage that does what ``sampler`` does, with the records of ``traces.sampled`` screened.

    The numbers of records, their keys and headers are the sampler's, so its delivery guarantees and its books are too.
    """

    def __init__(self, sampler: Stage, screen: Screen) -> None:
        self._sampler = sampler
        self._screen = screen

    @property
    def name(self) -> str:
        """See :attr:`stream.stage.Stage.name`."""
        return self._sampler.name

    @property
    def topics(self) -> tuple[str, ...]:
        """See :attr:`stream.stage.Stage.topics`."""
        return self._sampler.topics

    def assign(self, partition: int, state: Mapping[str, bytes]) -> None:
        """See :meth:`stream.stage.Stage.assign`."""
        self._sampler.assign(partition, state)

    def revoke(self, partition: int) -> None:
        """See :meth:`stream.stage.Stage.revoke`."""
        self._sampler.revoke(partition)

    def process(self, batch: Batch) -> Result:
        """See :meth:`stream.stage.Stage.process`."""
        result = self._sampler.process(batch)
        result.outputs = [self._screened(output, result) for output in result.outputs]
        return result

    def _screened(self, output: Output, result: Result) -> Output:
        if output.topic != TOPIC_SAMPLED:
            return output
        screened = self._screen.record(output.value)
        for name, count in screened.counters.items():
            result.count(name, count)
        return msgspec.structs.replace(output, value=screened.value)
