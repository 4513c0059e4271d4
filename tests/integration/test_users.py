"""Users against a real nats-server: two tenants, every stage with its own user, refusals that are errors at once."""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest

from harness.broker import Broker
from harness.certificates import certified
from harness.persist_process import Client
from harness.pipeline import Pipeline, quiet
from harness.shards import Shards, moved, recorded, timeline
from harness.waiting import until_async
from jetmem import flow, rights
from jetmem.adapters.nats_streams import ensure, last_message, stream_info
from jetmem.adapters.tenant_settings import Bucket
from jetmem.client import ClientError, NotStored, Outgoing, PermissionDenied, Unavailable, Unreachable, connect
from jetmem.client.keys import identity
from jetmem.index.settings import IndexSettings
from jetmem.persist.settings import PersistSettings
from jetmem.runtime.settings import Common
from jetmem.testing.encoder import FakeEncoder
from jetmem.users import Users, configuration
from jetmem_schemas import subjects
from jetmem_schemas.requests import VERBS

ACME, OTHER = "acme", "other"
#: What nobody but stages may touch, as it would be published to.
INTERNAL = (
    subjects.record(1),
    subjects.RECORD_HEADS,
    subjects.embed_job("index"),
    subjects.dead("conflict", ACME),
    subjects.service("persist", 1, "fetch"),
    subjects.service_status("persist"),
    subjects.service("persist", 1, "release"),
    subjects.tenant_settings(ACME),
    subjects.tenant_settings(OTHER),
    subjects.owners("persist"),
    subjects.memory_partition(1).replace(">", f"{ACME}.event.alice.s1"),
    subjects.memory(ACME, "derived", "alice", "node"),
    subjects.notify(ACME, "dead_letter"),
    subjects.discovery("INFO"),
    subjects.API_INFO,
    *(subjects.raw_stream_api(f"STREAM.{verb}", s) for verb in ("INFO", "PURGE", "DELETE", "MSG.GET") for s in
      (subjects.MEMORY, subjects.TENANTS, subjects.OWNERS)),
    subjects.raw_stream_api("CONSUMER.CREATE", subjects.MEMORY),
    "$SYS.REQ.SERVER.PING",
)  # fmt: skip
THEIRS = (
    *(subjects.memory(OTHER, kind, "bob", "s1") for kind in subjects.KINDS),
    *(subjects.query(OTHER, verb) for verb in VERBS),
)


class Place:
    """A broker, its users, and who connects as them."""

    def __init__(self, broker: Broker, users: Users) -> None:
        self.broker = broker
        self.users = users

    def key(self, name: str) -> str:
        (user,) = [each for each in self.users.read() if each.name == name]
        return str(self.users.key_file(user))

    def inbox(self, name: str) -> str:
        return identity(self.key(name)).inbox

    def connect(self, name: str, **how):
        tenant, _, rest = name.partition(".")
        agent = rest.partition(".")[2] or "alice"
        return connect(self.broker.url, tenant=tenant, agent=agent, creds=self.key(name), **how)

    def written(self) -> str:
        return configuration(self.users.read())

    def reload(self) -> None:
        self.broker.reload(self.written())

    async def operator(self):
        return await nats.connect(self.broker.url, error_cb=quiet, **identity(self.key(rights.OPERATOR)).options())

    def violations(self) -> list[str]:
        """What the server refused."""
        return [line for line in self.broker.log.read_text(encoding="utf-8").splitlines() if "Violation" in line]


@pytest.fixture
def place(tmp_path):
    users = Users(tmp_path / "users")
    for tenant in (ACME, OTHER):
        users.add(tenant, "owner")
    users.add(ACME, "writer", "alice")
    users.add(ACME, "reader")
    with Broker(accounts=configuration(users.read())) as broker:
        yield Place(broker, users)


@asynccontextmanager
async def streams(place):
    """The streams without stages, as the operator sees them."""
    nc = await place.operator()
    for stream in (subjects.MEMORY, subjects.RECORD, subjects.EMBED, subjects.DEAD, subjects.TENANTS, subjects.OWNERS):
        await ensure(nc, stream, Common())
    yield nc
    await nc.close()


@asynccontextmanager
async def stages(place, data: Path):
    """Every stage, each with its own key."""
    nc = await place.operator()
    line = Pipeline(place.broker, data, nc, IndexSettings(heap_bytes=15_000_000))
    line.fakes["embed"] = {"encoder": FakeEncoder()}
    line.common = {name: {"creds": place.key(name)} for name in flow.NAMES}
    line.settings["persist"] = PersistSettings(expire_every_s=0.1)
    try:
        await line.start(*flow.NAMES)
        yield line
    finally:
        await line.close()
        await nc.close()


async def forever(started):
    """Work that hears no answer; a refusal must end it."""
    await started
    await asyncio.Event().wait()


async def refused(client, work, subject):
    with pytest.raises(PermissionDenied) as denied:
        async with asyncio.timeout(20):
            await client.undenied(forever(work))
    assert denied.value.code == "denied" and denied.value.subject == subject.lower()


def test_every_stage_does_its_work_with_its_own_user(place, tmp_path):
    async def run():
        async with stages(place, tmp_path / "data") as line, place.connect("acme.owner") as owner:
            notes = []
            await owner.nats.subscribe(subjects.notify(ACME, ">"), cb=noted(notes))
            await Bucket(line.nc).change(ACME, {"timezone": "Asia/Tokyo"})
            events = [
                Outgoing(event={"id": f"e{n}", "text": f"zanzibar has number {n}"}, session="s1") for n in range(20)
            ]
            assert (await owner.publish_many(events)).count == 20
            async with place.connect("acme.writer.alice") as alice, place.connect("acme.reader") as reader:
                await alice.publish("the build is green", session="s2", id="green")
                reply = await alice.search("is the build green", after="mine", wait_ms=20_000)
                assert ("green" in [hit.id for hit in reply.hits], reply.degraded, reply.mode) == (True, [], "hybrid")
                assert [hit.id for hit in (await reader.search("zanzibar number", mode="text", limit=30)).hits]
                for verb, asked in (("timeline", {}), ("sessions", {}), ("agents", {}), ("topics", {}), ("status", {})):
                    await reader.ask(verb, asked)
                assert not {stage.state for stage in (await reader.status()).stages} & {"degraded", "down"}

            async def nodes():
                return (await owner.toc()).nodes

            await until_async(nodes, "summarize publishes nodes and persist takes them")
            await owner.publish("again, otherwise", session="s1", id="e1")

            async def told():
                return notes

            await until_async(told, "the dead letter is told")
            gone = await owner.forget(ids=["green"], reason="a test")
            assert (gone.state, gone.erased) == ("applied", 1)
            assert (await owner.get("green")).missing == ["green"]

            async def purged():
                return (await owner.forget(seq=gone.seq)).state == "purged"

            await until_async(purged, "streams and stores hold it no more")
            with pytest.raises(ClientError, match="the stream has no message of this sequence"):
                await owner.forget(seq=gone.seq + 10_000)
            await owner.publish("kept for no time", session="s2", id="short", expires_at="2020-01-01T00:00:00Z")

            async def expired():
                found = await last_message(line.nc, subjects.MEMORY, f"memp.*.{ACME}.forget.>")
                return b'"expired"' in found.data and (await owner.get("short")).missing

            await until_async(expired, "persist may forget what expires")
            assert place.violations() == []

    asyncio.run(run())


def test_partitions_move_with_the_user_of_persist(place, tmp_path):
    async def go(shards):
        nc = await place.operator()
        try:
            shards.start(0, shards=1)
            await moved(Client(nc), 1)
            async with place.connect("acme.owner") as owner:
                last = (await owner.publish("it is here before", session="s1", id="a")).seq
            shards.restart(0, shards=2)
            shards.start(1, shards=2)
            await moved(Client(nc), 2)
            await recorded(Client(nc), last, ACME, OTHER)
            for tenant, ids in ((ACME, ["a"]), (OTHER, [])):
                assert await timeline(Client(nc), tenant) == ids
            assert place.violations() == []
        finally:
            await nc.close()

    with Shards(place.broker, tmp_path / "data", creds=place.key("persist")) as shards:
        asyncio.run(go(shards))


def noted(found):
    """A callback that keeps the subjects of what comes."""

    async def note(msg):
        found.append(msg.subject)

    return note


@pytest.mark.parametrize("name", ["acme.owner", "acme.writer.alice", "acme.reader"])
def test_what_is_not_ones_own_is_refused_at_once(place, name):
    async def run():
        async with streams(place) as nc, place.connect(name) as client:
            for subject in (*INTERNAL, *THEIRS):
                named = subject.replace(".notify.", ".not.notify.")  # led away before it is refused
                await refused(client, client.nats.publish(subject, b"{}"), named)
                await refused(client, client.nats.request(subject, b"{}", timeout=60), named)
            theirs = (
                subjects.memory(OTHER, "event", "bob", "s1"), subjects.notify(OTHER, "dead_letter"),
                subjects.notify("*", "dead_letter"), subjects.query(OTHER, "search"), subjects.query(ACME, "search"),
                subjects.record(1), subjects.memory_partition(1), subjects.service_all("persist", 1), ">",
                subjects.discovery("INFO"), subjects.tenant_settings(ACME), "_INBOX.>", f"{subjects.INBOX}.*.*",
                f"{place.inbox('other.owner')}.>", f"{place.inbox('query')}.>", subjects.ANSWERS_ACROSS,
            )  # fmt: skip
            for subject in theirs:
                await refused(client, client.nats.subscribe(subject), subject)
            for stream in (subjects.MEMORY, subjects.DEAD, subjects.RECORD, subjects.TENANTS):
                assert (await stream_info(nc, stream))["state"]["messages"] == 0

    asyncio.run(run())


def test_a_stage_is_refused_what_another_does(place):
    """A stage that is broken into is no more than that stage."""
    said = [subjects.memory(ACME, kind, "alice", "s1") for kind in subjects.KINDS]
    own = {"summarize": {said[-1]}, "query": {said[3]}, "persist": {said[3]}}  # what has expired is forgotten
    told = {name: [subjects.raw_stream_api("STREAM.DELETE", subjects.MEMORY), subjects.query(ACME, "forget"),
                   *(subject for subject in said if subject not in own.get(name, ())),
                   *([subjects.raw_stream_api("STREAM.PURGE", subjects.MEMORY), subjects.record(1),
                      subjects.raw_stream_api("CONSUMER.CREATE", subjects.MEMORY),
                      subjects.raw_stream_api("STREAM.MSG.GET", subjects.MEMORY)] if name != "persist" else [])]
            for name in flow.NAMES}  # fmt: skip
    heard = ("mem.>", ">", subjects.service_all("*", "*"), f"{subjects.INBOX}.>", f"{place.inbox('operator')}.>")

    async def run():
        for name in flow.NAMES:
            refusals = []

            async def note(error, refusals=refusals):
                refusals.append(str(error))

            nc = await nats.connect(place.broker.url, error_cb=note, **identity(place.key(name)).options())
            for subject in told[name]:
                await nc.publish(subject, b"{}")
            for subject in heard:
                await nc.subscribe(subject)

            async def all_told(name=name, refusals=refusals):
                return len(refusals) == len(told[name]) + len(heard)

            await until_async(all_told, f"{name} is refused everything: {refusals}")
            await nc.close()

    asyncio.run(run())


def test_the_sdk_says_so_in_its_own_words(place):
    async def run():
        async with streams(place), place.connect("acme.owner") as owner, contextlib.AsyncExitStack() as stack:
            other = owner.as_tenant(OTHER)
            with pytest.raises(PermissionDenied, match="may not publish to mem.other.event.alice.s1"):
                await other.publish("x", session="s1")
            for verb in ("search", "forget"):
                with pytest.raises(PermissionDenied, match=f"mem.other.query.{verb}"):
                    await other.ask(verb, {"query": "x"} if verb == "search" else {"all": True})
            alice = await stack.enter_async_context(place.connect("acme.writer.alice"))
            reader = await stack.enter_async_context(place.connect("acme.reader"))
            for client, agent in ((alice, "bob"), (reader, "alice")):
                with pytest.raises(PermissionDenied, match=f"mem.acme.event.{agent}.s1"):
                    await client.publish("x", session="s1", agent=agent)
            for client in (alice, reader):
                with pytest.raises(PermissionDenied, match=r"mem.acme.query.forget"):
                    await client.forget(all=True)
                with pytest.raises(PermissionDenied, match=r"mem.acme.forget"):
                    await client.publish_event(Outgoing(event={"all": True}, kind="forget", session="_", agent="_"))
            assert (await alice.publish("mine", session="s1")).seq == 1
            with pytest.raises(Unavailable, match="query service is not running"):
                await reader.search("what nobody answers")

    asyncio.run(run())


def test_no_answer_is_led_to_where_the_asker_may_not_publish(place):
    """The broker acknowledges to whatever place a publisher names, another's subject and an interface among them."""

    async def run():
        async with streams(place) as nc, place.connect("acme.owner") as owner:
            led = (
                *INTERNAL, *THEIRS, subjects.memory(ACME, "forget", "bob", "s1"), subjects.query(ACME, "forget"),
            )  # fmt: skip
            heard = []
            await nc.subscribe(subjects.QUERY_ALL, cb=noted(heard))
            await nc.subscribe(subjects.service_all("persist", 1), cb=noted(heard))
            await nc.flush()
            for subject in led:
                await owner.nats.publish(subjects.memory(ACME, "event", "alice", "s1"), b"{}", reply=subject)
            await owner.publish("last", session="s1")

            async def counts():
                found = [await stream_info(nc, s) for s in (subjects.MEMORY, subjects.DEAD, subjects.RECORD)]
                held = await stream_info(nc, subjects.TENANTS)
                return [each["state"]["messages"] for each in (*found, held)]

            assert await counts() == [len(led) + 1, 0, 0, 0]
            assert heard == []

    asyncio.run(run())


@pytest.mark.parametrize("upgraded", [False, True], ids=["from the start", "after a reload"])
def test_no_answer_is_led_to_what_another_tenant_listens_to(place, upgraded):
    """A notification is a stage's: neither an acknowledgement nor an answer comes as one, whoever asks for it there."""
    if upgraded:
        mappings = re.compile(r"^mappings: .*\n", re.MULTILINE)
        for text in (mappings.sub("", place.written()), place.written()):
            place.broker.reload(text)
    places = [
        *(subjects.notify(tenant, topic) for tenant in (OTHER, ACME, "*") for topic in ("dead_letter", "a.b.c")),
        f"{place.inbox('other.owner')}.*.*", f"{place.inbox('other.owner')}.>", f"{subjects.INBOX}.>", ">",
    ]  # fmt: skip

    async def run():
        async with streams(place) as nc, place.connect("acme.owner") as owner, place.connect("other.owner") as other:
            heard = []
            for client in (other, owner):
                await client.nats.subscribe(subjects.notify(client.tenant, ">"), cb=noted(heard))
                await client.nats.flush()
            await other.nats.subscribe(other.nats.new_inbox(), cb=noted(heard))
            await other.nats.flush()

            async def answer(msg):
                await nc.publish(msg.reply, b"an answer")

            await nc.subscribe(subjects.QUERY_ALL, cb=answer)
            await nc.flush()
            for led in places:
                await owner.nats.publish(subjects.memory(ACME, "event", "alice", "s1"), b"{}", reply=led)
                await owner.nats.publish(subjects.query(ACME, "search"), b"{}", reply=led)
            await owner.publish("all were answered before this", session="s1")
            assert (await owner.nats.request(subjects.query(ACME, "search"), b"{}", timeout=20)).data == b"an answer"
            by_stages = [subjects.notify(tenant, "last") for tenant in (ACME, OTHER)]
            for subject in by_stages:
                await nc.publish(subject, b"a stage's")

            async def last():
                return set(by_stages) <= set(heard)

            await until_async(last, "stages are heard")
            assert sorted(heard) == by_stages

    asyncio.run(run())


def test_a_user_that_is_revoked_is_cut_off(place):
    async def run():
        kept = shutil.copy(place.key("acme.writer.alice"), place.users.file.parent / "kept.nk")
        async with (
            streams(place),
            place.connect("acme.owner") as owner,
            connect(place.broker.url, tenant=ACME, agent="alice", creds=kept, publish_timeout_s=1.0) as alice,
        ):
            await alice.publish("still here", session="s1")
            place.users.revoke(ACME, agent="alice")
            place.reload()

            async def gone():
                return not alice.nats.is_connected

            await until_async(gone, "the broker cuts the connection")
            with pytest.raises(NotStored, match="Authorization Violation"):
                await alice.publish("no more", session="s1")
            with pytest.raises(PermissionDenied, match="refuses these credentials"):
                await connect(place.broker.url, tenant=ACME, creds=kept)
            await owner.publish("others go on", session="s1")
            assert owner.nats.stats["reconnects"] == 0
            place.users.add("third", "owner")
            place.reload()
            async with place.connect("third.owner") as third:
                assert (await third.publish("at once", session="s1")).seq == 3

    asyncio.run(run())


def commanded(place, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "jetmem", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stderr
    return done.stderr.strip() if code else done.stdout.strip()


def test_commands_make_users_and_use_them(place):
    folder = place.users.file.parents[1]
    made = json.loads(commanded(place, "tenant", "add", "third", "--agent", "carol", "--users", folder))
    assert (made["user"], made["role"], made["inbox_prefix"]) == (
        "third.writer.carol", "writer", place.inbox("third.writer.carol")
    )  # fmt: skip
    assert "already" in commanded(place, "tenant", "add", "third", "--agent", "carol", "--users", folder, code=2)
    assert "no one agent" in commanded(
        place, "tenant", "add", "x", "--agent", "a", "--role", "owner", "--users", folder, code=2
    )
    assert "--role" in commanded(place, "tenant", "add", "third", "--role", "root", "--users", folder, code=2)
    assert "bad_subject" in commanded(place, "tenant", "add", "a.b", "--users", folder, code=2)
    place.reload()
    at = ("--server", place.broker.url, "--creds")

    async def make():
        async with streams(place):
            pass

    asyncio.run(make())
    operator = (*at, place.key(rights.OPERATOR))
    commanded(place, "tenant", "set", ACME, "timezone=Asia/Tokyo", *operator)
    listed = commanded(place, "tenant", "list", "--users", folder, *operator).splitlines()
    assert [json.loads(each) for each in listed] == [
        {"tenant": ACME, "settings": {"timezone": "Asia/Tokyo"}, "users": ["owner", "reader", "alice:writer"]},
        {"tenant": OTHER, "settings": {}, "users": ["owner"]},
        {"tenant": "third", "settings": {}, "users": ["carol:writer"]},
    ]
    reader = (*at, place.key("acme.reader"))
    for command in (
        ("tenant", "set", ACME, "timezone=UTC"),
        ("tenant", "list"),
        ("dead-letters", "list"),
        ("publish", ACME, "alice", "s1", "hello"),
        ("forget", ACME, "--all", "--yes"),
        ("search", OTHER, "hello"),
    ):
        assert "denied: this user may not publish to" in commanded(place, *command, *reader, code=1), command
    gone = commanded(place, "tenant", "revoke", "third", "--yes", "--users", folder)
    assert json.loads(gone)["user"] == "third.writer.carol"
    assert "not_found" in commanded(place, "tenant", "revoke", "third", "--yes", "--users", folder, code=1)


def test_everything_goes_encrypted(tmp_path):
    users = Users(tmp_path / "users")
    users.add(ACME, "owner")
    made = certified(tmp_path)
    authority = str(made.authority)

    async def run(place):
        options = {"creds": place.key("persist"), "tls_ca": authority}
        line = Pipeline(place.broker, tmp_path / "data", None, IndexSettings())
        line.common = {"persist": options}
        try:
            await line.start("persist")
            async with place.connect("acme.owner", tls_ca=authority) as owner:
                assert (await owner.publish("nobody listens", session="s1")).seq == 1
            with pytest.raises(Unreachable, match=r"(?i)certificate"):
                await place.connect("acme.owner", connect_timeout_s=1.0)
        finally:
            await line.close()

    with Broker(accounts=made.tls + configuration(users.read())) as broker:
        asyncio.run(run(Place(broker, users)))
