"""Several processes of each stage that has a store: everything is found, and who is away hurts its own."""

import asyncio
import contextlib
from contextlib import ExitStack

import msgspec
import nats
import nats.errors

from harness.broker import Broker
from harness.files import grep
from harness.persist_process import Client, PersistProcess, run
from harness.shards import Shards, moved, tenants_of
from harness.waiting import until_async
from jetmem_schemas import subjects
from jetmem_schemas.failures import ERROR_CODE_HEADER

STAGES = ("persist", "index", "summarize", "learn")
PROJECTIONS = STAGES[1:]
TENANTS = tenants_of(list(range(subjects.PARTITIONS)))


def of(shard, shards=4):
    return [tenant for tenant in TENANTS if subjects.partition_of(tenant) % shards == shard]


class Line:
    def __init__(self, nc, stages, data):
        self.c = Client(nc)
        self.stages = stages
        self.data = data

    async def query(self, tenant, verb, **request):
        reply = await self.c.nc.request(subjects.query(tenant, verb), msgspec.json.encode(request), timeout=30)
        body = msgspec.json.decode(reply.data)
        code = (reply.headers or {}).get(ERROR_CODE_HEADER)
        return {"error": code, **body} if code else body

    async def say(self, tenant, id_, text):
        return await self.c.publish({"id": id_, "text": text}, f"mem.{tenant}.event.alice.s1")

    async def ran(self, tenant, id_, procedure):
        body = {"id": id_, "task": f"what {procedure} is for", "procedure": procedure, "success": True}
        return await self.c.publish(body, f"mem.{tenant}.run.alice.s1")

    async def all_learnt(self, *procedures):
        """Until every tenant has exactly these."""
        for tenant in TENANTS:

            async def known(tenant=tenant):
                found = await self.query(tenant, "procedures")
                return "error" not in found and sorted(each["id"] for each in found["procedures"]) == [*procedures]

            await until_async(known, f"{tenant} has learnt {procedures}", 90)

    async def finds(self, tenant, query, *ids, **how):
        """Until a search finds exactly these and nothing is missing from the answer."""
        last = {}

        async def found():
            nonlocal last
            try:
                last = await self.query(tenant, "search", query=query, mode="text", **how)
            except nats.errors.Error:
                return False
            return not last.get("degraded") and sorted(hit["id"] for hit in last.get("hits", [{"id": ""}])) == [*ids]

        try:
            await until_async(found, f"{tenant} finds {ids}", 90)
        except AssertionError as error:
            raise AssertionError(f"{error}: {str(last)[:1000]}") from error

    async def all_find(self, query, *ids, tenants=TENANTS):
        for start in range(0, len(tenants), 8):
            await asyncio.gather(*(self.finds(tenant, query, *ids) for tenant in tenants[start : start + 8]))


def on(tmp_path, body, number):
    async def go(broker, stages):
        nc = await nats.connect(broker.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
        try:
            await body(Line(nc, stages, tmp_path))
        finally:
            await nc.close()

    with ExitStack() as held:
        broker = held.enter_context(Broker())
        quick = {"persist_purge_delay_s": 0.1}
        stages = {name: held.enter_context(Shards(broker, tmp_path, stage=name, **quick)) for name in STAGES}
        for shards in stages.values():
            shards.start(*range(number), shards=number)
        held.enter_context(PersistProcess(broker, tmp_path / "query", stage="query"))
        run(go(broker, stages))


def test_four_of_each_find_and_forget_all_and_one_that_is_away_is_missed_by_its_tenants_only(tmp_path):
    async def body(line):
        await moved(line.c, 4, 120)
        for tenant in TENANTS:
            await line.say(tenant, "a", f"zanzibar of {tenant}")
            await line.say(tenant, "gone", f"zanzibar secretword of {tenant}")
        await line.all_find("zanzibar", "a", "gone")
        await line.all_learnt()
        for tenant in (of(0)[0], of(1)[0], of(2)[0], of(3)[0]):
            shard = subjects.partition_of(tenant) % 4
            status = await line.query(tenant, "status")
            names = {each["id"] for each in status["stages"] if each["stage"] in STAGES}
            assert names == {f"{stage}-{shard}" for stage in STAGES}
            assert status["events"] == 2
        replies = await asyncio.gather(*(line.query(tenant, "forget", ids=["gone"]) for tenant in TENANTS))
        assert {(r["state"], tuple(r["waiting"]), r["erased"]) for r in replies} == {("applied", (), 1)}
        await line.all_find("zanzibar", "a")
        for tenant, reply in zip(TENANTS, replies, strict=True):

            async def purged(tenant=tenant, seq=reply["seq"]):
                return (await line.query(tenant, "forget", seq=seq)).get("state") == "purged"

            await until_async(purged, f"the forget of {tenant} is purged", 90)
        assert grep(b"zanzibar of", line.data) != [], "what is there can be found"
        assert grep(b"secretword", line.data) == []

        line.stages["index"].kill(3)
        for tenant in of(3)[:4]:
            reply = await line.query(tenant, "search", query="zanzibar")
            assert "text" in reply["degraded"], reply
            assert [hit["id"] for hit in reply["hits"]] == ["a"], "from the table of contents, or the most recent"
        line.stages["persist"].kill(2)
        for tenant in of(2)[:4]:
            assert (await line.query(tenant, "search", query="zanzibar"))["error"] == "unavailable"
            assert (await line.query(tenant, "timeline"))["error"] == "unavailable"
            status = await line.query(tenant, "status")
            assert {each["stage"]: each["state"] for each in status["stages"]}["persist"] == "down"
        for tenant in TENANTS:
            await line.say(tenant, "b", f"zanzibar of {tenant}")
        await line.all_find("zanzibar", "a", "b", tenants=[*of(0), *of(1)])
        line.stages["index"].start(3, shards=4)
        line.stages["persist"].start(2, shards=4)
        await line.all_find("zanzibar", "a", "b")

    on(tmp_path, body, 4)


def test_projections_drop_what_is_anothers_and_fill_what_is_theirs_now(tmp_path):
    async def body(line):
        await moved(line.c, 2, 120)
        for tenant in TENANTS:
            await line.say(tenant, "a", f"zanzibar of {tenant}")
            await line.ran(tenant, "run", "mend")
        await line.all_find("zanzibar", "a")
        await line.all_learnt("mend")
        for stage in PROJECTIONS:
            line.stages[stage].restart(0, 1, shards=1)
        await line.all_find("zanzibar", "a")
        await line.all_learnt("mend")
        for tenant in TENANTS:  # who is beyond the last keeps nothing, and answers for nobody
            reply = await line.query(tenant, "search", query="zanzibar", mode="text")
            assert (reply["degraded"], [hit["id"] for hit in reply["hits"]]) == ([], ["a"])
        for tenant in TENANTS:
            await line.say(tenant, "gone", f"zanzibar secretword of {tenant}")
            await line.ran(tenant, "gone-run", "secretword")
        await line.all_find("zanzibar", "a", "gone")
        await line.all_learnt("mend", "secretword")
        for stage in PROJECTIONS:
            line.stages[stage].restart(0, 1, shards=2)
        for tenant in TENANTS:
            reply = await line.query(tenant, "forget", ids=["gone", "gone-run"])
            assert reply["erased"] == 2
        await line.all_find("zanzibar", "a")
        await line.all_learnt("mend")

        folders = [line.data / str(shard) / stage for shard in range(2) for stage in PROJECTIONS]

        async def rid():
            with contextlib.suppress(FileNotFoundError):  # a folder that goes while it is looked into
                return grep(b"secretword", *folders) == []
            return False

        await until_async(rid, "no file of a projection holds what it dropped or forgot", 90)

    on(tmp_path, body, 2)
