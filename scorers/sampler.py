"""The sampler: spans and log records in, whole traces out."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from scorers.sampling.assembly import Assembly
from scorers.sampling.lanes import Lanes
from scorers.sampling.operations import Operations
from scorers.sampling.outgoing import Outgoing
from scorers.sampling.settings import SamplingSettings
from scorers.sampling.wire import Wire
from stream.errors import StartError
from stream.records import TOPIC_LOGS, TOPIC_SPANS
from stream.stage import Batch, Record, Result


class SamplerStage:
    """Collects the spans of each trace, decides whether to keep it, and sends kept traces to ``traces.sampled``.

    Delivery: every span that came in is kept, dropped, pending, or counted as a duplicate or invalid, once; a kept trace
    is sent once as a whole, and late spans follow its decision. This holds through a kill at any moment, because the
    runtimes save outputs, state and offsets in one transaction. Two limits: a trace whose decision was forgotten
    (``caps.decisions``) is decided anew when spans still come, and of a trace's late spans duplicates are recognised
    against its first 1,024 spans.

    An empty batch means that nothing is left to read; until then time is what the records say.

    Durable counters: ``spans_in`` = ``spans_kept`` + ``spans_dropped`` + ``spans_duplicate`` + ``spans_invalid`` +
    ``spans_pending`` + ``spans_lost``, and ``logs_in`` = ``logs_joined`` + ``logs_dropped`` + ``logs_pending`` +
    ``logs_lost``. The lost are those that the log no longer had after a restart. ``spans_late_kept`` and
    ``spans_late_dropped`` are parts of the kept and dropped, ``spans_late_scores`` of the kept, ``logs_late_scores`` of the
    joined: scores that came when their trace was settled (:mod:`scorers.sampling.late_scores`). Further ``traces_kept``, ``traces_kept.<policy>``,
    ``traces_dropped``, ``evictions.<cap>``, ``records_undecodable``; ``spans_foreign``: the part of ``spans_in`` that
    came from other producers than the collector; and ``operations_seen`` = ``operations_sent`` +
    ``operations_skipped.<reason>``: the traces whose facts went to ``scores`` at their decision.
    """

    def __init__(self, settings: SamplingSettings | None = None) -> None:
        self._settings = settings or SamplingSettings()
        self._wire = Wire()
        self._lanes = Lanes(self._settings.uniform.ratio, self._settings.policies)
        self._outgoing = Outgoing(self._wire, self._settings.caps.max_record_bytes)
        self._operations = Operations(self._settings.operations)
        self._assemblies: dict[int, Assembly] = {}

    @property
    def name(self) -> str:
        """See :attr:`stream.stage.Stage.name`."""
        return "sampler"

    @property
    def topics(self) -> tuple[str, str]:
        """See :attr:`stream.stage.Stage.topics`."""
        return (TOPIC_SPANS, TOPIC_LOGS)

    def assign(self, partition: int, state: Mapping[str, bytes]) -> None:
        """See :meth:`stream.stage.Stage.assign`.

        Raises
        ------
        StartError
            The saved state cannot be read.
        """
        try:
            self._assemblies[partition] = Assembly(
                partition,
                self.topics,
                state,
                self._settings,
                self._lanes,
                self._wire,
                self._outgoing,
                self._operations,
            )
        except (msgspec.MsgspecError, ValueError) as error:
            raise StartError(
                f"the saved state of the sampler for partition {partition} is corrupt ({error}): restore a backup of "
                "the log, or start with an empty one"
            ) from error

    def revoke(self, partition: int) -> None:
        """See :meth:`stream.stage.Stage.revoke`."""
        self._assemblies.pop(partition, None)

    def process(self, batch: Batch) -> Result:
        """See :meth:`stream.stage.Stage.process`."""
        result = Result(commit={})
        by_partition: dict[int, list[Record]] = {partition: [] for partition in self._assemblies}
        for record in batch.records:
            if record.partition not in by_partition:
                raise ValueError(f"partition {record.partition} is not assigned to this stage")
            by_partition[record.partition].append(record)
        for partition, records in by_partition.items():
            self._assemblies[partition].process(records, not batch.records, batch.now_ns, result)
        result.counters = {name: by for name, by in result.counters.items() if by}
        return result
