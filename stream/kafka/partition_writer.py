"""One partition of a group, written by one process at a time, for members whose offsets cannot join a transaction.

A Faust application commits its offsets by itself, when it likes. So that every record still has its effects once, what
a batch writes is one transaction per partition: outputs and dead letters, state, and the ledger total with the offset
that it includes, ``applied``. That offset is the truth; what the consumer group has committed is a hint where to look.

Fencing: the transactional id belongs to the partition, not to the process. Opening it ends what an earlier owner left
open and shuts that owner out; only then the state is read. A write is accepted by the brokers only if nobody opened
since, so two processes that both think they own a partition may hinder each other, and cannot apply a record twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from stream.errors import Transient
from stream.kafka.consumer import to_message
from stream.kafka.settings import KafkaSettings
from stream.kafka.state import StateReader, Totals, state_message, totals_message
from stream.kafka.transactions import Transactions
from stream.log import OutOfStep
from stream.stage import Record, Result
from stream.transaction import of_result


class PartitionWriter:
    """See the module. Used by one thread at a time.

    Parameters
    ----------
    topic
        Our name of the topic that is read, without the prefix.
    """

    def __init__(self, settings: KafkaSettings, group: str, topic: str, partition: int) -> None:
        self.partition = partition
        self.applied: int | None = None
        """Offset of the first record whose effects are not written; ``None`` if nothing ever was."""
        self.state: dict[str, bytes] = {}
        """The stage's values as they are written."""
        self.is_open = False
        self._settings = settings
        self._group = group
        self._topic = topic
        self._totals = Totals()
        self._transactions = Transactions(settings, settings.partition_writer(group, partition))

    def open(self) -> None:
        """Shut out whoever wrote here before, then read what is written.

        Raises
        ------
        Transient
            The brokers do not answer, or an open transaction of somebody else hides the end of the state.
        """
        self.close()
        self._transactions.ready()
        reader = StateReader(self._settings)
        try:
            saved = reader.read(self._settings.state_topic(self._group), self.partition)
        except Transient:
            self.close()
            raise
        finally:
            reader.close()
        self.state = dict(saved.values)
        self._totals = saved.totals.get("", Totals())
        self.applied = self._totals.offsets.get(f"{self._topic}/{self.partition}")
        self.is_open = True

    def commit(self, records: Sequence[Record], result: Result) -> None:
        """Write what ``result`` says and that ``records``, the next of this partition, are applied.

        Raises
        ------
        Transient
            The brokers cannot take it now; nothing was written.
        OutOfStep
            It may have been written, or somebody else has opened the partition: open again and look.
        Permanent
            ``too_large``: an output is above the limit; nothing was written.
        """
        if not self.is_open:
            raise OutOfStep("closed", "the partition must be opened first")
        transaction = of_result(self._group, records, result)
        totals = self._totals.after(transaction.counters, (output.topic for output in transaction.outputs))
        totals.offsets = totals.offsets | {
            f"{topic}/{number}": at for (topic, number), at in transaction.offsets.items()
        }
        topic = self._settings.state_topic(self._group)
        messages = [to_message(self._settings, output) for output in transaction.outputs]
        messages += [
            state_message(topic, number, key, value) for (number, key), value in transaction.state.items()
        ]
        messages.append(totals_message(topic, self.partition, "", totals))
        try:
            self._transactions.write(messages)
        except OutOfStep:
            self.close()
            raise
        except Transient as error:
            if self._transactions.connected:
                raise
            # A new producer would shut out whoever came after us without looking at what they wrote.
            self.close()
            raise OutOfStep(error.reason, error.detail, retry_after=error.retry_after) from error
        self._totals = totals
        self.applied = totals.offsets.get(f"{self._topic}/{self.partition}")
        for (_, key), value in transaction.state.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value

    def close(self) -> None:
        """Let go; idempotent. What was being written is taken back by whoever opens next, or by time."""
        self.is_open = False
        self._transactions.drop()
