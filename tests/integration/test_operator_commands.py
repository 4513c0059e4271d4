"""`jetmem rebuild` and `jetmem trim` as processes, over stages that only answer."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager

import msgspec
import nats
import pytest

from harness.broker import Broker
from harness.waiting import DEADLINE_S
from jetmem.client.flushing import flushed
from jetmem.console import operator_commands
from jetmem_schemas import subjects
from jetmem_schemas.failures import ERROR_CODE_HEADER, ERROR_HEADER, Failure

BUSY = Failure("busy", "too many requests wait")


@pytest.fixture(scope="module")
def broker():
    with Broker() as running:
        yield running


async def jetmem(*arguments):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "jetmem", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    return process.returncode, out.decode().strip(), err.decode()


class Stages:
    """index, which is well until some time after it was told to begin anew, then away, then back; and query."""

    def __init__(self, nc):
        self.nc = nc
        self.told = False
        self.left = 3
        self.events = []
        self.sub = None
        self.refusal = None

    async def start(self):
        self.sub = await self.nc.subscribe(subjects.service_all("index", "all"), cb=self.index)
        await self.nc.subscribe(subjects.query("none", "status"), cb=self.query)
        await flushed(self.nc)

    async def index(self, msg):
        verb = msg.subject.rsplit(".", 1)[-1]
        self.events.append(verb)
        if self.refusal is not None:
            headers = {ERROR_CODE_HEADER: self.refusal.code, ERROR_HEADER: "x"}
            await self.nc.publish(msg.reply, msgspec.json.encode(self.refusal), headers=headers)
            return
        if verb == "status" and self.told:
            self.left -= 1
            if not self.left:
                await self.sub.unsubscribe()
                self.events.append("away")
        self.told = self.told or verb == "rebuild"
        await self.nc.publish(msg.reply, msgspec.msgpack.encode({"rebuilding": True}))

    async def query(self, msg):
        self.events.append("asked")
        turn = self.events.count("asked")
        if turn == 1:
            headers = {ERROR_CODE_HEADER: BUSY.code, ERROR_HEADER: BUSY.message}
            await self.nc.publish(msg.reply, msgspec.json.encode(BUSY), headers=headers)
            return
        state = "behind" if turn == 2 else "ok"
        body = dict.fromkeys(("events", "sessions", "agents", "dead_letters", "purging"), 0) | {
            "pending_vectors": 3 if turn == 3 else 0,
            "stages": [{"id": "index-0", "stage": "index", "state": state, "detail": "", "last_error": ""}],
            "fresh": {},
            "degraded": [],
            "stale": False,
            "took_ms": 1.0,
        }
        await self.nc.publish(msg.reply, msgspec.json.encode(body))


@asynccontextmanager
async def stages(broker):
    nc = await nats.connect(broker.url, allow_reconnect=False)
    made = Stages(nc)
    await made.start()
    try:
        yield made
    finally:
        await nc.close()


def test_rebuild_waits_until_the_stage_has_gone_and_come_back_and_caught_up(broker):
    async def main():
        async with stages(broker) as made:
            code, out, err = await jetmem("rebuild", "index", "--server", broker.url)
            assert (code, out) == (0, "rebuilt"), err
            assert made.events == ["rebuild", "status", "status", "status", "away", *["asked"] * 4]
            assert "waiting: too many requests wait" in err
            assert "index: behind, 0 texts without vector" in err
            assert "index: ok, 3 texts without vector" in err

    asyncio.run(main())


def test_a_stages_refusal_is_one_sentence(broker):
    async def main():
        async with stages(broker) as made:
            made.refusal = Failure("internal", "the request failed by a fault of ours")
            code, out, err = await jetmem("rebuild", "index", "--server", broker.url)
            assert (code, out) == (1, "")
            assert err.strip() == "jetmem: internal: the request failed by a fault of ours"
        code, _, err = await jetmem("trim", "--server", broker.url)
        assert (code, err.strip()) == (1, "jetmem: unavailable: stage persist is not running")

    asyncio.run(main())


@pytest.mark.parametrize("stage", ["query", "persist", "indxe"])
def test_only_projections_can_be_rebuilt(broker, stage):
    code, _, err = asyncio.run(jetmem("rebuild", stage, "--server", broker.url))
    assert code == 2
    assert err.strip() == f"jetmem: {stage} is no projection of the record; index, summarize, learn can be rebuilt"


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "acme", "x", "--mode", "foo"),
        ("search", "acme", "x", "--limit", "0"),
        ("search", "acme", "x", "--since", "yesterday"),
        ("search", "a b", "x"),
        ("timeline", "acme", "--order", "up"),
        ("get", "acme", "a b"),
        ("forget", "acme", "--session", "s1", "--yes"),
        ("forget", "acme", "--agent", "a", "--author", "b", "--yes"),
        ("publish", "acme", "a", "s", "x", "--ts", "2999-01-01"),
        ("publish", "acme", "a", "s", "x", "--role", "god"),
        ("publish", "acme", "a b", "s", "x"),
        ("publish", "acme", "a", "s", "x", "--importance", "3", "--server", "nats://127.0.0.1:1"),
        ("dead-letters", "list", "--limit", "0"),
        ("dead-letters", "list", "--code", "foo"),
        ("dead-letters", "drop", "--code", "foo", "--yes"),
        ("status", "acme", "--server", "http://127.0.0.1:1"),
    ],
    ids=" ".join,
)
def test_what_is_asked_wrongly_exits_with_2_and_asks_nobody(broker, arguments):
    where = () if "--server" in arguments else ("--server", broker.url)
    code, out, err = asyncio.run(jetmem(*arguments, *where))
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err and "unavailable" not in err


def test_no_broker_is_a_sentence_with_what_to_do(broker):
    code, _, err = asyncio.run(jetmem("status", "acme", "--server", "nats://127.0.0.1:1"))
    assert code == 1
    assert err.startswith("jetmem: unavailable: cannot reach nats://127.0.0.1:1")
    assert err.strip().endswith("; start one with `jetmem up`, or name another with --server")


def test_a_trim_is_a_sentence_for_people(monkeypatch, capsys):
    answer = {"first": 1, "last": 2_000, "bytes": 9, "keep_from": 1_001, "removed": 1_000, "dry_run": True}
    monkeypatch.setattr(operator_commands, "call", lambda *_: answer)
    operator_commands.trim(dry_run=True)
    assert json.loads(capsys.readouterr().out) == answer
    monkeypatch.setattr(operator_commands, "for_people", lambda _: True)
    operator_commands.trim(dry_run=True)
    assert capsys.readouterr().out == "1,000 messages would be removed from MEMORY; kept from sequence 1,001 on\n"
    answer["removed"] = 0
    operator_commands.trim(dry_run=False)
    assert capsys.readouterr().out == "nothing to trim: MEMORY holds 1 to 2,000, 9 bytes\n"
