"""Runs that are written down while they go on."""

import asyncio
import logging
from contextlib import suppress

import msgspec
import pytest

from jetmem import client
from jetmem.client import NotStored, Outgoing, Receipt, Refused
from jetmem.client.ids import Ids
from jetmem.client.outgoing import prepare
from jetmem.client.runs import CANCELLED_S, INPUTS_BYTES_MAX, LESSONS_MAX, STEPS_MAX, AsyncRun, given_steps
from jetmem_schemas.events import PAYLOAD_BYTES_MAX


class Sink:
    """Takes reports, or says that nobody acknowledges them."""

    def __init__(self, *, stores=True):
        self.bodies = []
        self.timeouts = []
        self.stores = stores
        self.ids = Ids()

    def prepare(self, out):
        return prepare(out, "acme", "alice", self.ids)

    async def publish(self, out, timeout_s):
        prepared = self.prepare(out)
        assert prepared.subject == "mem.acme.run.alice.s1"
        self.bodies.append(msgspec.json.decode(prepared.payload))
        self.timeouts.append(timeout_s)
        if not self.stores:
            raise NotStored("no answer", [prepared.again()])
        return Receipt(prepared.id, len(self.bodies))

    def run(self, task="make the tests pass", **fields):
        return AsyncRun(self.prepare, self.publish, {"task": task, **fields}, "s1", None, 60.0)


@pytest.fixture
def sink():
    return Sink()


def _done(run, work=lambda run: None):
    async def go():
        async with run:
            work(run)

    asyncio.run(go())


def test_what_was_done_is_reported_with_how_long_it_took(sink):
    run = sink.run(procedure="plan-then-code", context={"lang": "python"})

    def work(run):
        run.step("plan")
        run.step("pytest", input={"path": "tests"}, ok=True, ms=1200)
        run.lesson("read the log first")
        run.reward, run.cost = 0.8, 0.02

    _done(run, work)
    [body] = sink.bodies
    assert body.pop("duration_ms") >= 0
    assert body == {
        "id": run.id,
        "task": "make the tests pass",
        "procedure": "plan-then-code",
        "context": {"lang": "python"},
        "success": True,
        "steps": [{"tool": "plan"}, {"tool": "pytest", "input": {"path": "tests"}, "ok": True, "ms": 1200.0}],
        "lessons": ["read the log first"],
        "reward": 0.8,
        "cost": 0.02,
    }
    assert (run.receipt, run.unreported, sink.timeouts) == (Receipt(run.id, 1), None, [60.0])


def test_an_exception_makes_it_fail_and_goes_on(sink):
    def work(run):
        run.step("plan")
        run.succeed()
        raise ValueError("no such table")

    with pytest.raises(ValueError, match="no such table"):
        _done(sink.run(), work)
    [body] = sink.bodies
    assert (body["success"], body["failure"], len(body["steps"])) == (False, "ValueError: no such table", 1)


def test_a_reason_that_was_told_stays_beside_an_exception(sink):
    def work(run):
        run.fail("the tests are red")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        _done(sink.run(), work)
    assert sink.bodies[0]["failure"] == "the tests are red"


def test_it_may_fail_without_an_exception_and_not_fail_after_all(sink):
    _done(sink.run(), lambda run: run.fail())
    _done(sink.run(), lambda run: (run.fail("x"), run.succeed()))
    assert [(body["success"], "failure" in body) for body in sink.bodies] == [(False, False), (True, False)]


def test_who_is_cancelled_is_reported_too_and_not_kept_long(sink):
    async def go():
        async with sink.run():
            await asyncio.Event().wait()

    async def cancelled():
        task = asyncio.ensure_future(go())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert (sink.bodies[0]["failure"], sink.timeouts) == ("CancelledError", [CANCELLED_S])


def test_a_run_that_nobody_acknowledges_is_handed_back():
    sink = Sink(stores=False)
    run = sink.run()
    with pytest.raises(NotStored) as caught:
        _done(run)
    [pending] = caught.value.pending
    assert (run.unreported, pending.id, pending.kind) == (caught.value, run.id, "run")
    again = msgspec.json.decode(sink.prepare(pending).payload)
    assert (again["id"], again["task"]) == (run.id, "make the tests pass")


def test_an_exception_goes_on_though_the_run_is_not_stored_and_says_so():
    sink = Sink(stores=False)
    run = sink.run()

    def work(run):
        raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        _done(run, work)
    assert f"the run {run.id} was not stored" in caught.value.__notes__[0]
    assert isinstance(run.unreported, NotStored) and run.unreported.pending[0].id == run.id


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task": ""}, "task"),
        ({"procedure": "x" * 257}, "procedure"),
        ({"context": {"a": []}}, "context[...]"),
        ({"reward": 2}, "reward"),
        ({"lessons": "one"}, "lessons"),
        ({"id": "no space"}, "id"),
        ({"ts": 10**17}, "ts"),
    ],
)
def test_what_would_never_be_stored_is_refused_before_the_work(sink, fields, field):
    with pytest.raises(Refused) as caught:
        sink.run(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "wrong",
    [
        lambda run: run.step("x" * 257),
        lambda run: run.step(object()),
        lambda run: run.step("a", ms=-1),
        lambda run: run.step("a", ok="yes"),
        lambda run: run.lesson("x" * 4097),
        lambda run: run.lesson(7),
        lambda run: [run.lesson("x") for _ in range(LESSONS_MAX + 1)],
        lambda run: setattr(run, "reward", 1.1),
        lambda run: setattr(run, "reward", float("nan")),
        lambda run: setattr(run, "cost", "much"),
    ],
)
def test_what_is_written_down_wrongly_is_said_at_once_and_harms_no_report(sink, wrong):
    run = sink.run()

    def work(run):
        run.step("good")
        with pytest.raises(Refused):
            wrong(run)

    _done(run, work)
    assert sink.bodies[0]["steps"] == [{"tool": "good"}]


class _Mute:
    def __repr__(self):
        raise RuntimeError


class _Unsayable(Exception):
    def __str__(self):
        raise RuntimeError


def test_inputs_are_kept_as_they_were_and_written_as_far_as_they_can_be(sink):
    changing = {"n": 1}
    deep = []
    for _ in range(40):
        deep = [deep]
    cyclic = []
    cyclic.append(cyclic)
    given = [changing, {1}, object, {("a",): 1}, "\ud800", deep, cyclic, _Mute(), float("nan"), None, 0]

    def work(run):
        for each in given:
            run.step("a", input=each)
        changing["n"] = 2

    _done(sink.run(), work)
    kept = [step.get("input") for step in sink.bodies[0]["steps"]]
    assert kept[:5] == [{"n": 1}, [1], "<class 'object'>", {"('a',)": 1}, "'\\ud800'"]
    assert kept[5].startswith("[[[[") and kept[6] == "[[...]]" and kept[7] == "(_Mute)"
    assert kept[8:] == [None, None, 0]


def test_failures_and_lessons_of_any_text_are_reported(sink):
    def work(run):
        run.lesson("\ud800")
        raise _Unsayable

    with pytest.raises(_Unsayable):
        _done(sink.run(), work)
    assert (sink.bodies[0]["failure"], sink.bodies[0]["lessons"]) == ("_Unsayable", ["\\ud800"])
    _done(sink.run(), lambda run: run.fail("é" * 100_000 + "\udfff"))
    assert len(sink.bodies[1]["failure"]) == 4096


def _many(run):
    for _ in range(STEPS_MAX + 5):
        run.step("a", input="x" * 1000)


def _wide(run):
    for _ in range(STEPS_MAX):
        run.step("\x01" * 256)
    for _ in range(LESSONS_MAX):
        run.lesson("\x01" * 4096)


@pytest.mark.parametrize(
    ("task", "work", "steps", "told"),
    [
        ("t", _many, STEPS_MAX, "steps beyond the first 1,000, inputs of its steps beyond 512 KiB"),
        ("x" * (PAYLOAD_BYTES_MAX - 200_000), _many, STEPS_MAX, "the inputs of its steps"),
        ("t", _wide, 0, "its steps and lessons"),
    ],
)
def test_a_run_that_is_too_large_is_reported_as_far_as_it_fits(sink, caplog, task, work, steps, told):
    with caplog.at_level(logging.WARNING, "jetmem.client"):
        _done(sink.run(task), work)
    [body] = sink.bodies
    assert len(body.get("steps", [])) == steps
    assert told in caplog.text
    inputs = sum(len(step.get("input", "")) for step in body.get("steps", []))
    assert inputs <= INPUTS_BYTES_MAX


def test_a_run_is_recorded_once(sink):
    run = sink.run()
    _done(run)
    with pytest.raises(RuntimeError, match="once"):
        _done(run)
    assert len(sink.bodies) == 1


def test_the_wrong_kind_of_with_is_said(sink):
    with pytest.raises(TypeError, match="async with"), sink.run():
        pass

    async def inside():
        with client.run("t", tenant="acme", session="s1"):
            pass

    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(inside())


@pytest.mark.parametrize("fields", [{"tenant": "a b"}, {"session": "_"}, {"server": "http://x"}, {"task": ""}])
def test_a_plain_run_too_is_refused_before_the_work(fields):
    with pytest.raises(Refused):
        client.run(**{"task": "t", "tenant": "acme", "session": "s1", **fields})


def test_a_plain_run_that_reaches_no_broker_is_handed_back():
    where = {"tenant": "acme", "session": "s1", "server": "nats://127.0.0.1:1", "publish_timeout_s": 0.3}
    with pytest.raises(NotStored) as caught, client.run("t", **where) as run:
        run.step("a")
    assert isinstance(caught.value.pending[0], Outgoing)
    lost = client.run("t", **where)
    with suppress(ZeroDivisionError), lost:
        raise ZeroDivisionError
    assert isinstance(lost.unreported, NotStored)


def test_names_of_steps_alone_will_do():
    assert given_steps(["a", {"tool": "b"}]) == [{"tool": "a"}, {"tool": "b"}]


@pytest.mark.parametrize("steps", ["plan", b"plan", {"tool": "plan"}])
def test_one_step_alone_is_no_list_of_its_letters(steps):
    with pytest.raises(Refused, match="steps must be a list") as caught:
        given_steps(steps)
    assert caught.value.field == "steps"
