"""What learn finds in many runs at once: relations, patterns, insights, the model, and crystals with their waves."""

import asyncio
import threading
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from harness.learn_record import PART, START, TENANT, Record, Stage, edges_of
from harness.toc_record import Clock
from harness.waiting import until_async
from jetmem.domain.procedures import relations
from jetmem.domain.procedures.crystals import Rules
from jetmem.domain.procedures.prediction import CLUSTERS_MIN
from jetmem.domain.procedures.run import Ran
from jetmem.domain.procedures.statistics import RECENT_MAX, wilson
from jetmem.learn import app, shown, similar, studies, study
from jetmem.learn import waves as learn_waves
from jetmem.learn.estimating import Learnt
from jetmem.learn.ports import News, Wave
from jetmem.learn.rows import hashed
from jetmem.learn.sample import sampled
from jetmem.learn.settings import LearnSettings
from jetmem.learn.waves import Waves
from jetmem.runtime import metrics
from jetmem_schemas.events import rfc3339
from jetmem_schemas.internal import Head
from jetmem_schemas.procedures import Insights, Patterns, Related

DAY = 86_400_000
HOUR = 3_600_000


def learnt(record, **settings):
    stage = Stage(record, **settings)
    stage.settle()
    return stage


def studied(stage, kind):
    async def ask():
        found = await stage.study(kind)
        await stage.studies.close()
        return found

    return asyncio.run(ask())


def steps(*names):
    return [{"tool": name} for name in names]


def test_procedures_relate_by_tasks_by_success_and_by_what_comes_next():
    record = Record()
    for n in range(8):
        record.ran("plan", True, f"{n} parsers to fix {n} {n}", session=f"s{n}", ts=START + n * 10)
        record.ran("code", True, f"{n} parsers to fix {n} {n}", session=f"s{n}", ts=START + n * 10 + 1)
        record.ran("poem", True, f"a verse about love {n}", session=f"t{n}", agent="bob", ts=START + n)
    stage = learnt(record)
    found = studied(stage, "related")
    assert found.at == stage.it.at[PART]

    def related(name, **how):
        return {(each.id, each.kind): each for each in shown.related(found.found, Related(id=name, **how))}

    (near,) = related("plan").values()
    assert (near.id, near.path) == ("code", ["plan", "code"])
    assert 0 < near.strength <= 1
    assert set(related("plan", kinds=["follows"])) == {("code", "follows")}
    assert related("code", kinds=["follows"]) == {}, "nothing came after it"
    assert set(related("plan", kinds=["context_related"])) == {("code", "context_related")}
    assert related("plan", kinds=["context_related"])["code", "context_related"].strength == pytest.approx(8 / 13)
    assert ("code", "similar_to") in related("plan", kinds=["similar_to"])
    assert related("nobody") == {}


def test_procedures_relate_by_near_equal_tasks_and_by_contexts():
    record = Record()
    for n, words in enumerate(("alpha beta gamma delta", "red green blue black", "one two three four")):
        record.ran("plan", True, f"{words} now", ts=START + n)
        record.ran("code", True, f"{words} soon", session="s2", agent="bob", ts=START + n)
    record.ran("far", True, "quite another thing", session="s3", agent="eve", context={"lang": "c"})
    record.ran("near", True, "something else again", session="s4", agent="eve", context={"lang": "c", "os": "bsd"})
    record.ran("fails", False, "nothing like it at all", session="s5", agent="eve", context={"lang": "c"})
    edges = {(e.source, e.target): e.strength for e in edges_of(studied(learnt(record), "related").found.graph)
             if e.kind == "context_related"}  # fmt: skip
    assert edges["plan", "code"] == edges["code", "plan"] == pytest.approx(3 / 8), "three tasks, in other words"
    assert edges["far", "near"] == pytest.approx(1 / 6), "one context"
    assert not any("fails" in each for each in edges), "it never succeeded where others did"


def test_a_procedure_that_nobody_ran_is_related_to_nothing():
    record = Record()
    record.defined("planned", description="nobody tried it")
    record.ran("", True, "without a procedure")
    assert shown.related(studied(learnt(record), "related").found, Related(id="planned")) == []


def test_a_definition_says_what_a_procedure_is_like():
    async def body():
        record = Record()
        record.ran("plan", True, "repair the parser", session="s1")
        record.ran("code", True, "paint a picture", session="s2")
        record.defined("plan", description="bake bread in an oven")
        record.defined("code", description="bake bread", steps=[{"tool": "oven"}])
        record.defined("spare", description="nobody ran it")
        stage = learnt(record)

        async def near():
            found = (await stage.study("related")).found
            return {(e.source, e.target) for e in edges_of(found.graph) if e.kind == "similar_to"}

        stage.blind = True
        assert await near() == set(), "without embed their tasks tell, which are unlike"
        stage.blind = False
        record.ran("code", True, "paint a wall", session="s9")
        stage.settle()
        stage.clock.now += 31
        assert await near() == {("plan", "code"), ("code", "plan")}
        texts = ["bake bread in an oven", "bake bread\noven"]
        assert sorted(stage.encoded) == sorted(texts * 2), "asked again when embed was back"
        record.ran("plan", True, "paint a door", session="s7")
        stage.settle()
        stage.clock.now += 31
        assert len(await near()) == 2
        assert len(stage.encoded) == 4, "known ones are not asked for again"
        await stage.studies.close()

    asyncio.run(body())


def test_hops_go_on_along_the_strongest_path():
    record = Record()
    for n in range(20):
        for at, name in enumerate(("a", "b", "c")):
            record.ran(name, False, f"quite another task {name} {n * 7}", session=f"s{n}", ts=START + at)
    found = studied(learnt(record), "related").found
    names = [each.id for each in shown.related(found, Related(id="a", kinds=["follows"], hops=2))]
    assert names == ["b", "c"]
    far = shown.related(found, Related(id="a", kinds=["follows"], hops=2))[1]
    assert far.path == ["a", "b", "c"]
    assert far.strength == pytest.approx(0.8**2)
    assert [each.id for each in shown.related(found, Related(id="a", kinds=["follows"]))] == ["b"]


def test_patterns_recur_and_say_what_comes_next():
    record = Record()
    for n in range(5):
        record.ran("p", True, f"t{n}", steps=steps("read", "edit", "check"), agent=f"a{n % 2}")
        record.ran("q", False, f"t{n}", steps=steps("guess", "edit"))
    stage = learnt(record)
    found = studied(stage, "patterns").found
    page, more = shown.patterns(found, Patterns(limit=2), 0, stage.clock.now_ms())
    assert more
    assert page.next == []
    everything, more = shown.patterns(found, Patterns(done=["x", "read", "edit"]), 0, stage.clock.now_ms())
    assert not more
    assert {each.id for each in everything.patterns} == {"read > edit", "edit > check", "read > edit > check"}
    assert all(each.shared and each.successes == 5 and not each.failures for each in everything.patterns)
    assert [each.step for each in everything.next] == ["check"]
    assert everything.patterns[0].lift > 1


def test_insights_tell_what_works_where():
    record = Record()
    for n in range(10):
        for name in ("code", "words"):
            record.ran(name, name == "code", f"compile kernel module {n}", context={"kind": "c"})
            record.ran(name, name == "words", f"sonnet about roses {n}", context={"kind": "art"})
    found = shown.insights(studied(learnt(record), "insights").found, Insights())
    assert sum(each.tasks for each in found) == 20
    for each in found:
        kinds = {"words" if "sonnet" in text else "code" for text in each.examples}
        if len(kinds) == 1:
            assert [one.id for one in each.works] == list(kinds)
            assert each.works[0].lift > 1 > each.fails[0].lift
    assert shown.insights(studied(learnt(Record()), "insights").found, Insights()) == []


def hard_and_easy(tasks=CLUSTERS_MIN * 3):
    """Tasks of which some are hard for everybody; each is quite another one."""
    record = Record()
    chance = np.random.default_rng(5)
    for n in range(tasks):
        hard = n % 2 == 0
        words = " ".join(f"w{chance.integers(10**6)}" for _ in range(5))
        for name, skill in (("good", 0.9), ("fair", 0.6)):
            for _ in range(3):
                success = bool(chance.random() < skill * (0.2 if hard else 1.0))
                record.ran(name, success, f"{words} {'hopeless' * hard}", context={"kind": str(hard)})
    return record


def test_a_model_is_used_as_its_gate_says():
    stage = learnt(hard_and_easy())
    model = studied(stage, "model").found
    assert model.judged
    assert model.fitted.how == "factors"
    plain = {each.id: each for each in stage.recommend("new w1 hopeless", context={"kind": "True"}).procedures}
    asked = stage.recommend("new w1 hopeless", context={"kind": "True"}, learnt=Learnt(model, version=77))
    fitted = {each.id: each for each in asked.procedures}
    assert {(each.why.how, each.why.model) for each in fitted.values()} == {("difficulty", 77)}
    assert fitted["good"].probability < 0.5
    assert (plain["good"].why.how, plain["good"].why.model) == ("neighbours", 0)
    blind = stage.recommend("x", vector=b"", learnt=Learnt(model, version=77))
    assert {(each.why.how, each.why.model) for each in blind.procedures} == {("rate", 0)}, "no vector, no model"


def test_a_fitted_answer_moves_on_with_the_rate():
    record = hard_and_easy()
    stage = learnt(record)
    model = studied(stage, "model").found
    before = stage.predict("new w1", "good", learnt=Learnt(model))
    for n in range(60):
        record.ran("good", False, f"something else {n}", ts=START + n)
    stage.settle()
    after = stage.predict("new w1", "good", learnt=Learnt(model))
    assert after.probability < before.probability - 0.1


def test_too_few_tasks_are_not_judged():
    record = Record()
    record.ran("p", True, "a")
    assert not studied(learnt(record), "model").found.judged
    assert not studied(learnt(Record()), "model").found.judged
    nameless = Record()
    for n in range(2 * CLUSTERS_MIN):
        nameless.ran("", True, f"task {n}")
    assert not studied(learnt(nameless), "model").found.judged


def test_who_has_too_few_tasks_for_a_model_waits_for_nobody_elses(monkeypatch):
    async def body():
        record = hard_and_easy()
        record.ran("p", True, "a", tenant="few")
        stage = learnt(record)
        fits = asyncio.Event()

        async def fitted(*_):
            fits.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(studies, "aside", fitted)
        at = stage.it.at[PART]
        assert stage.studies.ask(TENANT, "model", at) is None
        await fits.wait()
        assert await stage.studies.get("few", "model", at)
        assert stage.studies.ask(TENANT, "model", at) is None, "still being fitted"
        await stage.studies.close()

    asyncio.run(body())


def test_a_forget_makes_void_what_was_found():
    async def body():
        record = Record()
        for n in range(5):
            record.ran("p", True, f"t{n}", steps=steps("secret", "word"), id_=f"x{n}")
        stage = learnt(record)
        assert (await stage.study("patterns")).found.rows
        record.forget({f"x{n}" for n in range(5)})
        stage.settle()
        assert stage.studies.ask(TENANT, "patterns", stage.it.at[PART]) is None
        assert (await stage.study("patterns")).found.rows == {}
        assert (await stage.study("insights")).found == []
        await stage.studies.close()

    asyncio.run(body())


@pytest.mark.parametrize("void", ["forgotten", "cleared"])
def test_what_was_read_before_a_forget_is_void_though_it_is_found_after_it(monkeypatch, void):
    async def body():
        record = Record()
        for n in range(5):
            record.ran("p", True, f"t{n}", steps=steps("secret", "word"), id_=f"x{n}")
        stage = learnt(record)
        reads, goes_on, recurring = threading.Event(), threading.Event(), study.recurring

        def slow(of):
            reads.set()
            assert goes_on.wait(60)
            return recurring(of)

        with monkeypatch.context() as patch:
            patch.setattr(study, "recurring", slow)
            stage.studies.ask(TENANT, "patterns", stage.it.at[PART])
            await asyncio.to_thread(reads.wait, 60)
            if void == "forgotten":
                record.forget({f"x{n}" for n in range(5)})
                stage.settle()
            else:
                stage.studies.clear()
            (making,) = stage.studies._making.values()
            goes_on.set()
            await making
        assert stage.studies.ask(TENANT, "patterns", stage.it.at[PART]) is None
        assert bool((await stage.study("patterns")).found.rows) is (void == "cleared")
        await stage.studies.close()

    asyncio.run(body())


def test_what_is_found_is_made_again_when_it_is_old_and_somebody_asks():
    async def body():
        record = Record()
        for n in range(3):
            record.ran("p", True, f"t{n}", steps=steps("a", "b"))
        stage = learnt(record, study_every_s=30.0)
        first = await stage.study("patterns")
        record.ran("p", True, "t9", steps=steps("a", "b"))
        stage.settle()
        assert await stage.study("patterns") is first
        stage.clock.now += 31
        assert (await stage.study("patterns")).found.rows["a", "b"].successes == 4
        stage.studies.clear()
        assert stage.studies.ask(TENANT, "patterns", stage.it.at[PART]) is None
        await stage.studies.close()

    asyncio.run(body())


def test_what_cannot_be_made_is_not_tried_for_every_question(monkeypatch):
    async def body():
        record = Record()
        record.ran("p", True, steps=steps("a", "b"))
        stage = learnt(record, study_every_s=30.0)
        made = []

        def broken(of):
            made.append(of)
            raise ValueError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(study, "recurring", broken)
            for _ in range(3):
                assert await stage.studies.get(TENANT, "patterns", stage.it.at[PART]) is None
        assert (len(made), len(stage.failed)) == (1, 1)
        stage.failed.clear()
        stage.clock.now += 31
        assert (await stage.study("patterns")).found.rows == {}
        await stage.studies.close()

    asyncio.run(body())


def test_what_could_not_be_made_rests(monkeypatch):
    async def body():
        stage = learnt(hard_and_easy(), study_every_s=30.0)
        at = stage.it.at[PART]
        monkeypatch.setattr(similar, "told", lambda of: 1 / 0)
        assert await stage.studies.get(TENANT, "words", at) is None
        assert stage.studies.ask(TENANT, "words", at) is None
        assert not stage.studies._making and stage.failed
        await stage.studies.close()

    asyncio.run(body())


@pytest.mark.parametrize("much", [False, True])
def test_what_was_asked_last_is_kept(monkeypatch, much):
    if much:
        monkeypatch.setattr(studies, "BYTES_MAX", 4)
        monkeypatch.setattr(studies, "_size", lambda _: 2)
    else:
        monkeypatch.setitem(studies._KEPT_MAX, "words", 2)

    async def body():
        record = Record()
        for tenant in ("a", "b", "c"):
            for n in range(2):
                record.ran("p", True, f"task {n}", tenant=tenant)
        stage = learnt(record)
        it, at = stage.studies, stage.it.at[PART]
        for tenant in ("a", "b", "a", "c"):
            assert await it.get(tenant, "words", at)
        assert [tenant for tenant, _ in it._kept] == ["a", "c"]
        # asked in turn, three are not made again for every question
        assert it.ask("b", "words", at) is None and not it._making
        stage.clock.now += 31
        assert await it.get("b", "words", at)
        await it.close()

    asyncio.run(body())


def test_what_no_answer_rests_on_is_made_again_whenever_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(studies._KEPT_MAX, "patterns", 1)

    async def body():
        record = Record()
        for tenant in ("a", "b"):
            record.ran("p", True, steps=steps("read", "edit"), tenant=tenant)
        stage = learnt(record)
        for tenant in ("a", "b", "a"):
            assert await stage.studies.get(tenant, "patterns", stage.it.at[PART])
        await stage.studies.close()

    asyncio.run(body())


def test_of_what_was_put_away_no_more_is_noted_than_rests(monkeypatch):
    monkeypatch.setattr(studies, "_AWAY_MAX", 3)
    monkeypatch.setitem(studies._KEPT_MAX, "words", 1)

    async def body():
        stage = learnt(Record())
        for n in range(12):
            assert await stage.studies.get(f"t{n}", "words", stage.it.at.get(PART, Head()))
            stage.clock.now += 31
            assert len(stage.studies._away) <= 4
        await stage.studies.close()

    asyncio.run(body())


def test_what_is_larger_than_all_may_be_is_kept_alone(monkeypatch):
    monkeypatch.setattr(studies, "BYTES_MAX", 4)
    monkeypatch.setattr(studies, "_size", lambda _: 9)
    stage = learnt(hard_and_easy(5))

    async def body():
        for kind in ("patterns", "insights"):
            assert await stage.studies.get(TENANT, kind, stage.it.at[PART])
            assert [held for _, held in stage.studies._kept] == [kind]
        await stage.studies.close()

    asyncio.run(body())


def test_what_was_found_before_tasks_had_their_vectors_is_made_again_at_once():
    async def body():
        record = Record()
        for n in range(40):
            record.ran("p", True, f"t{n}")
        stage = Stage(record)
        stage.read()
        stage.embed(10)
        early = await stage.study("insights")
        assert await stage.study("insights") is early
        stage.embed(1)
        assert await stage.study("insights") is early, "one of ten is not much"
        stage.settle()
        stage.studies.ask(TENANT, "insights", stage.it.at[PART])
        await until_async(lambda: told(stage.studies.ask(TENANT, "insights", stage.it.at[PART]) is not early), "again")
        await stage.studies.close()

    async def told(said):
        return said

    asyncio.run(body())


def test_words_of_few_and_many_tasks_are_the_same(monkeypatch):
    record = Record()
    for n in range(9):
        record.ran("p", True, f"task about thing {n}")
    stage = learnt(record)
    few = studied(stage, "words").found
    monkeypatch.setattr(studies, "_ASIDE_FROM", 5)
    many = studied(learnt(record), "words").found
    for each in (few, many):
        (best, *_), cosine = each.like("thing 7", 3, every=True)
        assert best == hashed("task about thing 7") and 0.3 < cosine[0] < 1
        assert each.like("thing 7", 3, every=False).tasks == [], "all have their vectors"
    assert (many.wording.known != few.wording.known).nnz == 0
    assert studied(Stage(Record()), "words").found is None


def test_a_model_waits_for_vectors_that_are_being_made_but_not_for_ever():
    async def body():
        stage = learnt(hard_and_easy())
        at = stage.it.at[PART]

        def begun(*, lacking):
            assert stage.studies.ask(TENANT, "patterns", at, lacking=lacking) is None
            return bool(stage.studies._making)

        assert not begun(lacking=True)
        stage.clock.now += 119
        assert not begun(lacking=True)
        stage.clock.now += 2
        assert begun(lacking=True)
        found = await stage.study("patterns")
        assert found.lacked
        later = Head(at.rseq + 1, at.seq)
        stage.studies._kept[TENANT, "patterns"] = found._replace(took_s=60.0, made_s=stage.clock.monotonic())
        assert stage.studies._waits((TENANT, "patterns"), lacking=True)
        stage.clock.now += 121
        stage.studies.ask(TENANT, "patterns", later, lacking=True)
        assert not stage.studies._making, "it rests"
        stage.studies.ask(TENANT, "patterns", later)
        assert stage.studies._making, "what came of vectors since is worth a new one"
        await stage.studies.close()
        fresh = learnt(hard_and_easy())
        assert fresh.studies.ask(TENANT, "patterns", at) is None and fresh.studies._making
        await fresh.studies.close()

    asyncio.run(body())


def test_a_model_waits_no_longer_for_vectors_because_words_wait_for_none():
    """Each question asks for both: while embed was down no model was ever begun."""

    async def body():
        stage = learnt(hard_and_easy())
        at = stage.it.at[PART]

        def begun():
            stage.studies.ask(TENANT, "words", at)
            stage.studies.ask(TENANT, "model", at, lacking=True)
            return (TENANT, "model") in stage.studies._making

        for _ in range(12):
            assert not begun()
            stage.clock.now += 10
        assert begun()
        await stage.studies.close()

    asyncio.run(body())


def test_the_first_one_is_told_apart_from_those_that_are_made_again():
    async def body():
        record = hard_and_easy()
        stage = learnt(record, study_every_s=30.0)
        at = stage.it.at[PART]

        def first():
            return stage.studies.ask(TENANT, "patterns", stage.it.at[PART]) is None, bool(stage.studies._making)

        assert first() == (True, True)
        assert (await stage.study("patterns")).at == at
        record.ran("good", True, "one more")
        stage.settle()
        stage.clock.now += 31
        assert first() == (False, True), "the one before answers"
        await stage.study("patterns")
        record.forget({"r1"})
        stage.settle()
        assert first() == (True, True), "what was made of the erased answers no more"
        await stage.studies.close()
        assert stage.rows.varied(TENANT, CLUSTERS_MIN)
        assert not stage.rows.varied(TENANT, 3 * CLUSTERS_MIN + 2)
        assert not stage.rows.varied("nobody", 1)

    asyncio.run(body())


def test_a_model_is_due_unasked_once_nothing_new_comes():
    stage = Stage(hard_and_easy())
    stage.read()
    assert stage.studies.quiet() == [], "something came just now"
    stage.clock.now += 2
    assert stage.studies.quiet() == [TENANT]
    assert stage.studies.quiet() == [], "told once"
    for n in range(9):
        stage.studies.tell(f"t{n}", News())
    stage.clock.now += 2
    assert len(stage.studies.quiet()) == 6, "no more than are kept"


def test_a_sample_is_of_the_last_runs_with_their_words():
    record = Record()
    for n in range(8):
        record.ran("p" if n else "", n % 2 == 0, f"task {n}", context={"n": n})
    record.said("not a run")
    found = sampled(learnt(record).rows, TENANT, 5)
    assert [(run.task, run.procedure, run.context) for run in found.runs] == [
        (f"task {n}", "p", {"n": str(n)}) for n in range(3, 8)
    ]
    sample, names = found.situations()
    assert (names, sample.runs.shape, float(sample.successes.sum())) == (["p"], (5, 1), 2.0)
    assert np.allclose(np.linalg.norm(sample.situations.vectors, axis=1), 1.0)


def test_contagion_is_off_unless_it_is_set():
    record = Record()
    for n in range(12):
        record.ran("plan", n < 2, f"fix the parser {n}", session=f"s{n}", ts=START + n * 2_000)
        record.ran("code", True, f"fix the parser {n}", session=f"s{n}", ts=START + n * 2_000 + 1)
    assert studied(learnt(record), "related").found.boosts == {}
    stage = learnt(record, contagion=True)
    boosts = studied(stage, "related").found.boosts
    assert boosts["plan"].value > 0
    still = stage.predict("x", "plan", vector=b"")
    moved = stage.predict("x", "plan", vector=b"", learnt=Learnt(None, boosts))
    assert 0 < moved.why.boost <= 0.2
    assert moved.probability > still.probability


def test_a_procedure_crystallises_and_dissolves_and_says_so_once():
    record = Record()
    for n in range(30):
        record.ran("p", True, f"t{n}", agent=f"a{n % 3}", steps=steps("read", "edit"), ts=START + n * 1_000)
    stage = learnt(record)
    topics = [wave.topic for wave in stage.waves]
    assert topics.count("success") == 30
    (formed,) = [wave for wave in stage.waves if wave.topic == "crystallized"]
    assert formed.strength == pytest.approx(wilson(20, 20)[0]), "when it was proved"
    detail = stage.procedure("p")
    assert (detail.state, detail.crystal, detail.crystal_why, detail.steps) == (
        "crystalline", 1, "proved", ["read", "edit"],
    )  # fmt: skip
    assert [each.id for each in stage.procedures(state="crystalline")[0]] == ["p"]
    assert stage.recommend("t1").procedures[0].why.crystal == 1
    record.defined("p", steps=steps("something", "else"))
    stage.settle()
    assert stage.procedure("p").steps == ["read", "edit"], "frozen"
    for n in range(30):
        record.ran("p", False, f"t{n}", agent="a1", ts=START + (100 + n) * 1_000, failure="broke")
    stage.settle()
    (fallen,) = [wave for wave in stage.waves if wave.topic == "dissolved"]
    assert fallen.strength == 1.0, "none of the last runs succeeded"
    detail = stage.procedure("p")
    assert (detail.state, detail.steps, detail.crystal) == ("fluid", ["something", "else"], 1)
    assert stage.procedures(state="crystalline")[0] == []
    assert stage.recommend("t1").procedures[0].why.crystal == 0
    stage.it.apply(PART, record.entries)
    assert len(stage.waves) == 62


def proved(record, count=27, *, start=START, **fields):
    """Runs that make a procedure crystalline."""
    for n in range(count):
        record.ran("p", True, f"t{n}", agent=f"a{n % 3}", ts=start + n * 1_000, **fields)


def told_steps(stage):
    """Steps with whether they are frozen, and which crystal `recommend` and `predict` say froze them."""
    detail = stage.procedure("p")
    (told,) = stage.recommend("t1").procedures
    assert told.steps == detail.steps
    assert (told.why.crystal, stage.predict("t1", "p").why.crystal) == (detail.crystal * detail.frozen,) * 2
    return detail.steps, detail.frozen


def test_a_crystal_freezes_the_steps_that_are_shown_when_it_forms():
    record = Record()
    first = record.defined("p", steps=steps("green", "switch"))
    proved(record)
    second = record.defined("p", steps=steps("other", "thing"))
    stage = learnt(record)
    assert told_steps(stage) == (["green", "switch"], True)
    again = record.ran("p", True, "later", ts=START + 60_000, steps=steps("quite", "different"))
    stage.settle()
    assert told_steps(stage) == (["green", "switch"], True)
    record.forget({"r5", again.id})  # counted anew
    stage.settle()
    assert (told_steps(stage), told_steps(learnt(record))) == ((["green", "switch"], True),) * 2
    record.forget({first.id})
    stage.settle()
    assert (told_steps(stage), told_steps(learnt(record))) == ((["other", "thing"], False),) * 2, (
        "it froze what is forgotten"
    )
    record.forget({second.id})
    stage.settle()
    assert (told_steps(stage), told_steps(learnt(record))) == (([], False),) * 2
    assert stage.procedure("p").crystal == 1
    stage.it.apply(PART, record.entries)
    assert told_steps(stage) == ([], False)


def test_what_is_frozen_stays_though_runs_of_the_same_time_step_or_before_come_after_it_is_defined_anew():
    record = Record()
    record.defined("p", steps=steps("green", "switch"))
    for n in range(27):
        record.ran("p", True, f"t{n}", agent=f"a{n % 3}")
    record.defined("p", steps=steps("other", "thing"))
    record.ran("p", True, "t1")
    record.ran("p", True, "t2", ts=START - 60_000)
    stage = learnt(record)
    assert told_steps(stage) == (["green", "switch"], True)
    record.forget({"r5"})
    stage.settle()
    assert (told_steps(stage), told_steps(learnt(record))) == ((["green", "switch"], True),) * 2


def test_a_definition_is_frozen_rather_than_what_runs_did_and_else_what_most_of_them_did():
    record = Record()
    record.defined("p", description="no steps are said")
    proved(record, steps=steps("read", "edit"))
    later = record.defined("p", steps=steps("other"))
    stage = learnt(record)
    assert told_steps(stage) == (["read", "edit"], True)
    for n in range(40):
        record.ran("p", False, f"t{n}", ts=START + (100 + n) * 1_000)
    stage.settle()
    assert (stage.procedure("p").state, told_steps(stage)) == ("fluid", (["other"], False))
    proved(record, 300, start=START + 400_000, steps=steps("read", "edit"))
    stage.settle()
    detail = stage.procedure("p")
    assert (detail.crystal, told_steps(stage)) == (2, (["other"], True)), "the definition of when it formed again"
    record.forget({later.id})
    stage.settle()
    assert told_steps(stage) == (["read", "edit"], True)


@pytest.mark.parametrize("odd", [None, 19, 23])
def test_a_run_that_says_to_be_of_tomorrow_blinds_no_change_detector(odd):
    """Two days ahead is accepted; what comes until then must count as later than what came before."""
    record = Record()
    for n in range(24):
        at = START + n * 1_000
        ahead = 47 * HOUR if n == odd else 0
        record.ran("p", True, f"t{n}", agent=f"a{n % 3}", ts=at + ahead, came=at)
    stage = learnt(record)
    assert stage.procedure("p").state == "crystalline"
    for n in range(24, 40):
        record.ran("p", n % 3 == 0, f"t{n}", agent="a1", ts=START + n * 1_000, came=START + n * 1_000)
    stage.settle()
    detail = stage.procedure("p")
    assert (detail.state, detail.crystal_why) == ("fluid", "its rate has fallen")
    assert detail.crystal == 1
    assert detail.crystal_since < detail.last == rfc3339(START + 39 * 1_000)


def test_every_threshold_of_crystals_is_a_setting():
    rules = {"runs_min": 7, "agents_min": 2, "lower_min": 0.5, "last": 4, "last_min": 0.6}
    ends = {"dissolve_below": 0.2, "dissolve_last": RECENT_MAX, "fallen": 0.5, "alarm": 9.0}
    given = {f"crystal_{name}": value for name, value in rules.items()}
    given |= {name if name.startswith("dissolve") else f"dissolve_{name}": value for name, value in ends.items()}
    assert app._rules(msgspec.convert(given, LearnSettings)) == Rules(**rules, **ends)
    assert app._rules(LearnSettings()) == Rules()
    for name in ("crystal_last", "dissolve_last"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({name: RECENT_MAX + 1}, LearnSettings)


def test_a_procedure_that_turns_back_and_forth_within_a_time_step_is_no_news():
    record = Record()
    stage = Stage(record, rules=Rules(runs_min=4, agents_min=1, lower_min=0.1, last=2, last_min=1.0))
    for n in range(40):
        record.ran("p", n % 4 != 3, f"t{n}", id_=f"x{n}" if n > 9 else f"x0{n}")
    stage.settle()
    assert stage.procedure("p").state == "fluid"
    assert {wave.topic for wave in stage.waves} == {"success", "failure"}
    for name in ("x90", "x91"):
        record.ran("p", True, "t", id_=name)
    stage.settle()
    assert [(wave.topic, wave.run.id) for wave in stage.waves[-3:]] == [
        ("success", "x90"), ("success", "x91"), ("crystallized", "x91"),
    ]  # fmt: skip


def test_strength_is_how_far_an_outcome_is_from_what_was_expected():
    record = Record()
    for n in range(9):
        record.ran("p", n < 8, f"t{n}")
    stage = learnt(record)
    first, *_, last = stage.waves
    assert (first.topic, first.strength) == ("success", 0.5)
    assert (last.topic, last.strength) == ("failure", pytest.approx(0.9))


class Shell:
    """What waves need of a process."""

    def __init__(self):
        self.clock = Clock()
        self.clock.now = START / 1_000
        self.health = self
        self.nc = self
        self.sent = []
        self.errors = []
        self.down = False

    async def publish(self, subject, body):
        if self.down:
            raise OSError("away")
        self.sent.append((subject, msgspec.json.decode(body)))

    def failed(self, error):
        self.errors.append(error)


def waves(count, topic="success", at=START, procedure="p"):
    ran = [
        Ran(id=f"r{n}", seq=n + 1, at_ms=at, procedure=procedure, success=True, task="x" * 999, arrived_ms=at)
        for n in range(count)
    ]
    return News(waves=[Wave(topic, run, 0.5) for run in ran])


def publish(told):
    async def some():
        running = asyncio.create_task(told.run())

        async def done():
            return not told._waiting

        await until_async(done, "all is told")
        running.cancel()

    asyncio.run(some())


def test_waves_are_bounded_by_tenant_and_time_and_those_of_crystals_apart():
    shell = Shell()
    told = Waves(shell, 3.0)
    told.tell("acme", waves(10))
    told.tell("zoo", waves(2))
    told.tell("acme", waves(2, "crystallized"))
    told.tell("acme", waves(9, "dissolved"))
    told.tell("acme", waves(5, at=START - 60_000))
    publish(told)
    assert [subject for subject, _ in shell.sent] == [
        *["mem.acme.notify.success"] * 3, *["mem.zoo.notify.success"] * 2, *["mem.acme.notify.crystallized"] * 2,
        "mem.acme.notify.dissolved",
    ]  # fmt: skip
    assert shell.sent[0][1] == {"procedure": "p", "agent": "", "strength": 0.5, "task": "x" * 300, "run": "r0"}
    shell.clock.now += 1.0
    told.tell("acme", waves(10, at=START + 1_000))
    publish(told)
    assert len(shell.sent) == 11


def test_what_is_old_is_not_told_and_takes_no_room():
    told = Waves(Shell(), 3.0)
    told.tell("acme", waves(5, at=START - 60_000))
    assert not told._waiting
    told.tell("acme", waves(5, at=START - 14_000))
    assert len(told._waiting) == 3


def test_silence_saves_up_no_more_than_a_second_of_waves():
    shell = Shell()
    told = Waves(shell, 3.0)
    told.tell("acme", waves(5))
    shell.clock.now += 60
    told.tell("acme", waves(5, at=START + 60_000))
    assert len(told._waiting) == 6


def test_less_than_one_a_second_is_one_at_first_and_then_in_time():
    shell = Shell()
    told = Waves(shell, 0.5)
    for seconds, waiting in ((0, 1), (1, 1), (1, 2)):
        shell.clock.now += seconds
        told.tell("acme", waves(2, at=int(shell.clock.now * 1_000)))
        assert len(told._waiting) == waiting


def test_waves_that_wait_and_tenants_that_are_known_are_bounded(monkeypatch):
    monkeypatch.setattr(learn_waves, "_WAITING_MAX", 4)
    monkeypatch.setattr(learn_waves, "_TENANTS_MAX", 3)
    told, before = Waves(Shell(), 1.0), metrics.waves_dropped._value.get()
    for n in range(20):
        told.tell(f"t{n}", waves(1))
    assert len(told._waiting) == 4
    assert metrics.waves_dropped._value.get() - before == 16
    for n in range(20):
        told._waiting.clear()
        told.tell(f"t{n}", waves(1))
        assert len(told._room) <= 4


def test_a_broker_that_is_away_costs_waves_and_nothing_else():
    shell = Shell()
    shell.down = True
    told = Waves(shell, 3.0)
    told.tell("acme", waves(2))
    publish(told)
    assert len(shell.errors) == 2


def test_a_run_without_a_procedure_makes_no_wave():
    record = Record()
    record.ran("", True)
    assert learnt(record).waves == []


@pytest.mark.parametrize("kinds", [[], ["follows"], ["similar_to", "context_related"]])
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_neighbours_are_those_of_a_graph_of_the_kinds_asked_for(kinds, hops):
    chance = np.random.default_rng(7)
    names = [f"p{n}" for n in range(25)]
    every = ("similar_to", "context_related", "follows")
    edges = relations.bounded(
        relations.Edge(one, other, kind, float(chance.random()))
        for one in names for other in names for kind in every
        if one != other and chance.random() < 0.15
    )  # fmt: skip
    graph = relations.graph(edges)
    found = shown.related(study.Related(graph), Related(id="p0", kinds=kinds, hops=hops, limit=100))
    strongest = {}
    for edge in sorted(edges, key=lambda each: each.strength):
        if not kinds or edge.kind in kinds:
            strongest[edge.source, edge.target] = edge
    wanted = {}
    walks = [["p0"]]
    for _ in range(hops):
        walks = [[*walk, to] for walk in walks for one, to in strongest if one == walk[-1]]
        for walk in walks:
            strength = float(np.prod([strongest[ends].strength for ends in pairwise(walk)]))
            wanted[walk[-1]] = max(wanted.get(walk[-1], 0.0), strength)
    wanted.pop("p0", None)
    assert found
    assert {each.id: each.strength for each in found} == pytest.approx(wanted)
    assert [each.strength for each in found] == sorted((each.strength for each in found), reverse=True)
    for each in found:
        assert each.path[0] == "p0" and each.path[-1] == each.id and len(set(each.path)) == len(each.path) <= hops + 1
        assert each.strength == pytest.approx(np.prod([strongest[ends].strength for ends in pairwise(each.path)]))
        assert strongest[each.path[-2], each.id].kind == each.kind
    few = shown.related(study.Related(graph), Related(id="p0", kinds=kinds, hops=hops, limit=3))
    assert few == found[:3]


def test_who_asks_again_after_more_runs_draws_again():
    record = Record()
    for n in range(20):
        record.ran("plan", n % 2 == 0, "task")
        record.ran("quite another", n % 2 == 0, "another")
    stage = learnt(record)

    def drawn():
        found = [stage.recommend("task", explore="thompson", seed=f"s{n}").procedures for n in range(20)]
        return np.array([each.drawn for one in found for each in one if each.id == "plan"])

    first = drawn()
    assert (drawn() == first).all()
    record.ran("quite another", True, "another")
    stage.settle()
    assert np.abs(drawn() - first).mean() > 0.02, "else the same question would try the same procedure for ever"


def test_another_model_has_vectors_of_another_length():
    stage = learnt(Record())
    batch = stage.store.batch()
    stage.rows.set_dimensions(batch, 384)
    stage.store.write(batch, sync=False)
    assert stage.rows.dimensions() == 384
    batch = stage.store.batch()
    stage.rows.set_model(batch, "another")
    stage.store.write(batch, sync=False)
    assert (stage.rows.model(), stage.rows.dimensions()) == ("another", 0)
