"""Nodes told by an endpoint, over real HTTP: a stub that answers, and that misbehaves in every way we know."""

import asyncio
import threading
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from harness.endpoint import Stub
from harness.files import grep
from harness.pipeline import pipeline
from harness.toc_record import TENANT, Record, Stage, at_once
from harness.toc_tree import caught_up, check, tree
from harness.waiting import until_async
from jetmem.adapters import chat_endpoint
from jetmem.adapters.chat_endpoint import BadReply, ChatEndpoint, EndpointBusy, EndpointRefused
from jetmem.runtime import metrics
from jetmem.runtime.clock import SystemClock
from jetmem.runtime.health import Health
from jetmem.runtime.logs import logger
from jetmem.runtime.settings import SettingsError
from jetmem.summarize.app import build
from jetmem.summarize.rows import prefix
from jetmem.summarize.settings import SummarizeSettings
from jetmem.summarize.teller import Teller, _Paused
from jetmem.tasks import end
from jetmem_schemas.internal import StageStatus

DAY_1 = 1_767_607_200_000
KEY = "sk-very-secret"
SAID = [f"The {what} stands in the harbour, number {n}." for n, what in enumerate(["violin", "lantern", "engine"])]


@pytest.fixture
def stub():
    with Stub() as made:
        yield made


class Told:
    """A record, a stage over it, and a teller that asks a stub; each lap is called by hand."""

    def __init__(self, stub, *, later=False, **settings):
        self.stub = stub
        self.record = Record()
        for n, text in enumerate(SAID):
            self.record.say(text, DAY_1 + n, name=f"e{n}", author="Ann")
        if later:  # the segment before it stays closed, whatever is forgotten of it
            self.record.say("Two hours later.", DAY_1 + 7_200_000, name="later")
        how = {"endpoint_url": stub.url, "endpoint_model": "m", "endpoint_rest_s": 80_000.0, **settings}
        self.stage = Stage(self.record, jitter=0.0, **how)
        self.stage.settle()

    async def lap(self, timeout_s=5.0):
        async with self.teller(timeout_s) as teller:
            return await teller.lap()

    @asynccontextmanager
    async def teller(self, timeout_s=5.0):
        stage = self.stage
        endpoint = ChatEndpoint(self.stub.url, "m", KEY, timeout_s=timeout_s, clock=stage.clock)
        self.health = Health("summarize", stage.clock)
        self.health.ready = True
        shell = SimpleNamespace(clock=stage.clock, health=self.health, log=logger())
        try:
            yield Teller(shell, stage.it, stage.settings, endpoint, at_once, at_once)
        finally:
            await endpoint.close()

    def by(self, level="segment"):
        return next(node for node in self.record.nodes().values() if node.level == level).by

    def untold(self):
        return len(list(self.stage.store.scan("untold", prefix(TENANT))))


def counted(code):
    return metrics.told.labels(code)._value.get()


def test_a_closed_segment_is_told_and_then_what_is_above(stub):
    told = Told(stub, endpoint_rest_s=1.0)
    assert told.by() == "words"
    for _ in range(6):
        asyncio.run(told.lap())
        told.stage.settle()
    assert {node.by for node in told.record.nodes().values()} == {"endpoint"}
    assert told.untold() == 0
    segment = next(node for node in told.record.nodes().values() if node.level == "segment")
    assert segment.title == "Told by the endpoint"
    assert [bullet.text for bullet in segment.bullets] == [f"It was said: {text}" for text in SAID]
    assert [(grip.excerpt, grip.first) for grip in segment.grips] == [(text, f"e{n}") for n, text in enumerate(SAID)]
    assert segment.keywords and segment.terms
    day = told.record.nodes()["toc:day:2026-01-05"]
    assert {grip for bullet in day.bullets for grip in bullet.grips} <= {grip.id for grip in segment.grips}
    assert stub.keys[0] == f"Bearer {KEY}"
    assert stub.asked[0]["response_format"]["json_schema"]["strict"] is True
    count = len(stub.asked)
    again = Stage(told.record, jitter=0.0, endpoint_url=stub.url, endpoint_model="m")
    again.settle()
    assert again.published == 0, "what was told is recorded: nobody asks again after a rebuild"
    assert list(again.store.scan("untold", b"")) == []
    assert len(stub.asked) == count


def test_nobody_is_asked_while_the_record_takes_nothing(stub):
    told = Told(stub)
    told.record.say("and more", DAY_1 + 1_000)
    told.stage.clock.now += 3_600
    told.stage.read()
    told.stage.close()
    told.stage.make()
    told.stage.publish()
    for _ in range(3):  # MEMORY has it, persist did not read it yet
        assert asyncio.run(told.lap()) == 0
    assert stub.asked == []
    told.stage.settle()
    assert asyncio.run(told.lap()) == 1
    for _ in range(3):  # told, and on its way
        assert asyncio.run(told.lap()) == 0
    assert len(stub.asked) == 1
    told.stage.settle()
    assert told.by() == "endpoint"


def test_open_nodes_are_not_told(stub):
    told = Told(stub)
    told.record.say("and more", DAY_1 + 1_000)
    told.stage.clock.now += 100
    for _ in range(5):
        told.stage.read()
        told.stage.make()
        told.stage.publish()
        told.stage.clock.now += 20
    assert asyncio.run(told.lap()) == 0
    assert stub.asked == []


@pytest.mark.parametrize("how", ["broken", "busy", "closes", "garbage", "not_json", "wrong_shape", "empty", "no_words",
                                 "huge", "invented", "misplaced"])  # fmt: skip
def test_after_one_bad_reply_it_asks_again(stub, how):
    told = Told(stub)
    stub.script = [how]
    asyncio.run(told.lap())
    told.stage.make()
    told.stage.publish()
    told.stage.read()
    assert told.by() == "endpoint"
    assert len(stub.asked) == 2


@pytest.mark.parametrize("how", ["garbage", "not_json", "invented", "empty", "huge"])
def test_who_never_answers_well_leaves_the_node_in_its_own_words(stub, how):
    told = Told(stub)
    stub.script = [how] * 3
    before = counted("given_up")
    asyncio.run(told.lap())
    told.stage.settle()
    assert told.by() == "words"
    assert (len(stub.asked), counted("given_up")) == (3, before + 1)
    assert told.untold() == 4, "the others may still be told"


@pytest.mark.parametrize("how", ["broken", "busy", "closes"])
def test_who_does_not_answer_at_all_is_asked_later(stub, how):
    told = Told(stub)
    stub.script = [how] * 3
    with pytest.raises(_Paused):
        asyncio.run(told.lap())
    assert (told.by(), told.untold()) == ("words", 5)
    asyncio.run(told.lap())
    assert told.untold() < 5


def test_a_slow_endpoint_is_not_waited_for(stub):
    told = Told(stub, endpoint_tries=1)
    stub.script = ["slow"]
    with pytest.raises(_Paused, match="did not answer within"):
        asyncio.run(told.lap(timeout_s=0.3))
    assert told.by() == "words"


def test_retry_after_is_honoured(stub):
    told = Told(stub)
    stub.script, stub.retry_after = ["busy"], "600"
    with pytest.raises(_Paused) as paused:
        asyncio.run(told.lap())
    assert paused.value.for_s == 600
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    ("said", "seconds"), [("7", 7.0), ("Thu, 01 Jan 1970 00:01:00 GMT", 60.0), ("soon", 0.0), ("-5", 0.0), ("", 0.0)]
)
def test_retry_after_is_a_number_or_a_date(stub, said, seconds):
    class Clock:
        def now_ms(self):
            return 0

    async def ask():
        endpoint = ChatEndpoint(stub.url, "m", "", reply="text", timeout_s=5, clock=Clock())
        with pytest.raises(EndpointBusy) as busy:
            await endpoint.ask([], {}, 10)
        await endpoint.close()
        return busy.value.after_s

    stub.script, stub.retry_after = ["busy"], said
    assert asyncio.run(ask()) == seconds


@pytest.mark.parametrize(("how", "status"), [("denied", 401), ("unanswerable", 400)])
def test_a_wrong_set_up_is_said_without_the_key_and_gives_no_node_up(stub, how, status):
    told = Told(stub)
    stub.script = [how]
    with pytest.raises(_Paused) as paused:
        asyncio.run(told.lap())
    assert str(paused.value) == f"the endpoint answered {status}"
    assert told.untold() == 5


def test_one_question_that_cannot_be_answered_is_given_up(stub):
    told = Told(stub, later=True, endpoint_at_once=1)
    stub.script = ["good", *["unanswerable"] * 3]
    asyncio.run(told.lap())
    told.stage.settle(hours=0)
    assert sorted(node.by for node in told.record.nodes().values() if node.level == "segment") == ["endpoint", "words"]
    assert len(stub.asked) == 4


@pytest.mark.parametrize("reply", ["json_object", "text"])
def test_endpoints_without_schemas(stub, reply):
    async def ask():
        endpoint = ChatEndpoint(stub.url, "m", "", reply=reply, timeout_s=5, clock=SystemClock())
        answer = await endpoint.ask([{"role": "user", "content": "x"}, {"role": "user", "content": "[]"}], {}, 10)
        await endpoint.close()
        return answer

    stub.script = ["fenced"]
    assert "```" in asyncio.run(ask()).text
    assert stub.asked[0].get("response_format") == ({"type": "json_object"} if reply == "json_object" else None)
    assert stub.keys == [None]


def test_nobody_there_is_busy_and_errors_hold_no_address():
    async def ask():
        endpoint = ChatEndpoint("http://127.0.0.1:9/v1", "m", KEY, reply="text", timeout_s=5, clock=SystemClock())
        with pytest.raises((EndpointBusy, EndpointRefused, BadReply)) as failed:
            await endpoint.ask([], {}, 10)
        await endpoint.close()
        return failed.value

    error = asyncio.run(ask())
    assert isinstance(error, EndpointBusy)
    assert "127.0.0.1" not in str(error) and KEY not in str(error)


@pytest.mark.parametrize(
    "body",
    [b'{"choices": ' + b"[" * 50_000, b'{"choices": [], "usage": {"total_tokens": 1000000000000000000000000000000}}'],
)
def test_a_body_that_no_endpoint_would_send_is_no_reply(body):
    with pytest.raises(BadReply):
        chat_endpoint._read(body)


def test_a_budget_that_is_spent_leaves_nodes_extractive_until_the_next_hour(stub):
    told = Told(stub, endpoint_rest_s=1.0, endpoint_tokens_hour=2_000, endpoint_reply_tokens=1_000, endpoint_at_once=1)
    stub.tokens = 1_900
    asyncio.run(told.lap())
    told.stage.settle(hours=0)
    assert len(stub.asked) == 1, "what is above is not told before its children"
    with pytest.raises(_Paused, match="tokens of this hour are spent") as paused:
        asyncio.run(told.lap())
    assert 0 < paused.value.for_s <= 3_600
    assert told.by() == "endpoint" and told.by("year") == "words"
    asked = len(stub.asked)
    told.stage.open()
    with pytest.raises(_Paused):
        asyncio.run(told.lap())
    assert len(stub.asked) == asked
    told.stage.clock.now += 3_600
    asyncio.run(told.lap())
    assert len(stub.asked) > asked


def test_health_says_why_nodes_are_extractive(stub):
    told = Told(stub, endpoint_tokens_hour=2_000, later=True, endpoint_at_once=1)
    stub.tokens = 1_900

    async def body():
        async with told.teller() as teller:
            running = asyncio.create_task(teller.run())

            async def said():
                return told.health.note

            note = await until_async(said, "health has a note")
            assert note.startswith("the endpoint's 2000 tokens of this hour are spent; nodes are extractive for ")
            assert told.health.verdict() == (True, note)
            await end(running)

    asyncio.run(body())


def test_one_invented_bullet_is_dropped_and_counted(stub):
    told = Told(stub)
    stub.script = ["one_invented"]
    before = metrics.told_dropped._value.get()
    asyncio.run(told.lap())
    assert metrics.told_dropped._value.get() == before + 1
    told.stage.settle(hours=0)
    assert told.by() == "endpoint"
    assert "Invented." not in str(told.record.nodes())


def forget(told):
    told.record.forget({"e1"})
    for _ in range(3):
        while told.stage.read():
            continue
        told.stage.make()
        told.stage.publish()


def test_a_reply_that_comes_after_a_forget_is_not_used(stub):
    told = Told(stub, endpoint_tries=1)
    stub.held.clear()
    before = counted("outdated")

    async def lap():
        asking = asyncio.create_task(told.lap())
        await asyncio.to_thread(stub.arrived.acquire)
        forget(told)
        told.stage.make()
        stub.held.set()
        await asking

    asyncio.run(lap())
    assert counted("outdated") == before + 1
    told.stage.settle(hours=0)
    assert told.by() == "words"
    assert SAID[1] in stub.sent()
    assert SAID[1] not in str(told.record.nodes())


def test_no_try_after_a_forget_sends_what_was_forgotten(stub):
    told = Told(stub, later=True, endpoint_at_once=1)
    stub.held.clear()
    stub.script = ["broken"]

    async def lap():
        asking = asyncio.create_task(told.lap())
        await asyncio.to_thread(stub.arrived.acquire)
        forget(told)
        told.stage.make()
        stub.asked.clear()
        stub.held.set()
        await asking

    asyncio.run(lap())
    assert SAID[0] in stub.sent(), "it was asked again"
    assert SAID[1] not in stub.sent()


def test_an_endpoint_needs_a_model_and_its_key(tmp_path):
    from jetmem.runtime.settings import Common

    common = Common(data=str(tmp_path))
    with pytest.raises(SettingsError, match="endpoint_model"):
        build(common, SummarizeSettings(endpoint_url="http://localhost/v1"))
    with pytest.raises(SettingsError, match="cannot be read"):
        build(common, SummarizeSettings(endpoint_url="http://h/v1", endpoint_model="m", endpoint_key_file="none"))


def test_the_whole_stage_tells_and_never_shows_the_key(tmp_path, stub, capfd):
    key_file = tmp_path / "key"
    key_file.write_text(KEY + "\n")
    settings = SummarizeSettings(
        open_every_s=0.3, rollup_every_s=0.1, endpoint_url=stub.url, endpoint_model="m",
        endpoint_key_file=str(key_file), endpoint_rest_s=0.1,
    )  # fmt: skip
    stub.script = ["busy", "garbage"]

    async def body():
        async with pipeline(tmp_path) as line:
            line.settings["summarize"] = settings
            await line.start("persist", "summarize")
            for n, text in enumerate(SAID):
                await line.say(text, id=f"e{n}", ts=f"2026-05-0{n + 1}T10:00:00Z", author="Ann")
            await caught_up(line)

            async def told():
                return any(node.by == "endpoint" for node in (await tree(line)).values())

            await until_async(told, "a closed segment is told")
            await caught_up(line)
            check(await tree(line))
            status = await line.ask("summarize", "status", {"tenant": "acme"}, StageStatus)
            assert KEY not in str(status)
            assert not grep(KEY.encode(), line.data)

    asyncio.run(body())
    assert stub.keys[0] == f"Bearer {KEY}"
    out = capfd.readouterr()
    assert KEY not in out.out + out.err
    assert threading.active_count() < 50
