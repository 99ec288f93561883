"""The drift stage: scores in, cohort windows and verdicts out.

Delivery: the outputs of a batch, the state and the offset are made durable together by the runtime. A record whose
offset the state includes is skipped, so a redelivery changes nothing; a score that was written twice to the log is
recognised by its id as long as it is not late. All ids of outputs are made from their content.
"""

from __future__ import annotations

from collections.abc import Mapping

from drift.partition import Partition
from drift.settings import DriftSettings
from stream.records import TOPIC_SCORES
from stream.stage import Batch, Record, Result


class DriftStage:
    """Stage 3 as :class:`stream.stage.Stage`.

    Time is event time: a batch's ``now_ns`` is not read. Silence is noticed through heartbeat records.

    Durable counters: ``scores_in`` = ``scores_used`` + ``scores_excluded.<reason>`` + ``scores_rejected.<reason>``;
    ``heartbeats``, ``windows``, ``verdicts``, ``units_open`` (goes up and down), ``units_closed``,
    ``units_contaminated``; and, for scores that count in one place but not in another,
    ``watch_units_closed``, ``watch_scores_excluded.<reason>``, ``unit_scores_excluded.<reason>``, ``unit_means_excluded.<reason>`` and ``window_scores_excluded.<reason>``.
    """

    name = "drift"
    topics = (TOPIC_SCORES,)

    def __init__(self, settings: DriftSettings) -> None:
        self._settings = settings
        self._partitions: dict[int, Partition] = {}

    def assign(self, partition: int, state: Mapping[str, bytes]) -> None:
        """Take over ``partition`` with its saved state.

        Raises
        ------
        stream.errors.Permanent
            ``torn_state``: the values do not belong together.
        """
        self._partitions[partition] = Partition(self._settings, state, partition)

    def revoke(self, partition: int) -> None:
        """Forget ``partition``."""
        self._partitions.pop(partition, None)

    def process(self, batch: Batch) -> Result:
        """Apply the records of assigned partitions in log order."""
        result = Result()
        of: dict[int, list[Record]] = {}
        for record in batch.records:
            of.setdefault(record.partition, []).append(record)
        for number, records in of.items():
            self._partitions[number].apply(records, result)
        for number, partition in self._partitions.items():
            for key, value in partition.save().items():
                result.state[(number, key)] = value
        return result
