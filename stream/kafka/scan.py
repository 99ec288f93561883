"""Read whole partitions once, from the first record to what is the end now, without joining a group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from stream.errors import Unavailable
from stream.kafka.client import load, load_admin, reading, shared, typed
from stream.kafka.settings import KafkaSettings

Place = tuple[str, int]  # a topic's name on the brokers, and a partition


def ends(
    settings: KafkaSettings, places: Sequence[Place], *, settled: bool, admin: Any = None
) -> dict[Place, int]:
    """Return the offset after the last record of each of ``places``; ``settled`` counts what open transactions wrote.

    Raises
    ------
    KafkaException
        The brokers do not answer.
    """
    library, names = load(), load_admin()
    asked = {library.TopicPartition(*place): names.OffsetSpec.latest() for place in places}
    level = library.IsolationLevel
    if admin is None:
        admin = names.AdminClient(shared(settings))
    futures = admin.list_offsets(
        asked,
        isolation_level=level.READ_UNCOMMITTED if settled else level.READ_COMMITTED,
        request_timeout=settings.timeout,
    )
    return {
        (place.topic, place.partition): int(future.result(settings.timeout + 1).offset)
        for place, future in futures.items()
    }


def scan(settings: KafkaSettings, places: Sequence[Place], *, settled: bool) -> Iterator[Any]:
    """Yield every committed message of ``places``, in order per partition.

    Parameters
    ----------
    settled
        Wait for transactions that are open, which hide what was committed after them. Else stop where they begin.

    Raises
    ------
    Unavailable
        The brokers do not answer, or an open transaction does not end.
    """
    if not places:
        return
    library = load()
    consumer = None
    try:
        open_ends = ends(settings, places, settled=settled)
        configuration = {**reading(settings), "group.id": f"{settings.prefix}scan"}
        consumer = library.Consumer(configuration)
        consumer.assign([library.TopicPartition(*place, library.OFFSET_BEGINNING) for place in places])
        # Twice the time after which the brokers end an open transaction; they look for these every ten seconds.
        patience = settings.transaction_timeout * 2 + 20
        deadline = time.monotonic() + patience
        waiting = {place for place, end in open_ends.items() if end > 0}
        while waiting:
            for message in consumer.consume(1_000, 0.05):
                error = message.error()
                place = (message.topic(), message.partition())
                if error is None:
                    yield message
                    deadline = time.monotonic() + patience
                    reached = message.offset() + 1
                elif error.code() == library.KafkaError._PARTITION_EOF:
                    reached = message.offset()
                else:
                    raise library.KafkaException(error)
                if reached >= open_ends.get(place, 0):
                    waiting.discard(place)
            if waiting and time.monotonic() >= deadline:
                topic, number = min(waiting)
                raise Unavailable("unsettled", f"an open transaction hides the end of {topic}/{number}")
    except library.KafkaException as error:
        raise typed(error) from error
    finally:
        if consumer is not None:
            consumer.close()
