"""A member of a consumer group that is a Faust application: the only module that knows Faust.

What Faust does here: membership, fetching, flow control, handing out batches, and the moment when offsets are
committed. What it does not do, because it loses or repeats records there (docs/decisions): its transactions, tables,
producer, web views and leader topic are off, topics are not declared, one agent runs without concurrency.

Nor is its own ledger of acknowledged messages used, which commits past a gap of one: offsets are committed up to what
the caller says is *applied*, and every record is handed out with the offset that the record before it ended at, as
the client underneath fetched them. A caller that takes a record only if it follows what is applied notices whatever
Faust may drop in between (it drops its buffers in a rebalance, and what an agent had in hand when it fails) and
:meth:`FaustMember.seek`\\ s back.

Faust runs on the event loop of its caller; the Kafka client below it, with its heartbeats, on a thread of its own, so a
handler that takes long stays a member. The handler must not raise.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import aiokafka
import faust
import msgspec
import structlog
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.app.base import BootStrategy
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.utils.futures import notify

from stream.errors import StartError
from stream.kafka.settings import KafkaSettings
from stream.stage import Record

_WITHIN_S = 0.05  # how long a batch that is not full waits for more
_COMMIT_EVERY_S = 0.5
_FETCH_WAIT_MS = 200
_POSITION_S = 1.0
_LOOK_S = 0.2
_FOR_EVER_MS = 2**31 - 1

Handler = Callable[[Sequence["Received"]], Awaitable[None]]


class Received(msgspec.Struct, frozen=True):
    """A record and where the one before it ended; ``follows=None`` if it was fetched before the last seek."""

    record: Record
    follows: int | None


class Standing(msgspec.Struct, frozen=True):
    """How far one partition is: ``handed`` ends what was handed out; records below ``position`` were, or never will be.

    ``end`` is the last stable offset, ``None`` until the first answer of the brokers.
    """

    position: int
    handed: int
    end: int | None


class FaustMember:
    """See the module.

    Parameters
    ----------
    topic
        Our name of the topic, without the prefix.
    handle
        Called with batches of at most ``batch`` records, one at a time, in order per partition.
    applied
        Returns the offset up to which a partition is done, ``None`` if that is not known.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        group: str,
        topic: str,
        handle: Handler,
        applied: Callable[[int], int | None],
        *,
        batch: int = 64,
    ) -> None:
        self.settings = settings
        self._topic = topic
        self._handle = handle
        self._applied = applied
        self._ending = asyncio.Event()
        self._app = _App(
            settings.group(group),
            member=self,
            broker=[f"kafka://{address}" for address in settings.brokers.split(",")],
            broker_client_id="driftgate",
            broker_commit_interval=_COMMIT_EVERY_S,
            # Only to satisfy a check of Faust's; the consumer is made here.
            broker_request_timeout=max(90.0, 2 * settings.session_timeout),
            broker_session_timeout=settings.session_timeout,
            stream_buffer_maxsize=4 * batch,
            broker_max_poll_records=batch,
            key_serializer="raw",
            value_serializer="raw",
            processing_guarantee="at_least_once",
            table_standby_replicas=0,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            worker_redirect_stdouts=False,
        )
        source = self._app.topic(settings.topic(topic), key_type=bytes, value_type=bytes)
        self._app.agent(source, name=group, concurrency=1)(self._agent(batch))

    def _agent(self, batch: int) -> Callable[[Any], Awaitable[None]]:
        async def hand_out(stream: Any) -> None:
            async for events in stream.take_events(batch, within=_WITHIN_S):
                await self._handle([self._received(event.message) for event in events])

        return hand_out

    def _received(self, message: Any) -> Received:
        record = Record(
            self._topic,
            message.partition,
            message.offset,
            message.value or b"",
            message.key or b"",
            tuple((name, value or b"") for name, value in message.headers or ()),
            round((message.timestamp or 0) * 1000) * 1_000_000,
        )
        return Received(record, self._thread.links.pop((message.partition, message.offset), None))

    @property
    def _thread(self) -> _Thread:
        return cast("_Consumer", self._app.consumer).thread

    async def run(self, stop: asyncio.Event) -> None:
        """Be a member until ``stop`` is set.

        Raises
        ------
        StartError
            Faust has ended by itself; the message names the error.
        """
        waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._app.start())]
        try:
            # Starting lasts until the first assignment is complete, which a silent broker can put off for ever.
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if waits[1].done():
                waits[1].result()
            # A part of Faust that fails marks the application and leaves the rest running.
            while not (stop.is_set() or self._app.crashed or self._app.should_stop):
                await asyncio.wait(waits[:1], timeout=_LOOK_S)
        finally:
            self._ending.set()
            await self._app.stop()
            for waiting in waits:
                waiting.cancel()
        if self._app.crash_reason is not None:
            reason = self._app.crash_reason
            raise StartError(f"Faust has ended: {reason.__class__.__name__}") from reason

    @property
    def settled(self) -> bool:
        """Whether the assignment is complete; while it is not, partitions may go to somebody else."""
        return self._running and not self._app.rebalancing and not self._app.should_stop

    def partitions(self) -> set[int]:
        """Return the partitions assigned to this member."""
        if not self._running:
            return set()
        return {place.partition for place in self._app.consumer.assignment()}

    @property
    def generation(self) -> int:
        """The generation of the group, 0 before the first assignment."""
        return self._app.consumer_generation_id

    @property
    def _running(self) -> bool:
        # Both stand still at their defaults until the group has answered for the first time.
        return self._app.consumer_generation_id > 0 and self._thread._consumer is not None

    def start(self, partition: int) -> int:
        """Return the offset that reading of ``partition`` started at."""
        return self._thread.starts.get(partition, 0)

    async def seek(self, partition: int, offset: int) -> None:
        """Read ``partition`` from ``offset`` again, unless the member is ending."""
        await self._ask(self._thread.seek_back, {partition: offset})

    async def standings(self) -> dict[int, Standing]:
        """Return how far the assigned partitions are; nothing when the member is ending."""
        found: dict[int, Standing] | None = await self._ask(self._thread.standings)
        return found or {}

    async def _ask(self, method: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Call ``method`` in the client's thread; ``None`` when the member ends first, as that thread answers no more."""
        if self._ending.is_set():
            return None
        asked = asyncio.ensure_future(self._thread.call_thread(method, *arguments))
        ending = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait((asked, ending), return_when=asyncio.FIRST_COMPLETED)
        if self._ending.is_set():
            asked.add_done_callback(lambda one: one.cancelled() or one.exception())
            return None
        ending.cancel()
        return asked.result()

    def committable(self, standings: Mapping[int, Standing]) -> dict[int, int]:
        """Return the offsets to commit: up to what is applied, and behind markers where nothing is in hand."""
        found = {}
        for partition, standing in standings.items():
            applied = self._applied(partition)
            if applied is not None:
                found[partition] = max(applied, standing.position) if standing.handed <= applied else applied
        return found


class _Boot(BootStrategy):
    enable_kafka_producer = False


class _App(faust.App):
    """The application; makes no folders and connects no producer."""

    BootStrategy = _Boot

    def __init__(self, *args: Any, member: FaustMember, **options: Any) -> None:
        self.member = member
        super().__init__(*args, **options)

    def _create_directories(self) -> None:
        pass

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)


class _Thread(driver.AIOKafkaConsumerThread):
    """The thread of the Kafka client."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.starts: dict[int, int] = {}  # where reading started, by partition
        self.handed: dict[int, int] = {}  # end of what was handed out since
        self.committed: dict[int, int] = {}
        self.links: dict[tuple[int, int], int] = {}  # (partition, offset) -> end of the record before

    @property
    def _member(self) -> FaustMember:
        return cast("_App", self.app).member

    def _create_worker_consumer(self, transport: Any) -> Any:
        settings = self._member.settings
        return aiokafka.AIOKafkaConsumer(
            client_id="driftgate",
            group_id=self.app.conf.id,
            group_instance_id=settings.instance or None,
            bootstrap_servers=settings.brokers.split(","),
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # Faust's own driver reads what was taken back, too, unless it is in a transaction.
            isolation_level="read_committed",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_poll_records=self.app.conf.broker_max_poll_records,
            # Faust does not poll while its buffers are full, and a judge may be away for hours.
            max_poll_interval_ms=_FOR_EVER_MS,
            rebalance_timeout_ms=int(settings.max_poll_interval * 1000),
            session_timeout_ms=int(settings.session_timeout * 1000),
            heartbeat_interval_ms=int(settings.session_timeout * 1000 / 5),
            request_timeout_ms=int(max(40.0, settings.max_poll_interval + 10) * 1000),
            metadata_max_age_ms=60_000,
            **security(settings),
        )

    async def _fetch_records(self, *args: Any, **options: Any) -> Any:
        found = await super()._fetch_records(*args, **options)
        for place, records in found.items():
            for record in records:
                number = place.partition
                self.links[number, record.offset] = self.handed.get(number, 0)
                self.handed[number] = record.offset + 1
        return found

    async def seek_to_committed(self) -> Any:
        return await self.call_thread(self._seek_to_committed)

    async def _seek_to_committed(self) -> Any:
        consumer = self._ensure_consumer()
        found = {place: await consumer.committed(place) for place in consumer.assignment()}
        self.committed = {place.partition: offset or 0 for place, offset in found.items()}
        await self.seek_back(self.committed)
        return found

    async def seek_back(self, offsets: Mapping[int, int]) -> None:
        """Read from ``offsets``; runs in the thread."""
        consumer = self._ensure_consumer()
        for place in consumer.assignment():
            number = place.partition
            if number not in offsets:
                continue
            consumer.seek(place, offsets[number])
            self.starts[number] = self.handed[number] = offsets[number]
            # Faust drops what is below the offset it read last.
            self.consumer._read_offset[TP(place.topic, number)] = offsets[number] or None
            for key in [key for key in list(self.links) if key[0] == number]:
                self.links.pop(key, None)

    async def standings(self) -> dict[int, Standing]:
        """Return how far the assigned partitions are; runs in the thread."""
        consumer = self._ensure_consumer()
        found = {}
        for place in consumer.assignment():
            try:
                position = await asyncio.wait_for(consumer.position(place), _POSITION_S)
                end = consumer.last_stable_offset(place)
            except (KafkaError, TimeoutError, AssertionError):
                continue  # revoked meanwhile, or the brokers are away
            # Read after the position: what is handed out later than that counts as in hand.
            found[place.partition] = Standing(position, self.handed.get(place.partition, 0), end)
        return found

    async def commit_applied(self) -> bool:
        """Commit what is applied; runs in the thread. The next try says the same, so a failure is only told."""
        if self._consumer is None:
            return False
        consumer = self._ensure_consumer()
        offsets = self._member.committable(await self.standings())
        moved = {
            place: OffsetAndMetadata(offsets[place.partition], "")
            for place in consumer.assignment()
            if place.partition in offsets
            and offsets[place.partition] != self.committed.get(place.partition, 0)
        }
        if not moved:
            return False
        try:
            await consumer.commit(moved)
        except KafkaError as error:
            structlog.get_logger(__name__).info("commit_failed", error=error.__class__.__name__)
            return False
        self.committed.update({place.partition: at.offset for place, at in moved.items()})
        return True


class _Consumer(driver.Consumer):
    """Faust's consumer with the caller's ledger in place of its own."""

    def _new_consumer_thread(self) -> _Thread:
        self.thread = _Thread(self, loop=self.loop, beacon=self.beacon)
        return self.thread

    def ack(self, message: Any) -> bool:
        message.acked = True
        self._unacked_messages.discard(message)
        notify(self._waiting_for_ack)
        return True

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        pass

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        done: bool = await self.thread.call_thread(self.thread.commit_applied)
        return done

    def verify_event_path(self, now: float, tp: Any) -> None:
        pass  # takes waiting for a judge for a fault


class _Transport(driver.Transport):
    Consumer = _Consumer


def security(settings: KafkaSettings) -> dict[str, Any]:
    """Return the security options of the log's URL as aiokafka takes them.

    Raises
    ------
    stream.errors.ConfigError
        A secret cannot be read.
    StartError
        A certificate or key cannot be read.
    """
    found: dict[str, Any] = {"security_protocol": settings.security.upper()}
    if settings.security.endswith("ssl"):
        try:
            context = ssl.create_default_context(cafile=settings.ca or None)
            if settings.cert:
                password = settings.key_password.reveal() if settings.key_password else None
                context.load_cert_chain(settings.cert, settings.key, password)
        except OSError as error:
            raise StartError(
                f"the certificates of the log's URL cannot be used: {error.strerror or 'no PEM'}"
            ) from error
        found["ssl_context"] = context
    if settings.security.startswith("sasl"):
        assert settings.password is not None
        found["sasl_mechanism"] = settings.sasl
        found["sasl_plain_username"] = settings.user
        found["sasl_plain_password"] = settings.password.reveal()
    return found
