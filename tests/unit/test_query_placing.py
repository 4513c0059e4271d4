"""Segments of hits: waited for while summarize answers in time, hardly at all while it does not."""

import asyncio

import pytest

from harness.waiting import until_async
from jetmem.query import placing
from jetmem.query.placing import Placing
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.internal import Found
from jetmem_schemas.placing import SegmentsReply

FOUND = [Found("e1", 1.0, ["text"], {}, 1)]


class Summarize:
    """Answers once it is told to; `asked` counts."""

    def __init__(self):
        self.asked = 0
        self.answers = asyncio.Event()
        self.away = False

    async def ask(self, stage, verb, tenant, request, reply, timeout_s):
        self.asked += 1
        if self.away:
            raise RequestFailed("unavailable", "nobody")
        await self.answers.wait()
        return SegmentsReply(["toc:segment:x" for _ in request.rseqs])


async def others():
    return "page"


async def asked(held, stages, tenant="acme"):
    page, segments = await held.beside(stages, tenant, FOUND, others())
    assert page == "page"
    return segments


def test_who_was_late_is_not_waited_for_until_it_answers_in_time_again(monkeypatch):
    async def main():
        held, stages = Placing(), Summarize()
        assert await asked(held, stages) == {}, "late"
        monkeypatch.setattr(placing, "_PATIENCE_S", 3_600.0)
        for _ in range(5):
            assert await asked(held, stages) == {}, "were it waited for, this would take an hour"
        assert stages.asked == 6, "and yet asked"
        stages.answers.set()

        async def heard():
            return not held._late

        await until_async(heard, "it answers again")
        stages.answers.clear()
        waiting = asyncio.create_task(asked(held, stages))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done(), "it is waited for again"
        stages.answers.set()
        assert await waiting == {"e1": "toc:segment:x"}

    asyncio.run(main())


def test_one_partition_that_is_late_makes_no_other_wait_less(monkeypatch):
    async def main():
        held, stages = Placing(), Summarize()
        assert await asked(held, stages) == {}
        monkeypatch.setattr(placing, "_PATIENCE_S", 3_600.0)
        waiting = asyncio.create_task(asked(held, stages, "zoo"))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
        stages.answers.set()
        assert await waiting == {"e1": "toc:segment:x"}

    asyncio.run(main())


def test_who_is_away_is_known_at_once_and_not_held_to_be_late():
    async def main():
        held, stages = Placing(), Summarize()
        stages.away = True
        assert await asked(held, stages) == {}
        stages.away = False
        stages.answers.set()
        assert await asked(held, stages) == {"e1": "toc:segment:x"}

    asyncio.run(main())


def test_what_fails_beside_it_is_raised():
    async def fails():
        raise RequestFailed("timeout", "persist did not answer")

    async def main():
        with pytest.raises(RequestFailed, match="persist did not answer"):
            await Placing().beside(Summarize(), "acme", FOUND, fails())

    asyncio.run(main())
