"""embed against a real broker: nothing lost, nothing encoded twice needlessly, questions first."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
import nats
import numpy as np
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from harness.broker import Broker
from harness.waiting import DEADLINE_S, until_async
from jetmem.adapters import nats_work
from jetmem.adapters.nats_connect import api
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import ensure
from jetmem.client.flushing import flushed
from jetmem.embed import replies
from jetmem.embed.app import Embed, build
from jetmem.embed.settings import EmbedSettings
from jetmem.runtime import limits
from jetmem.runtime.errors import Broken
from jetmem.runtime.settings import Common
from jetmem.testing.encoder import POISON_MARKER, FakeEncoder
from jetmem_schemas import subjects
from jetmem_schemas.internal import (
    EmbedJob,
    EmbedText,
    EncodeReply,
    EncodeRequest,
    StageStatus,
    Stored,
    VectorsReady,
    encode,
)

REPLY = subjects.service("index", 0, "vectors")
STREAM = subjects.raw_stream_api("STREAM.INFO", subjects.EMBED)


class Asker:
    """Leaves jobs in EMBED and stores what comes back; `stores` False: it hears and does not answer."""

    def __init__(self, nc: Client) -> None:
        self.nc = nc
        self.stores = True
        self.requests: list[VectorsReady] = []
        self.vectors: dict[bytes, tuple[bytes, str]] = {}
        self.times: dict[bytes, int] = {}
        self._sub: Any = None

    async def listen(self) -> None:
        self._sub = await self.nc.subscribe(REPLY, cb=self._on_vectors)
        await flushed(self.nc)

    async def leave(self) -> None:
        await self._sub.unsubscribe()
        await flushed(self.nc)

    async def ask(self, *texts: str, attempts: int = 0) -> None:
        job = EmbedJob("acme", REPLY, [EmbedText(text.encode(), text) for text in texts], attempts)
        await self.nc.jetstream().publish(subjects.embed_job("index"), encode(job))

    async def got(self, *texts: str) -> None:
        await until_async(self._has({text.encode() for text in texts}), f"{len(texts)} vectors")

    async def _on_vectors(self, msg: Msg) -> None:
        ready = msgspec.msgpack.decode(msg.data, type=VectorsReady)
        self.requests.append(ready)
        if not self.stores:
            return
        for vector in ready.vectors:
            self.vectors[vector.key] = (vector.data, vector.reason)
            self.times[vector.key] = self.times.get(vector.key, 0) + 1
        await self.nc.publish(msg.reply, encode(Stored(len(ready.vectors))))

    def _has(self, keys: set[bytes]) -> Callable[[], Any]:
        async def check() -> bool:
            return keys <= self.vectors.keys()

        return check


async def status(nc: Client) -> StageStatus:
    reply = await nc.request(subjects.service("embed", "any", "status"), encode({}), timeout=DEADLINE_S)
    return msgspec.msgpack.decode(reply.data, type=StageStatus)


async def in_stream(nc: Client) -> int:
    info = msgspec.json.decode((await nc.request(STREAM, b"", timeout=DEADLINE_S)).data)
    return int(info["state"]["messages"])


async def emptied(nc: Client) -> None:
    async def empty() -> bool:
        return await in_stream(nc) == 0

    await until_async(empty, "every job is acknowledged")


@asynccontextmanager
async def embed(
    broker: Broker, encoder: FakeEncoder, *, streams: Literal["make", "verify"] = "make", **settings: Any
) -> AsyncIterator[Embed]:
    shell = Shell("embed", Common(server=broker.url, streams=streams))
    stage = Embed(shell, EmbedSettings(**settings), encoder)
    stage.wire()
    task = asyncio.create_task(shell.run())

    async def ready() -> bool:
        if task.done():
            task.result()
        return shell.health.ready

    await until_async(ready, "embed is ready")
    try:
        yield stage
    finally:
        shell.app.exit()
        await task


@asynccontextmanager
async def asking(broker: Broker) -> AsyncIterator[Asker]:
    nc = await nats.connect(broker.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    await ensure(nc, subjects.EMBED, Common(server=broker.url))
    asker = Asker(nc)
    await asker.listen()
    try:
        yield asker
    finally:
        await nc.close()


def expected(text: str) -> bytes:
    return FakeEncoder().encode([text])[0].tobytes()


def encoded_texts(encoder: FakeEncoder) -> list[str]:
    return [text for texts, interactive in encoder.calls for text in texts if not interactive]


def test_vectors_arrive_and_the_job_is_acknowledged_only_when_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "STORE_TIMEOUT_S", 0.5)

    async def main(broker: Broker) -> None:
        encoder = FakeEncoder()
        async with asking(broker) as asker, embed(broker, encoder):
            asker.stores = False
            await asker.ask("alpha", "beta", "alpha")
            await until_async(lambda: _async(bool(asker.requests)), "the asker hears the vectors")
            assert await in_stream(asker.nc) == 1
            asker.stores = True
            await asker.got("alpha", "beta")
            await emptied(asker.nc)
            assert asker.vectors[b"alpha"] == (expected("alpha"), "")
            assert asker.requests[-1].model == encoder.model
            assert sorted(encoded_texts(encoder)) == ["alpha", "beta"]

    run(main)


def test_an_asker_that_is_away_gets_its_vectors_later_and_once() -> None:
    async def main(broker: Broker) -> None:
        encoder = FakeEncoder()
        async with asking(broker) as asker, embed(broker, encoder) as stage:
            await asker.leave()
            await asker.ask("one", "two")
            await until_async(lambda: _async("not running" in stage.shell.health.last_error), "the asker is missed")
            await asker.ask("three")  # waits without being encoded, then too
            assert await in_stream(asker.nc) == 2
            await asker.listen()
            await asker.got("one", "two", "three")
            await emptied(asker.nc)
            assert set(asker.times.values()) == {1}
            assert sorted(encoded_texts(encoder)) == ["one", "three", "two"]

    run(main)


def test_waiting_for_an_asker_never_makes_a_text_be_given_up() -> None:
    async def main(broker: Broker) -> None:
        async with asking(broker) as asker:
            await asker.leave()
            for restart in range(limits.JOB_GIVE_UP_AFTER + 1):
                # each process forgets what the last one knew: only the broker's count goes on
                async with embed(broker, FakeEncoder()) as stage:
                    if not restart:
                        await asker.ask("one", "two")
                    await until_async(lambda: _async("not running" in stage.shell.health.last_error), "it was tried")
            async with embed(broker, FakeEncoder()):
                await asker.listen()
                await asker.got("one", "two")
                await emptied(asker.nc)
                assert asker.vectors[b"one"] == (expected("one"), "")

    run(main)


def test_a_poison_text_gets_the_empty_vector_and_the_rest_go_on() -> None:
    async def main(broker: Broker) -> None:
        encoder = FakeEncoder()
        poison = f"bad {POISON_MARKER}"
        async with asking(broker) as asker, embed(broker, encoder):
            await asker.ask("a", poison, "b")
            await asker.ask("c", "d")
            await asker.got("a", poison, "b", "c", "d")
            await emptied(asker.nc)
            data, reason = asker.vectors[poison.encode()]
            assert data == b""
            assert "poison" in reason
            for text in "abcd":
                assert asker.vectors[text.encode()] == (expected(text), "")

    run(main)


def test_an_encoder_that_fails_on_everything_stops_the_stage_and_loses_nothing() -> None:
    async def main(broker: Broker) -> None:
        encoder = FakeEncoder()
        async with asking(broker) as asker:
            shell = build(Common(server=broker.url), EmbedSettings(), encoder=encoder)
            task = asyncio.create_task(shell.run())
            await until_async(lambda: _async(shell.health.ready), "embed is ready")
            encoder.failure = RuntimeError("out of luck")
            await asker.ask("a", "b")
            await asyncio.wait({task}, timeout=DEADLINE_S)
            assert "fails on every text" in str(task.exception())
            assert not shell.health.verdict()[0]
            assert not asker.vectors
            async with embed(broker, FakeEncoder()):
                await asker.got("a", "b")
                await emptied(asker.nc)

    run(main)


def test_what_ended_a_process_is_split_then_alone_then_given_up() -> None:
    async def main(broker: Broker) -> None:
        encoder = FakeEncoder()
        async with asking(broker) as asker, embed(broker, encoder):
            await asker.ask("a", "b", attempts=limits.JOB_ALONE_AT - 1)
            await asker.ask("last", attempts=limits.JOB_GIVE_UP_AFTER)
            await asker.ask("fine", "too")
            await asker.got("a", "b", "last", "fine", "too")
            await emptied(asker.nc)
            assert asker.vectors[b"a"] == (expected("a"), "")
            assert asker.vectors[b"last"] == (b"", "gave up after 5 deliveries")
            calls = [texts for texts, interactive in encoder.calls if not interactive]
            assert ("a",) in calls
            assert ("b",) in calls
            assert "last" not in encoded_texts(encoder)

    run(main)


def test_nothing_else_is_held_while_a_suspect_is_encoded() -> None:
    async def main(broker: Broker) -> None:
        encoder = FakeEncoder()
        async with asking(broker) as asker:
            await asker.ask("suspect", attempts=limits.JOB_ALONE_AT)
            others = [f"text {n}" for n in range(40)]
            for text in others:
                await asker.ask(text)
            encoder.gate.clear()
            async with embed(broker, encoder):
                await until_async(lambda: _async("suspect" in encoded_texts(encoder)), "the suspect is at work")
                now = await status(asker.nc)
                assert now.counts["held"] == 1
                assert now.counts["ack_pending"] == 1
                assert encoded_texts(encoder) == ["suspect"]
                encoder.gate.set()
                await asker.got("suspect", *others)
                await emptied(asker.nc)
                assert set(asker.times.values()) == {1}

    run(main)


def test_what_is_no_job_is_terminated_and_the_rest_go_on() -> None:
    async def main(broker: Broker) -> None:
        async with asking(broker) as asker, embed(broker, FakeEncoder()):
            await asker.nc.jetstream().publish(subjects.embed_job("index"), b"\xc1 no job")
            await asker.ask("fine")
            await asker.got("fine")
            await emptied(asker.nc)

    run(main)


def test_a_question_is_answered_while_a_long_window_is_at_work() -> None:
    async def main(broker: Broker) -> None:
        encoder = FakeEncoder()
        async with asking(broker) as asker, embed(broker, encoder):
            encoder.gate.clear()
            await asker.ask("long")
            await until_async(lambda: _async("long" in encoded_texts(encoder)), "the window is at work")
            subject = subjects.service("embed", "any", "encode")
            for _ in range(2):  # the second time from the cache
                raw = await asker.nc.request(subject, encode(EncodeRequest(["who", "why", "who"])), timeout=DEADLINE_S)
                reply = msgspec.msgpack.decode(raw.data, type=EncodeReply)
                assert reply.vectors == [expected("who"), expected("why"), expected("who")]
                assert reply.model == encoder.model
            assert encoder.calls.count((("who", "why"), True)) == 1
            assert not asker.vectors
            encoder.gate.set()
            await asker.got("long")

    run(main)


def test_a_question_out_of_bounds_gets_an_error() -> None:
    async def main(broker: Broker) -> None:
        async with asking(broker) as asker, embed(broker, FakeEncoder()):
            subject = subjects.service("embed", "any", "encode")
            for texts, code in ((["a"] * 65, "too_large"), ([POISON_MARKER], "bad_field")):
                raw = await asker.nc.request(subject, encode(EncodeRequest(texts)), timeout=DEADLINE_S)
                assert raw.headers is not None
                assert raw.headers["Nats-Service-Error-Code"] == code

    run(main)


def test_a_restarted_broker_gets_stream_and_consumer_again() -> None:
    async def main(broker: Broker) -> None:
        async with asking(broker) as asker, embed(broker, FakeEncoder()) as stage:
            await asker.ask("before")
            await asker.got("before")
            await asyncio.to_thread(broker.restart)

            async def again() -> bool:
                try:
                    await asker.ask("after")
                except Exception:  # no stream, no connection: not yet
                    return False
                return True

            await until_async(again, "EMBED is there again, made by embed")
            await asker.got("after")
            await emptied(asker.nc)
            assert stage.shell.health.verdict() == (True, "ok")

    run(main)


def test_where_others_manage_streams_the_consumer_is_awaited_and_checked() -> None:
    """Also after the broker lost both: embed makes neither."""

    async def main(broker: Broker) -> None:
        async with asking(broker) as asker, embed(broker, FakeEncoder(), streams="verify") as stage:

            async def consumer(**changes: Any) -> dict[str, Any]:
                body = {"stream_name": subjects.EMBED, "config": {**nats_work.configuration("embed"), **changes}}
                return await api(asker.nc, subjects.raw_stream_api("CONSUMER.CREATE", f"{subjects.EMBED}.embed"), body)

            async def waits() -> bool:
                return "consumer embed of EMBED is not there yet" in stage.shell.health.last_error

            await asker.ask("one")
            await until_async(waits, "embed says what it waits for")
            await consumer()
            await asker.got("one")
            await emptied(asker.nc)
            names = await api(asker.nc, subjects.raw_stream_api("CONSUMER.NAMES", subjects.EMBED))
            assert names["consumers"] == ["embed"]

            await asyncio.to_thread(broker.restart)
            await until_async(lambda: _async(asker.nc.is_connected), "the asker is back")
            await ensure(asker.nc, subjects.EMBED, Common(server=broker.url))
            await consumer()
            await asker.ask("two")
            await asker.got("two")

    run(main)


def test_a_managed_consumer_that_gives_jobs_up_is_refused() -> None:
    async def main(broker: Broker) -> None:
        async with asking(broker) as asker:
            body = {"stream_name": subjects.EMBED, "config": {**nats_work.configuration("embed"), "max_deliver": 5}}
            await api(asker.nc, subjects.raw_stream_api("CONSUMER.CREATE", f"{subjects.EMBED}.embed"), body)
            shell = Shell("embed", Common(server=broker.url, streams="verify"))
            Embed(shell, EmbedSettings(), FakeEncoder()).wire()
            with pytest.raises(Broken, match="consumer embed of EMBED has max_deliver 5, but -1 is needed"):
                await shell.run()

    run(main)


def test_a_deleted_consumer_is_noticed() -> None:
    async def main(broker: Broker) -> None:
        async with asking(broker) as asker, embed(broker, FakeEncoder()):
            await asker.ask("before")
            await asker.got("before")
            names = msgspec.json.decode(
                (await asker.nc.request(subjects.raw_stream_api("CONSUMER.NAMES", subjects.EMBED), b"")).data
            )
            for name in names["consumers"]:
                await asker.nc.request(subjects.raw_stream_api("CONSUMER.DELETE", f"{subjects.EMBED}.{name}"), b"")
            await asker.ask("after")
            await asker.got("after")

    run(main)


def test_two_replicas_share() -> None:
    async def main(broker: Broker) -> None:
        one, two = FakeEncoder(), FakeEncoder()
        texts = [f"text {n}" for n in range(200)]
        async with asking(broker) as asker, embed(broker, one, window_texts=4), embed(broker, two, window_texts=4):
            one.gate.clear()
            two.gate.clear()
            for text in texts:
                await asker.ask(text)
            await until_async(lambda: _async(bool(encoded_texts(one) and encoded_texts(two))), "both are at work")
            one.gate.set()
            two.gate.set()
            await asker.got(*texts)
            await emptied(asker.nc)
            assert sorted(encoded_texts(one) + encoded_texts(two)) == sorted(texts)
            assert set(asker.times.values()) == {1}

    run(main)


def test_draining_finishes_the_window_in_hand_and_gives_back_the_rest() -> None:
    async def main(broker: Broker) -> None:
        encoder, other = FakeEncoder(), FakeEncoder()
        texts = [f"text {n}" for n in range(20)]
        async with asking(broker) as asker:
            for text in texts:
                await asker.ask(text)
            encoder.gate.clear()
            async with embed(broker, encoder, window_texts=4) as stage:
                await until_async(lambda: _async(bool(encoded_texts(encoder))), "a window is at work")
                stage.shell.app.exit()
                await until_async(lambda: _async(stage.windows.stopping), "the drain has begun")
                encoder.gate.set()
            done = encoded_texts(encoder)
            assert 0 < len(done) < len(texts)
            assert {key.decode() for key in asker.vectors} == set(done)
            assert await in_stream(asker.nc) == len(texts) - len(done)
            async with embed(broker, other):
                await asker.got(*texts)
                await emptied(asker.nc)
            assert sorted(done + encoded_texts(other)) == sorted(texts)

    run(main)


def test_status_says_model_rate_and_queue() -> None:
    async def main(broker: Broker) -> None:
        encoder = FakeEncoder()
        async with asking(broker) as asker, embed(broker, encoder):
            await asker.ask("a", "b")
            await asker.got("a", "b")
            await emptied(asker.nc)
            raw = await asker.nc.request(subjects.service_status("embed"), encode({}), timeout=DEADLINE_S)
            now = msgspec.msgpack.decode(raw.data, type=StageStatus)
            assert (now.stage, now.healthy) == ("embed", True)
            assert now.counts["model"] == encoder.model
            assert now.counts["texts_total"] == 2
            assert now.counts["queue"] == 0
            assert float(now.counts["rate"]) > 0

    run(main)


def test_a_burst_of_jobs_of_many_texts_is_whole() -> None:
    async def main(broker: Broker) -> None:
        encoder = FakeEncoder()
        texts = [f"text {n}" for n in range(3_000)]
        async with asking(broker) as asker, embed(broker, encoder):
            for at in range(0, len(texts), limits.JOB_TEXTS):
                await asker.ask(*texts[at : at + limits.JOB_TEXTS])
            await asker.got(*texts)
            await emptied(asker.nc)
            assert len(encoded_texts(encoder)) == len(texts)
            assert all(np.frombuffer(data, "<f4").shape == (384,) for data, _ in asker.vectors.values())

    run(main)


async def _async(value: bool) -> bool:
    return value


def run(main: Callable[[Broker], Any]) -> None:
    with Broker() as broker:
        asyncio.run(main(broker))
