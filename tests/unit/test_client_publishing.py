"""Judging the broker's answers, cutting into waves and batches."""

import asyncio

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from jetmem.client import Outgoing, Refused
from jetmem.client.acks import Outcome, judge
from jetmem.client.batching import BATCH_BYTES_MAX, BATCH_EVENTS_MAX
from jetmem.client.ids import Ids
from jetmem.client.outgoing import Prepared, prepare
from jetmem.client.publishing import WAVE_MAX, Patience, waves
from jetmem.client.sources import Batcher


def _answer(data=b"", headers=None):
    return judge(Msg(_client=Client(), subject="x", data=data, headers=headers))


@pytest.mark.parametrize(
    ("data", "headers", "outcome"),
    [
        (b"", None, Outcome.OPENED),
        (b'{"stream":"MEMORY","seq":5}', None, Outcome.STORED),
        (b'{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}', None, Outcome.AGAIN),
        (b'{"error":{"code":400,"err_code":10176,"description":"incomplete"}}', None, Outcome.INCOMPLETE),
        (b'{"error":{"code":400,"err_code":10054,"description":"too large"}}', None, Outcome.NEVER),
        (b'{"error":{"code":400,"err_code":10174,"description":"disabled"}}', None, Outcome.NOT_ATOMIC),
        (b'{"error":{"code":400,"err_code":10199,"description":"too large: 10"}}', None, Outcome.TOO_MANY),
        (b"", {"Status": "503"}, Outcome.AGAIN),
        (b"gibberish", None, Outcome.AGAIN),
    ],
)
def test_answers_are_judged(data, headers, outcome):
    assert _answer(data, headers).outcome is outcome


def test_only_a_batch_answer_counts_as_one():
    assert _answer(b'{"stream":"MEMORY","seq":5,"batch":"b","count":5}').batch
    assert not _answer(b'{"stream":"MEMORY","seq":5}').batch


def test_waves_keep_each_session_in_order():
    messages = [Prepared(f"s{i % 7 if i % 3 else 0}", b"", str(i), Outgoing(event={}, session="s")) for i in range(900)]
    cut = waves(messages)
    assert [m for wave in cut for m in wave] == messages
    for wave in cut:
        assert len({m.subject for m in wave}) == len(wave) <= WAVE_MAX


def test_patience_ends():
    async def wait():
        patience = Patience(0.05)
        while not patience.over():
            await patience.pause("why")
        return patience.reason

    assert asyncio.run(wait()) == "why"
    assert Patience(None).left() is None


def _batcher(bad=None):
    def refuse(out, error):
        if bad is None:
            raise error
        bad.append(error.code)

    return Batcher(lambda out: prepare(out, "t", "a", Ids()), refuse)


async def _collect(batcher, events):
    return [batch async for batch in batcher.batches(events)]


def test_batches_are_bounded_by_count_and_bytes():
    small = [Outgoing(event={"text": "x"}, session="s") for _ in range(2 * BATCH_EVENTS_MAX + 5)]
    sizes = [len(b) for b in asyncio.run(_collect(_batcher(), small))]
    assert sizes == [BATCH_EVENTS_MAX, BATCH_EVENTS_MAX, 5]
    large = [Outgoing(event={"text": "x" * 900_000}, session="s") for _ in range(12)]
    batches = asyncio.run(_collect(_batcher(), large))
    assert sum(map(len, batches)) == 12
    assert all(sum(len(m.payload) for m in b) <= BATCH_BYTES_MAX for b in batches)


def test_a_bad_event_is_skipped_or_ends_the_batches_after_what_came_before():
    events = [Outgoing(event={"text": t}, session="s") for t in ("a", "", "b")]
    bad = []
    batches = asyncio.run(_collect(_batcher(bad), events))
    assert ([len(b) for b in batches], bad) == ([2], ["missing_field"])

    async def strict():
        seen = []
        with pytest.raises(Refused):
            async for batch in _batcher().batches(events):
                seen.append(len(batch))
        return seen

    assert asyncio.run(strict()) == [1, 0]


def test_a_slow_source_is_not_made_to_wait_for_a_full_batch():
    async def run():
        went_on = asyncio.Event()

        async def slow():
            yield Outgoing(event={"text": "a"}, session="s")
            await went_on.wait()
            yield Outgoing(event={"text": "b"}, session="s")

        seen = []
        async for batch in _batcher().batches(slow()):
            seen.append(len(batch))
            if seen == [1, 0]:
                went_on.set()
        return seen

    assert asyncio.run(run())[:3] == [1, 0, 1]


def test_what_was_taken_and_not_handed_out_can_be_had_back():
    async def run():
        async def source():
            for text in "abc":
                yield Outgoing(event={"text": text}, session="s", id=text)

        batcher = _batcher()
        async for _ in batcher.batches(source()):
            break
        return batcher.rest()

    assert asyncio.run(run()) == []
