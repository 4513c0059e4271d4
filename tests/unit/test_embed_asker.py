"""What is asked of embed: bounded, tenants in turn, nothing twice unless it was lost."""

import asyncio
import json
from collections import Counter
from types import SimpleNamespace

import msgspec
import nats.errors
import nats.js.errors
import pytest

from jetmem.adapters import embed_asker
from jetmem.adapters.embed_asker import Asker
from jetmem.runtime import limits
from jetmem_schemas import subjects
from jetmem_schemas.internal import EmbedJob, Vector, VectorsReady

FULL = nats.js.errors.ServiceUnavailableError(503, "maximum bytes exceeded", 10077)


class Queue:
    """EMBED as the asker sees it: `room` jobs fit; `trouble` is raised by every publish; nothing is encoded."""

    def __init__(self):
        self.jobs = []
        self.room = 10**9
        self.trouble = None
        self.stats = {"reconnects": 0}

    def jetstream(self):
        return self

    async def publish(self, subject, body, timeout):
        assert subject == subjects.embed_job("learn")
        if self.trouble is not None:
            raise self.trouble
        if len(self.jobs) >= self.room:
            raise FULL
        self.jobs.append(msgspec.msgpack.decode(body, type=EmbedJob))

    async def request(self, subject, body, timeout):
        held = {subjects.embed_job("learn"): len(self.jobs)} if self.jobs else {}
        return SimpleNamespace(data=json.dumps({"state": {"subjects": held}}).encode())


class Lacks:
    """`embed_asker.Lacks` over lists."""

    def __init__(self):
        self.texts = {}
        self.refuses = False

    @property
    def pending(self):
        return {tenant: len(texts) for tenant, texts in self.texts.items() if texts}

    def say(self, tenant, count):
        held = self.texts.setdefault(tenant, [])
        held += [f"{tenant} {n}" for n in range(len(held), len(held) + count)]

    def lacking(self, tenant, after):
        for text in self.texts[tenant]:
            place = int(text.split()[1]).to_bytes(8)
            if place >= after:
                yield place, text.encode()

    def text_at(self, tenant, place, key):
        return key.decode()

    def store(self, ready):
        if self.refuses:
            return None
        came = {vector.key.decode() for vector in ready.vectors}
        self.texts[ready.tenant] = [text for text in self.texts[ready.tenant] if text not in came]
        return len(came)


class World:
    """A stage `learn` and its asker, step by step."""

    def __init__(self, monkeypatch):
        self.queue, self.lacks = Queue(), Lacks()
        self.now = 1000.0
        self.made = 0
        self.errors = []
        clock = SimpleNamespace(monotonic=lambda: self.now)
        health = SimpleNamespace(failed=self.errors.append)
        self.shell = SimpleNamespace(stage="learn", common=None, clock=clock, health=health, nc=self.queue)
        monkeypatch.setattr(embed_asker, "ensure", self.ensure)
        self.asker = Asker(self, self.lacks)

    async def ensure(self, nc, stream, common):
        assert stream == subjects.EMBED
        self.made += 1

    async def in_reader(self, work):
        return work()

    in_writer = in_reader

    def pulse(self):
        """Nobody waits here."""

    def step(self):
        return asyncio.run(self.asker.step())

    def answer(self, count=1):
        """embed is done with the first jobs."""
        for job in self.queue.jobs[:count]:
            ready = VectorsReady(job.tenant, "m", [Vector(text.key, b"") for text in job.texts])
            asyncio.run(self.asker._came(0, ready))
        del self.queue.jobs[:count]

    def asked(self):
        return [text.text for job in self.queue.jobs for text in job.texts]


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_an_import_has_seconds_of_work_out_and_goes_on_as_it_comes(world):
    world.lacks.say("big", 5_000)
    world.step()
    assert len(world.asked()) == limits.JOBS_TEXTS_OUT
    everything = set()
    while world.queue.jobs:
        everything |= set(world.asked())
        assert len(world.asked()) <= limits.JOBS_TEXTS_OUT
        world.answer(3)
        assert world.step() == 0
    assert len(everything) == 5_000
    assert world.lacks.pending == {}
    assert world.asker.jobs_out == 0


def test_jobs_name_the_stage_that_asks(world):
    world.lacks.say("acme", 1)
    world.step()
    assert world.queue.jobs[0].reply == subjects.service("learn", subjects.partition_of("acme"), "vectors")


def test_a_small_tenant_does_not_wait_behind_an_import(world):
    world.lacks.say("big", 5_000)
    world.step()
    world.lacks.say("small", 1)
    world.step()
    assert world.queue.jobs[-1].tenant == "small"


def test_ten_thousand_tenants_have_no_more_out_than_the_queue_holds(world):
    for number in range(10_000):
        world.lacks.say(f"t{number}", 64)
    for _ in range(20):
        assert world.step() == 0
    assert len(world.queue.jobs) == world.asker.jobs_out == limits.JOBS_OUT_MAX
    assert max(Counter(job.tenant for job in world.queue.jobs).values()) == 1, "in turn"
    first = {job.tenant for job in world.queue.jobs}
    world.answer(100)
    world.step()
    assert len(world.queue.jobs) == limits.JOBS_OUT_MAX
    assert not first & {job.tenant for job in world.queue.jobs[-100:]}, "others' turn"


def test_a_full_queue_is_waited_for_and_nothing_is_asked_twice(world):
    world.queue.room = 5
    for number in range(20):
        world.lacks.say(f"t{number}", 3)
    delays = [world.step() for _ in range(9)]
    assert delays[0] == limits.RETRY_FIRST_S
    assert delays == sorted(delays)
    assert delays[-1] == limits.RETRY_LAST_S
    assert len(world.queue.jobs) == world.asker.jobs_out == 5, "what is out stays out, what was refused is not"
    assert world.made == 0
    assert world.errors == [], "a queue that is full is no error"
    seen = Counter(world.asked())
    world.queue.room = 100
    assert world.step() == 0
    seen.update(world.asked()[15:])
    assert set(seen.values()) == {1}
    assert len(seen) == 60
    world.queue.room = 20
    world.lacks.say("late", 1)
    assert world.step() == limits.RETRY_FIRST_S, "the delay begins anew"


def test_without_an_answer_a_job_counts_as_out_until_it_is_overdue(world):
    world.lacks.say("acme", 3)
    world.queue.trouble = nats.errors.TimeoutError()
    assert world.step() == limits.RETRY_FIRST_S
    assert len(world.errors) == 1
    world.queue.trouble = None
    assert world.step() == 0
    assert world.asked() == [], "it may be stored"
    world.now += limits.JOB_DEADLINE_S + 1
    world.step()
    assert len(world.asked()) == 3


def test_what_is_overdue_but_queued_is_not_asked_again(world):
    world.lacks.say("acme", 3)
    world.step()
    world.now += limits.JOB_DEADLINE_S + 1
    world.step()
    assert len(world.queue.jobs) == 1
    world.queue.jobs.clear()
    world.now += limits.JOB_DEADLINE_S / 2
    world.step()
    assert world.queue.jobs == [], "its deadline was moved"
    world.now += limits.JOB_DEADLINE_S
    world.step()
    assert len(world.queue.jobs) == 1


@pytest.mark.parametrize("how", ["stream", "reconnect"])
def test_what_was_lost_with_the_stream_is_asked_again(world, how):
    world.lacks.say("acme", 3)
    world.step()
    world.queue.jobs.clear()
    world.lacks.say("zoo", 1)
    if how == "stream":
        world.queue.trouble = nats.js.errors.NoStreamResponseError()
        assert world.step() > 0
        assert world.made == 1
        world.queue.trouble = None
    else:
        world.queue.stats["reconnects"] += 1
    assert world.step() == 0
    assert sorted(world.asked()) == ["acme 0", "acme 1", "acme 2", "zoo 0"]


def test_vectors_that_are_not_wanted_now_stay_out(world):
    world.lacks.say("acme", 3)
    world.step()
    world.lacks.refuses = True
    world.answer()
    assert world.asker.jobs_out == 1
    world.step()
    assert world.queue.jobs == []


def test_a_space_of_a_tenant_has_its_turn_and_answers_where_the_tenant_lives(world):
    space = subjects.space("acme", "toc")
    world.lacks.say("acme", 10 * limits.JOB_TEXTS)
    world.lacks.say(space, 5)
    world.step()
    assert [job.tenant for job in world.queue.jobs[:2]] == ["acme", space]
    assert {job.reply for job in world.queue.jobs} == {
        subjects.service("learn", subjects.partition_of("acme"), "vectors")
    }
