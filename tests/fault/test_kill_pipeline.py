"""Every process of a real pipeline, killed in the middle of a load and started again by the supervisor.

Oracle: *lost* = acknowledged - readable, *unexpected* = readable - attempted; both empty, nothing twice, and what is
readable is found by its words and has its vector.
"""

import asyncio
import os
import random
import signal
from collections import Counter

import pytest

from harness.seeds import SEED
from harness.waiting import until_async
from jetmem import client
from jetmem.client import Outgoing
from jetmem.console.temporary import pipeline

TENANT = "killed"
ROUND = 400
SAMPLE = 120
#: embed gives way to everything else: on a crowded machine 2,400 texts take minutes.
DEADLINE_S = 400.0


def events(first, salt):
    """Each with a word of its own, in one of three sessions."""
    for number in range(first, first + ROUND):
        event = {"id": f"e{number}", "text": f"report {salt}x{number} about the harbour gate"}
        yield Outgoing(event=event, session=f"s{number % 3}", agent="alice")


async def kill(running, name):
    """SIGKILL, then wait until the supervisor has started another in its place."""
    died = running.processes()[name]
    os.kill(died, signal.SIGKILL)

    async def replaced():
        return running.processes().get(name) not in (None, died)

    await until_async(replaced, f"{name} is started again", DEADLINE_S)


async def load_and_kill(running, memory, names, rng, salt):
    """One round of events for each process, which dies somewhere in the middle of its round.

    A round goes before in which nobody dies: who holds nothing yet has nothing to lose.
    """
    first = await memory.publish_many(events(0, salt), timeout_s=DEADLINE_S)
    await caught_up(memory)
    acknowledged = first.count
    for turn, name in enumerate(names, 1):
        at = rng.randrange(ROUND)
        reached = asyncio.Event()

        async def source(first=turn * ROUND, at=at, reached=reached):
            for number, out in enumerate(events(first, salt)):
                if number == at:
                    reached.set()
                yield out
                if number % 20 == 0:
                    await asyncio.sleep(0)

        loading = asyncio.create_task(memory.publish_many(source(), timeout_s=DEADLINE_S))
        await reached.wait()
        await kill(running, name)
        acknowledged += (await loading).count
    return acknowledged


async def caught_up(memory):
    """Until every arm has everything."""

    async def fresh():
        try:
            reply = await memory.status(after="mine", wait_ms=1000)
        except client.ClientError:
            return False
        return not reply.degraded and not reply.stale and reply.pending_vectors == 0

    await until_async(fresh, "words and vectors of everything", DEADLINE_S)


async def play(rng, salt, names):
    async with (
        pipeline("jetmem-kill-", lambda _: None) as running,
        client.connect(running.url, tenant=TENANT, answer_s=30) as memory,
    ):
        acknowledged = await load_and_kill(running, memory, names, rng, salt)
        await caught_up(memory)
        attempted = {f"e{number}" for number in range((len(names) + 1) * ROUND)}
        readable = Counter([event.id async for event in memory.timeline_all()])
        assert acknowledged == len(attempted)
        assert attempted - set(readable) == set(), "lost"
        assert set(readable) - attempted == set(), "unexpected"
        assert {i: n for i, n in readable.items() if n > 1} == {}, "twice"
        for id_ in rng.sample(sorted(attempted), SAMPLE):
            reply = await memory.search(f"{salt}x{id_[1:]}", mode="text", limit=50)
            exact = [hit.id for hit in reply.hits if f"{salt}x{id_[1:]} " in hit.text]
            assert exact == [id_], f"{id_} is found by its own word, once"


@pytest.mark.parametrize("names", [("persist", "index", "embed", "query", "nats-server")], ids=["each"])
def test_every_process_may_die_in_the_middle_of_a_load(names):
    print("seed", SEED)
    rng = random.Random(SEED)
    order = list(names)
    rng.shuffle(order)
    asyncio.run(play(rng, f"w{SEED}", order))
