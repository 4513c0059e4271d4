"""persist as several processes that share the partitions, each with a store of its own."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import msgspec
import nats.errors

from harness.broker import Broker
from harness.persist_process import Client, PersistProcess
from harness.waiting import until_async
from jetmem_schemas import subjects
from jetmem_schemas.internal import decode_entry
from jetmem_schemas.owning import Owned


def tenants_of(parts: list[int], each: int = 1) -> list[str]:
    """So many tenants in each of these partitions."""
    found: dict[int, list[str]] = {part: [] for part in parts}
    number = 0
    while any(len(names) < each for names in found.values()):
        name = f"t{number}"
        names = found.get(subjects.partition_of(name))
        if names is not None and len(names) < each:
            names.append(name)
        number += 1
    return [name for names in found.values() for name in names]


class Shards:
    """Processes of one stage by ordinal; `start` again with another number of shards moves partitions."""

    def __init__(self, broker: Broker, data: Path, *, stage: str = "persist", **settings: Any) -> None:
        self.broker = broker
        self.data = data
        self.stage = stage
        self.settings = settings
        self.processes: dict[int, PersistProcess] = {}

    def start(self, *ordinals: int, shards: int, **settings: Any) -> None:
        for shard in ordinals:
            if shard not in self.processes:
                folder = self.data / str(shard)
                self.processes[shard] = PersistProcess(self.broker, folder, stage=self.stage, **self.settings)
            self.processes[shard].start(shard=shard, shards=shards, **settings)

    def stop(self, *ordinals: int) -> None:
        for shard in ordinals:
            code = self.processes[shard].stop()
            assert code in (0, -signal.SIGTERM), f"{code}: {self.said(shard)}"  # just started, it does not listen yet

    def kill(self, *ordinals: int) -> None:
        for shard in ordinals:
            self.processes[shard].kill()

    def restart(self, *ordinals: int, shards: int) -> None:
        """With another number, as a rolling restart does."""
        for shard in ordinals:
            if shard in self.processes and self.processes[shard].running():
                self.stop(shard)
            self.start(shard, shards=shards)

    def said(self, shard: int) -> str:
        return self.processes[shard].said()[-3000:]

    def end(self) -> None:
        for process in self.processes.values():
            if process.running():
                process.kill()

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


async def owners(c: Client) -> list[Owned]:
    """The table, or an empty one."""
    try:
        found = await c.js.get_last_msg(subjects.OWNERS, subjects.owners("persist"))
    except nats.js.errors.NotFoundError:
        return []
    return msgspec.json.decode(found.data, type=list[Owned])


async def moved(c: Client, shards: int, deadline_s: float = 60) -> list[Owned]:
    """Wait until every partition is where `--shards` wants it, and nowhere else."""
    table: list[Owned] = []

    async def done() -> bool:
        nonlocal table
        table = await owners(c)
        return bool(table) and all(
            line.owner == part % shards and line.store and not line.left for part, line in enumerate(table)
        )

    try:
        await until_async(done, f"the partitions are at {shards} shards", deadline_s)
    except AssertionError as error:
        raise AssertionError(f"{error}: {[(n, p.owner, p.left) for n, p in enumerate(table)]}") from error
    return table


async def answers(c: Client, tenant: str) -> bool:
    """Whether the tenant's owner answers."""
    try:
        return (await c.ask("status", tenant)).healthy
    except (nats.errors.Error, AssertionError):
        return False


async def recorded(c: Client, seq: int, *tenants: str) -> None:
    """Wait until the owners of these tenants have read up to `seq`."""

    async def reached(tenant: str) -> bool:
        try:
            return bool((await c.ask("cover", tenant, after=seq, wait_ms=1000)).covered)
        except (nats.errors.Error, AssertionError):
            return False

    waits = (until_async(lambda each=t: reached(each), f"{seq} is recorded for {t}", 60) for t in tenants)
    await asyncio.gather(*waits)


async def timeline(c: Client, tenant: str) -> list[str]:
    """Ids of a tenant's events, as pages show them."""
    found: list[str] = []
    cursor = b""
    while True:
        page = await c.ask("timeline", tenant=tenant, limit=1000, descending=False, cursor=cursor)
        found += [decode_entry(each).id for each in page.entries]
        cursor = page.cursor
        if not cursor:
            return found
