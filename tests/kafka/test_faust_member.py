"""Offsets that the Faust member commits, with Faust's own consumer and a stand-in for the Kafka client below it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition
from faust.transport.consumer import Consumer
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import StartError
from stream.kafka.faust_member import FaustMember, security
from stream.kafka.settings import KafkaSettings

_TOPIC = "traces.sampled"
_PLACE = TopicPartition(_TOPIC, 0)


class Client:
    """The part of ``AIOKafkaConsumer`` that the member uses: one partition, where some offsets hold markers."""

    def __init__(self, offsets: list[int], end: int) -> None:
        self._offsets, self._end, self._at = offsets, end, 0
        self.committed_at = 0
        self._closed = False
        self._fetcher = SimpleNamespace(
            _closed=False, _subscriptions=self, fetched_records=self._fetched_records
        )

    @contextlib.contextmanager
    def fetch_context(self) -> Iterator[None]:
        yield

    async def _fetched_records(self, places: Any, *, max_records: int, **_: Any) -> Any:
        given = [offset for offset in self._offsets if offset >= self._at][:max_records]
        self._at = next((o for o in self._offsets if given and o > given[-1]), self._end)
        return {_PLACE: [SimpleNamespace(offset=offset) for offset in given]} if given else {}

    def assignment(self) -> set[TopicPartition]:
        return {_PLACE}

    async def position(self, place: TopicPartition) -> int:
        return self._at

    def last_stable_offset(self, place: TopicPartition) -> int:
        return self._end

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._at = offset

    async def committed(self, place: TopicPartition) -> int | None:
        return self.committed_at or None

    async def commit(self, offsets: Any) -> None:
        self.committed_at = offsets[_PLACE].offset


class Rig:
    """A member as it is used, its consumer's thread replaced by direct calls."""

    def __init__(self, client: Client) -> None:
        settings = KafkaSettings.from_url("kafka://localhost:1/?replication=1&min_insync=1")
        self.applied: int | None = None
        self.client = client
        self.member = FaustMember(settings, "scorer", _TOPIC, self._unused, lambda _: self.applied)
        self.consumer: Any = self.member._app.consumer
        self.thread: Any = self.consumer.thread
        self.thread._consumer = client
        self.thread.call_thread = self._directly
        self.member._app.topics._acking_topics.add(_TOPIC)

    @staticmethod
    async def _unused(received: Any) -> None:
        raise AssertionError

    @staticmethod
    async def _directly(method: Any, *args: Any) -> Any:
        found = method(*args)
        return await found if isinstance(found, Coroutine) else found

    async def fetch(self, count: int) -> list[ConsumerMessage]:
        """Return messages as Faust makes them of what the client gives."""
        found = await self.thread._fetch_records(self.client, {_PLACE}, 0.0, count)
        return [
            ConsumerMessage(
                _TOPIC, 0, record.offset, 0.0, 0, (), b"", b"", None, tp=TP(_TOPIC, 0), generation_id=1
            )
            for record in found.get(_PLACE, ())
        ]


@st.composite
def partitions(draw: st.DrawFn) -> tuple[list[int], int]:
    """Offsets that hold records, and the end; the others hold markers."""
    steps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=40))
    offsets, at = [], draw(st.integers(0, 3))
    for step in steps:
        offsets.append(at)
        at += step
    return offsets, at


@given(partitions(), st.data())
def test_committed_never_passes_what_is_not_applied(partition: tuple[list[int], int], data: Any) -> None:
    """However batches are cut, in whatever order Faust acknowledges, and wherever reading starts again."""
    offsets, end = partition

    async def play() -> None:
        rig = Rig(Client(offsets, end))
        flying: list[ConsumerMessage] = []
        links: dict[int, int] = {}

        async def committed() -> None:
            await rig.consumer.commit()
            first = next((o for o in offsets if o >= (rig.applied or 0)), end)
            assert rig.client.committed_at <= first, "an offset that is not applied was passed"
            assert rig.client.committed_at >= (rig.applied or 0)

        def apply() -> None:
            """Take what follows, as the worker does."""
            for message in flying:
                follows = links.get(message.offset)
                done = rig.applied or 0
                if follows is not None and follows <= done <= message.offset:
                    skipped = [o for o in offsets if done <= o < message.offset]
                    assert not skipped, "a record was passed over"
                    rig.applied = message.offset + 1

        for _ in range(data.draw(st.integers(1, 20), label="steps")):
            step = data.draw(
                st.sampled_from(["fetch", "ack", "lose", "apply", "commit", "back"]), label="step"
            )
            if step == "fetch":
                for message in await rig.fetch(data.draw(st.integers(1, 8), label="count")):
                    rig.consumer.track_message(message)
                    links[message.offset] = rig.thread.links.pop((0, message.offset))
                    flying.append(message)
            elif step == "ack" and flying:
                rig.consumer.ack(data.draw(st.sampled_from(flying), label="which"))
            elif step == "lose" and flying:
                flying.remove(data.draw(st.sampled_from(flying), label="which"))
            elif step == "apply":
                apply()
            elif step == "back":
                flying.clear()
                await rig.member.seek(0, rig.applied or 0)
            elif step == "commit":
                await committed()
        # Whatever was lost is found when reading starts again at what is applied.
        flying.clear()
        await rig.member.seek(0, rig.applied or 0)
        flying.extend(await rig.fetch(len(offsets)))
        links.update({offset: end for (_, offset), end in rig.thread.links.items()})
        apply()
        assert rig.applied == offsets[-1] + 1
        await rig.consumer.commit()
        assert rig.client.committed_at == end, "markers behind the last record are left over"

    asyncio.run(play())


def test_why_fausts_own_ledger_is_not_used() -> None:
    """It commits over a gap of one. When this fails, a new version has mended it, and ``ack`` may come back."""

    async def play() -> int | None:
        rig = Rig(Client(list(range(10)), 10))
        rig.consumer._committed_offset[TP(_TOPIC, 0)] = 3
        for message in await rig.fetch(10):
            if message.offset > 3:
                Consumer.ack(rig.consumer, message)  # 3 is still in hand
        found: int | None = Consumer._new_offset(rig.consumer, TP(_TOPIC, 0))
        return found

    assert asyncio.run(play()) == 10


def test_security_of_the_url_reaches_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "pass" + "word")
    url = "kafka://b:1/?security=sasl_ssl&sasl=SCRAM-SHA-256&user=me&password=${env:KAFKA_PASSWORD}"
    found = security(KafkaSettings.from_url(url))
    context = found.pop("ssl_context")
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert found == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "me",
        "sasl_plain_password": "pass" + "word",
    }
    assert security(KafkaSettings.from_url("kafka://b:1/")) == {"security_protocol": "PLAINTEXT"}
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    with pytest.raises(StartError, match="certificates"):
        security(KafkaSettings.from_url(f"kafka://b:1/?security=ssl&ca={broken}"))
