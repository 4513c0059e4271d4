"""learn as other stages meet it: broker, persist and learn, all real but embed."""

import asyncio
import random

import msgspec
import pytest

from harness.files import grep
from harness.pipeline import MODEL, FakeEmbed, pipeline
from harness.waiting import until_async
from jetmem.domain.procedures.prediction import CLUSTERS_MIN
from jetmem.learn.recounting import AT_ONCE
from jetmem.learn.studies import Studies
from jetmem_schemas import subjects
from jetmem_schemas.internal import AppliedReply, AppliedRequest, EncodeReply, EncodeRequest, Head, StageStatus
from jetmem_schemas.procedures import (
    InsightItem,
    Insights,
    Patterns,
    Predict,
    ProcedureAsk,
    ProcedureDetail,
    ProcedureItem,
    Procedures,
    Recommend,
    Related,
    RelatedProcedure,
)
from jetmem_schemas.procedures_asked import (
    Found,
    InsightsAsk,
    OneAsk,
    PatternsAsk,
    PatternsFound,
    PredictAsk,
    PredictFound,
    ProceduresAsk,
    RecommendAsk,
    RecommendFound,
    RelatedAsk,
)

PLAIN = "repair the failing unit tests of the parser"
OTHER = "translate a poem about the sea into french"


def run(body, tmp_path):
    async def test():
        async with pipeline(tmp_path) as line:
            line.embed = FakeEmbed(line.nc, "learn")
            await line.start("persist", "learn")
            line.embed.start()
            await body(Learnt(line))

    asyncio.run(test())


class Learnt:
    """What an agent and query do."""

    def __init__(self, line):
        self.line = line

    async def ran(self, procedure, success, task, *, tenant="acme", agent="alice", **fields):
        body = msgspec.json.encode({"task": task, "success": success, "procedure": procedure, **fields})
        ack = await self.line.nc.jetstream().publish(subjects.memory(tenant, "run", agent, "s1"), body, timeout=5)
        return int(ack.seq)

    async def defined(self, name, **fields):
        subject = subjects.memory("acme", "procedure", "alice", name)
        return int((await self.line.nc.jetstream().publish(subject, msgspec.json.encode(fields), timeout=5)).seq)

    async def applied(self, seq, tenant="acme"):
        request = AppliedRequest(tenant, await self.line.covered(seq, tenant=tenant), 20_000)
        reply = await self.line.ask("learn", "applied", request, AppliedReply, tenant=tenant)
        assert (set(reply.at), reply.late) == ({"procedures", "tasks"}, [])

    async def embedded(self, tenant="acme"):
        async def done():
            return not (await self.status(tenant)).counts["pending_tasks"]

        await until_async(done, "every task has its vector")

    async def status(self, tenant="acme"):
        return await self.line.ask("learn", "status", {"tenant": tenant}, StageStatus, tenant=tenant)

    def vector(self, task):
        return bytes(self.line.embed.encoder.encode([task])[0].tobytes())

    async def recommend(self, task, *, tenant="acme", model=MODEL, **fields):
        asked = RecommendAsk(tenant, Recommend(task=task, **fields), self.vector(task) if model else b"", model)
        return await self.line.ask("learn", "recommend", asked, Found[RecommendFound], tenant=tenant)

    async def predict(self, task, procedure):
        asked = PredictAsk("acme", Predict(task=task, procedure=procedure), self.vector(task), MODEL)
        return await self.line.ask("learn", "predict", asked, Found[PredictFound])

    async def procedure(self, name):
        return await self.line.ask("learn", "procedure", OneAsk("acme", ProcedureAsk(id=name)), Found[ProcedureDetail])

    async def procedures(self, start=0, **fields):
        asked = ProceduresAsk("acme", Procedures(**fields), start)
        return await self.line.ask("learn", "procedures", asked, Found[list[ProcedureItem]])


async def some_runs(it):
    for n in range(6):
        await it.ran(
            "read-first", True, PLAIN, id=f"good{n}", context={"lang": "python"}, duration_ms=100 + n,
            steps=[{"tool": "read"}, {"tool": "edit"}], lessons=["lighthouse before log"],
        )  # fmt: skip
        await it.ran("guess", False, PLAIN, id=f"bad{n}", context={"lang": "python"}, failure="zanzibar exploded")
    return await it.ran("guess", True, OTHER, id="poem", agent="bob")


def test_runs_are_learnt_from_and_asked_about(tmp_path):
    async def body(it):
        await it.applied(await some_runs(it))
        await it.embedded()
        found = await it.recommend(PLAIN, context={"lang": "python"}, agent="alice")
        assert not found.degraded
        first, second = found.value.procedures
        assert (first.id, second.id, found.value.cold) == ("read-first", "guess", False)
        assert first.interval.low < first.probability < first.interval.high
        assert first.probability > 0.75 > 0.3 > second.probability
        assert (first.why.how, first.why.runs, first.why.successes, first.why.in_context) == ("neighbours", 6, 6, 6)
        assert first.why.by_agent == 6
        assert {each.run for each in first.why.neighbours} <= {f"good{n}" for n in range(6)}
        assert all(each.similarity > 0.99 and each.success for each in first.why.neighbours)
        assert (first.steps, first.lessons[0].text) == (["read", "edit"], "lighthouse before log")
        assert (second.failures[0].text, second.failures[0].runs) == ("zanzibar exploded", 6)
        assert first.duration_ms.p50 > 90
        told = await it.predict(PLAIN, "read-first")
        assert not told.value.cold and told.value.probability > 0.7
        assert (await it.predict(PLAIN, "nobody")).value.cold
        poem = await it.recommend(OTHER)
        assert {each.id: each.why.neighbours[0].run for each in poem.value.procedures if each.why.neighbours} == {
            "guess": "poem"
        }
        other = await it.recommend(PLAIN, tenant="zoo")
        assert (other.value.procedures, other.value.cold) == ([], True)

    run(body, tmp_path)


def test_a_draw_is_seeded_by_the_question_and_what_its_own_tenant_learnt(tmp_path):
    """Nothing that others do in the same partition, and no event, draws anew."""
    part = subjects.partition_of("acme")
    other = next(name for name in (f"zoo{n}" for n in range(10_000)) if subjects.partition_of(name) == part)

    async def body(it):
        async def drawn(seed="s1"):
            found = await it.recommend(OTHER, explore="thompson", seed=seed, k=20)
            return {each.id: each.drawn for each in found.value.procedures}

        for n in range(10):
            await it.applied(await it.ran(f"p{n}", n % 3 == 0, PLAIN))
        await it.embedded()
        before = await drawn()
        assert len(before) == 10
        assert await drawn("s2") != pytest.approx(before, abs=1e-3)
        await it.applied(await it.ran("theirs", True, OTHER, tenant=other), other)
        await it.applied(await it.line.say("no run"))
        assert await drawn() == pytest.approx(before, abs=1e-3)
        await it.applied(await it.ran("p0", True, PLAIN))
        assert await drawn() != pytest.approx(before, abs=1e-3)

    run(body, tmp_path)


def test_the_arm_of_tasks_is_late_until_they_have_their_vectors(tmp_path):
    async def body(it):
        async def reached(seq):
            rseq = await it.line.covered(seq)
            reply = await it.line.ask("learn", "applied", AppliedRequest("acme", rseq, 20_000), AppliedReply)
            return rseq, reply.at["procedures"], reply.at["tasks"]

        seq = await it.ran("guess", True, OTHER)
        await it.applied(seq)
        await it.embedded()
        rseq, runs, tasks = await reached(seq)
        assert (runs, tasks) == (Head(rseq, seq), Head(rseq, seq))
        it.line.embed.open.clear()
        later = await it.ran("guess", True, PLAIN)
        assert await reached(later) == (rseq + 1, Head(rseq + 1, later), Head(rseq, seq))
        again = await it.ran("guess", False, OTHER)  # a task that has its vector is behind one that has none
        assert await reached(again) == (rseq + 2, Head(rseq + 2, again), Head(rseq, seq))
        await it.line.stop("learn")
        await it.line.start("learn")
        assert (await reached(again))[2].rseq == rseq, "also after a restart"
        it.line.embed.open.set()
        await it.embedded()
        assert (await reached(again))[2].rseq >= rseq + 2

    run(body, tmp_path)


def test_who_asks_with_after_waits_until_its_task_can_be_compared(tmp_path):
    async def body(it):
        async def encode(msg):
            texts = msgspec.msgpack.decode(msg.data, type=EncodeRequest).texts
            await msg.respond(msgspec.msgpack.encode(EncodeReply(MODEL, [it.vector(text) for text in texts])))

        await it.line.nc.subscribe(subjects.service("embed", "any", "encode"), cb=encode)
        await it.line.start("query")
        await it.applied(await it.ran("guess", True, OTHER))
        await it.embedded()
        it.line.embed.open.clear()
        seq = await it.ran("read-first", True, PLAIN)
        await it.applied(seq)
        early = await it.line.query("recommend", task=PLAIN, after=seq)
        assert (early["degraded"], early["stale"]) == (["vector"], True)
        counted = await it.line.query("procedures", after=seq, wait_ms=20_000)
        assert (counted["degraded"], counted["stale"]) == ([], False), "counts wait for no vector"
        asked = 0

        async def asks(msg):
            nonlocal asked
            asked += 1
            if asked == 3:  # it waits: whoever does not wait asks once
                it.line.embed.open.set()

        await it.line.nc.subscribe(subjects.service("learn", subjects.partition_of("acme"), "applied"), cb=asks)
        await it.line.nc.flush()
        there = await it.line.query("recommend", task=PLAIN, after=seq, wait_ms=20_000)
        assert (there["degraded"], there["stale"]) == ([], False)
        assert there["procedures"][0]["id"] == "read-first"

    run(body, tmp_path)


def test_definitions_and_lists(tmp_path):
    async def body(it):
        await some_runs(it)
        await it.applied(await it.defined("spare", description="never tried", steps=[{"tool": "hope"}], version=3))
        detail = (await it.procedure("spare")).value
        assert (detail.description, detail.steps, detail.version, detail.runs) == ("never tried", ["hope"], "3", 0)
        detail = (await it.procedure("guess")).value
        assert (detail.runs, detail.successes, detail.agents) == (7, 1, 2)
        assert {each.of: (each.runs, each.successes) for each in detail.by_agent} == {"alice": (6, 0), "bob": (1, 1)}
        assert [(each.of, each.runs) for each in detail.by_context] == [("lang=python", 6)]
        assert [(each.text, each.runs) for each in detail.by_context[0].failures] == [("zanzibar exploded", 6)]
        assert detail.recent == [False] * 6 + [True]
        assert (await it.procedure("nobody")).value is None
        page = await it.procedures(limit=2)
        assert ([each.id for each in page.value], page.more) == (["guess", "read-first"], True)
        page = await it.procedures(2, limit=2)
        assert ([each.id for each in page.value], page.more) == (["spare"], False)
        assert [each.id for each in (await it.procedures(sort="rate")).value] == ["read-first", "guess", "spare"]

    run(body, tmp_path)


def test_definitions_are_embedded_and_relate_procedures(tmp_path):
    async def body(it):
        asked = []

        async def encode(msg):
            texts = msgspec.msgpack.decode(msg.data, type=EncodeRequest).texts
            asked.extend(texts)
            await msg.respond(msgspec.msgpack.encode(EncodeReply(MODEL, [it.vector(text) for text in texts])))

        await it.line.nc.subscribe(subjects.service("embed", "any", "encode"), cb=encode)
        await it.line.nc.flush()
        await it.ran("plan", True, PLAIN)
        await it.ran("verse", True, OTHER)
        for name in ("plan", "verse"):
            seq = await it.defined(name, description="bake bread in a hot oven")
        await it.applied(seq)
        await it.embedded()
        question = RelatedAsk("acme", Related(id="plan", kinds=["similar_to"]))

        async def related():
            return (await it.line.ask("learn", "related", question, Found[list[RelatedProcedure]])).value

        (near,) = await until_async(related, "definitions tell that they are alike")
        assert (near.id, asked) == ("verse", ["bake bread in a hot oven"])
        assert near.strength > 0.99

    run(body, tmp_path)


def test_a_forget_takes_the_influence_of_a_run_away_and_then_its_words(tmp_path):
    async def body(it):
        await it.applied(await some_runs(it))
        await it.embedded()
        assert grep(b"zanzibar", it.line.data / "learn")
        await it.ran("guess", True, OTHER, id="poem2")
        seq = await it.line.forget(ids=[f"bad{n}" for n in range(6)])
        await it.applied(seq)
        detail = (await it.procedure("guess")).value
        assert (detail.runs, detail.successes, detail.failures, detail.by_context) == (2, 2, [], [])
        assert all(not each.failures for each in (await it.recommend(PLAIN)).value.procedures)

        async def purged():
            return not (await it.status()).counts["purging"]

        await until_async(purged, "files are rewritten", 60)
        await it.line.stop("learn")
        assert grep(b"lighthouse", it.line.data / "learn")
        assert not grep(b"zanzibar", it.line.data / "learn")

    run(body, tmp_path)


def test_a_forget_among_many_runs_is_applied_when_all_that_remain_are_counted(tmp_path):
    async def body(it):
        many = AT_ONCE + 200
        for start in range(0, many, 100):
            ran = (it.ran("huge", n % 2 == 0, PLAIN, id=f"x{n}", failure=f"x{n}") for n in range(start, start + 100))
            seqs = await asyncio.gather(*ran)
        await it.applied(max(seqs))
        seq = await it.line.forget(ids=["x0", "x1", "x2"])
        await it.line.stop("learn")
        await it.line.start("learn")
        await it.applied(seq)
        detail = (await it.procedure("huge")).value
        assert (detail.runs, detail.successes, detail.by_agent[0].runs) == (many - 3, many // 2 - 2, many - 3)
        assert (await it.status()).counts["recounting"] == 0

    run(body, tmp_path)


def test_without_vectors_it_answers_by_what_is_known_and_says_so(tmp_path):
    async def body(it):
        it.line.embed.open.clear()
        await it.applied(await some_runs(it))
        found = await it.recommend(PLAIN, model="", context={"lang": "python"})
        assert found.degraded
        assert [each.id for each in found.value.procedures] == ["read-first", "guess"]
        assert found.value.procedures[0].why.how == "neighbours", "the very same task needs no vector"

        async def by_words():
            told = await it.recommend("the failing unit tests of a parser need repair", model="")
            assert told.degraded
            return told.value.similar and told.value

        told = await until_async(by_words, "words tell which task is alike")
        assert [(each.task, each.procedure, each.run[:4]) for each in told.similar] == [(PLAIN, "read-first", "good")]
        assert told.procedures[0].id == "read-first"
        it.line.embed.open.set()
        await it.embedded()
        assert not (await it.recommend(PLAIN)).degraded
        assert (await it.recommend(PLAIN, model="")).degraded

    run(body, tmp_path)


def test_until_its_first_model_is_made_it_says_that_one_lacks(tmp_path):
    async def body(it):
        async def fitted(tenant):
            found = await it.recommend(PLAIN, tenant=tenant, context={"lang": "python"}, k=9)
            return found.lacks, {each.id: (each.probability, each.why.how, each.why.model) for each in
                                   found.value.procedures}  # fmt: skip

        async def modelled():
            lacks, told = await fitted("acme")
            if "model" in lacks:
                assert not any(version for _, _, version in told.values())
            return not lacks and told

        chance = random.Random(7)
        for n in range(3 * CLUSTERS_MIN):
            words = " ".join(f"w{chance.randrange(10**6)}" for _ in range(6))
            for name, skill in (("good", 0.9), ("fair", 0.6)):
                for each in range(3):
                    success = chance.random() < skill * (1.0 if n % 2 else 0.1)
                    seq = await it.ran(name, success, words, id=f"{name}{n}-{each}", context={"hard": n % 2})
        await it.applied(seq)
        for n in range(20):  # each task is a coin that is tossed again
            last = await it.ran("good", n % 2 == 0, (PLAIN, "another")[n // 2 % 2], tenant="few")
        await it.applied(last, tenant="few")
        await it.embedded()
        await it.embedded("few")
        lacks, few = await fitted("few")
        assert not lacks, "too few for any model"
        for _ in range(2):
            await it.line.stop("learn")
            await it.line.start("learn")
            await it.applied(seq)
            assert (await fitted("acme"))[0] == ["words", "model"], "the first question finds none"
            lacks, first = await fitted("few")
            assert not lacks
            assert abs(first["good"][0] - few["good"][0]) < 1e-5, "what repeats tell is there at once"
            told = await until_async(modelled, "a model answers", 60)
            assert {how for _, how, _ in told.values()} == {"difficulty"}
            assert {version for *_, version in told.values()} == {await it.line.covered(seq, tenant="acme")}
        gone = await it.line.forget(ids=["good0-0"])
        await it.applied(gone)
        again = await until_async(modelled, "one answers that does not hold what is erased", 60)
        assert {version for *_, version in again.values()} == {await it.line.covered(gone, tenant="acme")}

    run(body, tmp_path)


def test_while_tasks_wait_for_vectors_and_a_model_for_them_it_says_so(tmp_path):
    async def body(it):
        it.line.embed.open.clear()
        for n in range(CLUSTERS_MIN):
            last = await it.ran("plan", n % 2 == 0, f"repair{n} the{n} failing{n} parser{n}", id=f"r{n}")
            few = await it.ran("plan", n % 2 == 0, ("x", "y")[n // 2 % 2], id=f"r{n}", tenant="few")
        await it.applied(last)
        await it.applied(few, tenant="few")

        async def worded():
            found = await it.recommend("repair3 the failing parser")
            return "words" not in found.lacks and found

        found = await until_async(worded, "words are there", 60)
        assert (found.degraded, found.lacks) == (True, ["model"])
        found = await it.recommend("x", tenant="few")
        assert (found.degraded, found.lacks) == (True, []), "too few for a model; what repeats tell needs no vector"
        it.line.embed.open.set()

        async def whole():
            found = await it.recommend("repair3 the failing parser")
            return not found.lacks and not found.degraded

        await until_async(whole, "all is there", 60)

    run(body, tmp_path)


def test_until_words_of_its_tasks_are_there_it_says_that_they_lack(tmp_path, monkeypatch):
    real, go = Studies._words, asyncio.Event()

    async def waits(studies, tenant):
        await go.wait()
        return await real(studies, tenant)

    monkeypatch.setattr(Studies, "_words", waits)

    async def body(it):
        for n in range(CLUSTERS_MIN):
            last = await it.ran("plan", True, f"repair{n} the{n} failing{n} parser{n}", id=f"r{n}")
        await it.applied(last)
        await it.embedded()

        async def asked():
            found = await it.recommend("repair3 the failing parser")
            return "model" not in found.lacks and found

        early = await until_async(asked, "a model answers", 60)
        assert (early.lacks, early.degraded) == (["words"], False)
        go.set()

        async def whole():
            found = await it.recommend("repair3 the failing parser")
            return not found.lacks and found

        late = await until_async(whole, "words are there", 60)
        assert late.value.procedures[0].probability == early.value.procedures[0].probability, "no chance rests on words"

    run(body, tmp_path)


def test_who_has_few_tasks_waits_for_words_and_model_at_once(tmp_path, monkeypatch):
    """One after the other, while others' are being made, would take longer than who asks waits."""
    real, waiting, both = Studies.get, set(), asyncio.Event()

    async def waits(studies, tenant, kind, at):
        waiting.add(kind)
        if waiting == {"words", "model"}:
            both.set()
        await both.wait()
        return await real(studies, tenant, kind, at)

    monkeypatch.setattr(Studies, "get", waits)

    async def body(it):
        await it.applied(await some_runs(it))
        await it.embedded()
        assert not (await it.recommend(PLAIN)).lacks

    run(body, tmp_path)


def test_restarted_and_rebuilt_it_answers_the_same(tmp_path):
    async def body(it):
        seq = await some_runs(it)
        await it.applied(seq)
        await it.embedded()
        before = (await it.recommend(PLAIN, k=9)).value
        await it.line.stop("learn")
        seq = await it.ran("guess", False, PLAIN, id="later", agent="carol")
        await it.line.start("learn")
        await it.applied(seq)
        assert (await it.procedure("guess")).value.runs == 8
        seq = await it.line.forget(ids=["later"])
        await it.applied(seq)
        assert names(await it.recommend(PLAIN, k=9)) == [(each.id, each.why.runs) for each in before.procedures]
        assert await it.line.ask("learn", "rebuild", {}, dict) == {"rebuilding": True}
        await it.line.ended("learn")
        await it.line.start("learn")
        await it.applied(seq)
        await it.embedded()
        again = await it.recommend(PLAIN, k=9)
        assert names(again) == [(each.id, each.why.runs) for each in before.procedures]
        assert again.at != Head()

    run(body, tmp_path)


def names(found):
    return [(each.id, each.why.runs) for each in found.value.procedures]


def test_waves_tell_what_worked_and_only_what_is_new(tmp_path):
    async def body(it):
        told = []

        async def hear(message):
            told.append((message.subject.rsplit(".", 1)[-1], msgspec.json.decode(message.data)))

        await it.line.nc.subscribe(subjects.notify("acme", "*"), cb=hear)
        await it.line.nc.subscribe(subjects.notify("zoo", "*"), cb=hear)
        await it.line.nc.flush()
        await it.ran("p", False, "first", id="one", tenant="zoo")
        for n in range(22):  # each in a time step of its own
            await it.ran("p", True, PLAIN, id=f"r{n}", agent=f"a{n % 3}", ts=1_777_900_000_000 + n * 1_000)

        async def crystallised():
            return any(topic == "crystallized" for topic, _ in told)

        await until_async(crystallised, "a crystal is announced")
        assert [each["run"] for topic, each in told if topic == "failure"] == ["one"]
        crystals = [each for topic, each in told if topic == "crystallized"]
        assert [(each["procedure"], each["task"]) for each in crystals] == [("p", PLAIN)]
        assert crystals[0]["strength"] > 0.8
        wins = [each for topic, each in told if topic == "success"]
        assert 0 < len(wins) <= 22
        assert set(wins[0]) == {"procedure", "agent", "strength", "task", "run"}
        told.clear()
        await it.line.stop("learn")
        await it.line.start("learn")
        seq = await it.ran("p", True, PLAIN, id="after")
        await it.applied(seq)

        async def heard():
            return any(each["run"] == "after" for _, each in told)

        await until_async(heard, "what is new is told")
        assert {each["run"] for _, each in told} == {"after"}, "nothing is told twice"

    run(body, tmp_path)


def test_what_is_found_in_many_runs(tmp_path):
    async def body(it):
        for n in range(6):
            tools = [{"tool": "read"}, {"tool": "edit"}, {"tool": "check"}]
            await it.ran("plan", True, f"{PLAIN} {n}", id=f"x{n}", agent=f"a{n % 2}", steps=tools)
            seq = await it.ran("code", True, f"{PLAIN} {n}", agent=f"a{n % 2}")
        await it.applied(seq)
        await it.embedded()

        async def asked(verb, ask, kind):
            reply = None

            async def there():
                nonlocal reply
                subject = subjects.service("learn", subjects.partition_of("acme"), verb)
                raw = await it.line.nc.request(subject, msgspec.msgpack.encode(ask), timeout=10)
                if (raw.headers or {}).get("Nats-Service-Error-Code"):
                    return False
                reply = msgspec.msgpack.decode(raw.data, type=Found[kind])
                return True

            await until_async(there, f"{verb} is made", 60)
            return reply

        found = await asked("related", RelatedAsk("acme", Related(id="plan")), list[RelatedProcedure])
        assert [each.id for each in found.value] == ["code"]
        assert (await asked("related", RelatedAsk("acme", Related(id="no")), list[RelatedProcedure])).value is None
        found = await asked("patterns", PatternsAsk("acme", Patterns(done=["read"])), PatternsFound)
        assert "read > edit > check" in {each.id for each in found.value.patterns}
        assert [each.step for each in found.value.next] == ["edit"]
        found = await asked("insights", InsightsAsk("acme", Insights()), list[InsightItem])
        assert sum(each.tasks for each in found.value) == 6
        await it.applied(await it.line.forget(ids=[f"x{n}" for n in range(6)]))
        found = await asked("patterns", PatternsAsk("acme", Patterns()), PatternsFound)
        assert found.value.patterns == []

    run(body, tmp_path)
