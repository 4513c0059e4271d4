"""learn killed at every named point and at random: what it knows is what a rebuild learns from what is left."""

import asyncio
import contextlib
import random
import shutil
import signal

import msgspec
import nats
import nats.errors
import pytest

from harness.broker import Broker
from harness.persist_process import PersistProcess
from harness.pipeline import MODEL, FakeEmbed, Pipeline, quiet
from harness.seeds import SEED
from harness.waiting import until, until_async
from jetmem.domain.procedures.prediction import CLUSTERS_MIN
from jetmem.index.settings import IndexSettings
from jetmem.learn.recounting import AT_ONCE
from jetmem.runtime.crashpoints import POINTS
from jetmem_schemas import subjects
from jetmem_schemas.internal import AppliedReply, AppliedRequest, StageStatus
from jetmem_schemas.procedures import ProcedureAsk, ProcedureDetail, Recommend
from jetmem_schemas.procedures_asked import Found, OneAsk, RecommendAsk, RecommendFound

#: Reached where more runs of a procedure remain after a forget than one turn of the writer counts.
IN_RECOUNT = "learn:in-recount"
OWN_POINTS = [point for point in POINTS if point.startswith("learn:") and point != IN_RECOUNT]
TENANTS = ("acme", "zoo")
#: Nobody ran them: a model tells what they are like.
NEW = ("quite another matter", "quite another matter hopeless")
NAMES = ("plan", "code", "test", "guess")
#: Each quite another one, of which half are hard for everybody: so many that a model is fitted, and answers.
TASKS = tuple(
    " ".join(f"{word}{number}" for word in ("fix", "the", "old", "parser")) + " hopeless" * (number % 2)
    for number in range(2 * CLUSTERS_MIN)
)


class Load:
    """Two tenants report runs and definitions, and forget some; all is acknowledged. Goes on while `more`."""

    def __init__(self, line):
        self.line = line
        self.random = random.Random(SEED)
        self.more = True
        self.number = 0
        self.last = dict.fromkeys(TENANTS, 0)
        self.held = {tenant: {} for tenant in TENANTS}

    async def run(self):
        while self.more:
            tenant = self.random.choice(TENANTS)
            await self.reports(tenant, 30)
            if self.random.random() < 0.3:
                await self.forget(tenant, self.random.sample(sorted(self.held[tenant]), 5))

    async def reports(self, tenant, count, name=""):
        ids = [f"r{n}" for n in range(self.number, self.number + count)]
        self.number += count
        seqs = await asyncio.gather(*(self.ran(tenant, id_, name) for id_ in ids))
        self.last[tenant] = max(self.last[tenant], *seqs)

    async def forget(self, tenant, gone):
        self.last[tenant] = await self.line.forget(tenant=tenant, ids=gone)
        for id_ in gone:
            del self.held[tenant][id_]

    async def ran(self, tenant, id_, name=""):
        """One run, of a procedure at one of the tasks, or of any at any."""
        task = self.random.choice(TASKS)
        success = self.random.random() < (0.1 if "hopeless" in task else 0.9)
        # new ones go on asking for vectors
        asked = task + ("" if name else self.random.choice(["", "", f" of {id_}"]))
        name = name or self.random.choice(NAMES)
        self.held[tenant][id_] = (name, success)
        body = {
            "task": asked, "success": success, "procedure": name, "id": id_,
            "steps": [{"tool": tool} for tool in ("read", "edit")], "context": {"lang": self.random.choice("ab")},
            "ts": 1_777_900_000_000 + self.number * 1_000, "failure": "" if success else f"broke {id_}",
        }  # fmt: skip
        subject = subjects.memory(tenant, "run", self.random.choice(("alice", "bob")), "s1")
        return int((await self.line.nc.jetstream().publish(subject, msgspec.json.encode(body), timeout=10)).seq)


async def caught_up(line, load):
    for tenant in TENANTS:
        rseq = await line.covered(load.last[tenant], tenant=tenant)

        async def done(tenant=tenant, rseq=rseq):
            try:
                asked = AppliedRequest(tenant, rseq, 1_000)
                reply = await line.ask("learn", "applied", asked, AppliedReply, tenant=tenant)
                status = await line.ask("learn", "status", {"tenant": tenant}, StageStatus, tenant=tenant)
            except nats.errors.Error:
                return False
            return not reply.late and not status.counts["pending_tasks"]

        await until_async(done, f"{tenant} is learnt", 60)


def still(told):
    """What does not move with the clock."""
    return msgspec.structs.replace(told, decayed_runs=0.0, decayed_successes=0.0, posterior=None)


async def known(line, tenant):
    """Everything that can be asked, but what moves with the clock; and probabilities, which hardly do."""
    found, chances = {}, {}
    for name in NAMES:
        asked = OneAsk(tenant, ProcedureAsk(id=name))
        reply = await line.ask("learn", "procedure", asked, Found[ProcedureDetail], tenant=tenant)
        parts = {part: [still(each) for each in getattr(reply.value, part)] for part in ("by_agent", "by_context")}
        found[name] = msgspec.structs.replace(still(reply.value), **parts)
    encoder = line.embed.encoder
    for task in (*TASKS, *NEW):
        vector = bytes(encoder.encode([task])[0].tobytes())
        asked = RecommendAsk(tenant, Recommend(task=task, context={"lang": "a"}, k=9), vector, MODEL)
        reply = await line.ask("learn", "recommend", asked, Found[RecommendFound], tenant=tenant)
        assert not (reply.degraded or reply.lacks)
        found[task] = {each.id: (each.why, each.steps, each.failures) for each in reply.value.procedures}
        chances |= {(task, each.id): each.probability for each in reply.value.procedures}
        assert task in TASKS or {each.why.how for each in reply.value.procedures} == {"difficulty"}
    return found, chances


async def modelled(line, tenant):
    """Whether a model answers, and evidence is in order of words, too; who asks has both made."""
    vector = bytes(line.embed.encoder.encode([NEW[0]])[0].tobytes())
    asked = RecommendAsk(tenant, Recommend(task=NEW[0]), vector, MODEL)
    reply = await line.ask("learn", "recommend", asked, Found[RecommendFound], tenant=tenant)
    made = {each.why.model for each in reply.value.procedures} != {0}
    assert made or "model" in reply.lacks, "an answer that lacks the model says so"
    return not reply.lacks


async def killed_again(line, load, again, *, emptied=False):
    """What is known after one more kill, by a model of all runs: of what was there at the start the first is made."""
    if emptied:
        again(emptied=True)
        await caught_up(line, load)
    again()
    await caught_up(line, load)
    for tenant in TENANTS:
        await until_async(lambda tenant=tenant: modelled(line, tenant), "a model answers", 60)
    return {tenant: await known(line, tenant) for tenant in TENANTS}


async def judged(line, load, again, emptied=(False, True)):
    """Counts are those of the runs that were not forgotten; killed again, and from nothing, the same is learnt."""
    await caught_up(line, load)
    told = await killed_again(line, load, again)
    for tenant in TENANTS:
        for name in NAMES:
            mine = [success for which, success in load.held[tenant].values() if which == name]
            found = told[tenant][0][name]
            assert (found.runs, found.successes) == (len(mine), sum(mine))
    for each in emptied:
        same = await killed_again(line, load, again, emptied=each)
        for tenant in TENANTS:
            assert same[tenant][0] == told[tenant][0]
            assert same[tenant][1] == pytest.approx(told[tenant][1], abs=1e-5)


def run(tmp_path, body):
    async def test():
        print("seed", SEED)
        with Broker() as broker:
            nc = await nats.connect(broker.url, max_reconnect_attempts=-1, error_cb=quiet)
            line = Pipeline(broker, tmp_path / "data", nc, IndexSettings())
            line.embed = FakeEmbed(nc, "learn")
            started = [PersistProcess(broker, line.data).start()]

            def learn(**settings):
                started.append(PersistProcess(broker, line.data, stage="learn").start(**settings))
                return started[-1]

            def again(*, emptied=False):
                started[-1].kill()
                if emptied:
                    shutil.rmtree(line.data / "learn")
                learn()

            try:
                await until_async(lambda: made(line), "persist is ready", 60)
                line.embed.start()
                await body(line, learn, again)
            finally:
                await line.close()
                for process in started:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                await nc.close()

    asyncio.run(test())


async def made(line):
    try:
        await line.nc.jetstream().stream_info(subjects.MEMORY)
    except nats.js.errors.NotFoundError:
        return False
    return True


async def reached(load, number):
    return load.number >= number


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("point", OWN_POINTS)
def test_killed_at_a_named_point(tmp_path, point, count):
    async def body(line, learn, again):
        process = learn(crash=f"{point}:{count}")
        load = Load(line)
        loading = asyncio.create_task(load.run())
        await asyncio.to_thread(until, lambda: not process.running(), f"learn dies at {point}")
        assert process.ended() == -signal.SIGKILL
        load.more = False
        learn()
        await loading
        await judged(line, load, again)

    run(tmp_path, body)


@pytest.mark.slow
def test_killed_at_random(tmp_path):
    async def body(line, learn, again):
        chance = random.Random(SEED)
        process = learn()
        load = Load(line)
        loading = asyncio.create_task(load.run())
        for _ in range(6):
            after = load.number + 300 + chance.randrange(600)
            await until_async(lambda after=after: reached(load, after), f"{after} runs were reported")
            process.kill()
            process = learn()
        load.more = False
        await loading
        await judged(line, load, again)

    run(tmp_path, body)


@pytest.mark.slow
@pytest.mark.parametrize("turn", [1, 2])
def test_killed_while_a_forget_is_counted_in_turns(tmp_path, turn):
    """In the first turn, and in the last, before its write."""

    async def body(line, learn, again):
        process = learn(crash=f"{IN_RECOUNT}:{turn}")
        load = Load(line)
        for tenant in TENANTS:
            await load.reports(tenant, 210)
        huge = TENANTS[0]
        for _ in range(AT_ONCE // 100 + 1):
            await load.reports(huge, 100, NAMES[0])
        await caught_up(line, load)
        await load.forget(huge, [id_ for id_, (name, _) in load.held[huge].items() if name == NAMES[0]][-5:])
        await asyncio.to_thread(until, lambda: not process.running(), "learn dies in the recount")
        assert process.ended() == -signal.SIGKILL
        learn()
        await judged(line, load, again, emptied=[True])

    run(tmp_path, body)
