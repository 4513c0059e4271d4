"""The projection loop against whatever the wire and persist do: in the end the target has exactly the log, in order."""

import asyncio

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from jetmem.runtime import limits
from jetmem.runtime.errors import Broken, RequestFailed, Retryable
from jetmem.runtime.health import Health
from jetmem.runtime.projection import Projection
from jetmem_schemas.internal import Entry, Facts, Head, Heads, ScanReply, ScanRequest, encode

PARTS = (0, 1, 2)


class Clock:
    now = 0.0

    def now_ms(self):
        return 0

    def monotonic(self):
        return self.now


class Log:
    """persist, as far as projections see it. A history is another one if the MEMORY sequences differ."""

    def __init__(self):
        self.entries = {part: [] for part in PARTS}
        self.seq = 0

    def record(self, part, count):
        for _ in range(count):
            self.seq += 1
            number = len(self.entries[part]) + 1
            self.entries[part].append(Entry(number, self.seq, 0, "event", "acme", "a", "s", f"e{self.seq}", 0, b""))
        return [*self.facts(part, len(self.entries[part]) - count)]

    def facts(self, part, start):
        held = self.entries[part]
        if start < len(held):
            before = held[start - 1].seq if start else 0
            yield Facts(part, start + 1, before, [encode(e) for e in held[start:]])

    def head(self, part):
        held = self.entries[part]
        return Head(held[-1].rseq, held[-1].seq) if held else Head()

    def heads(self):
        return Heads(self.seq, {part: self.head(part) for part in PARTS})

    def scan(self, part, request):
        held, head = self.entries[part], self.head(part)
        at = request.after
        if at and (at > len(held) or held[at - 1].seq != request.after_seq):
            return ScanReply([], head, self.seq, mismatch=True)
        return ScanReply([encode(e) for e in held[at : at + 2]], head, self.seq)


class Ended(Exception):
    """The script is over and everybody was heard."""


class World:
    """Wire and target: plays a script, one step each time the loop asks for news."""

    def __init__(self, script, at):
        self.log = Log()
        self.script = list(script)
        self.held = {part: [] for part in PARTS}
        self.at = at
        self.heads_heard = {}
        self.resets = []
        self.real_mismatches = 0
        self.refusals = 0
        self.failures = 0
        self.lost = False
        self.quiet = 0
        self.scans = 0

    # runtime.projection.Wire

    async def fetch(self, *, wait):
        if self.lost:
            self.lost = False
            raise Retryable("no stream")
        if not self.script:
            return self.the_end()
        return list(self.play(*self.script.pop(0)))

    def the_end(self):
        """After the last step only heads come, each second, until nothing is behind."""
        self.refusals = 0
        self.quiet += 1
        same = all(self.held[p] == self.log.entries[p] for p in PARTS)
        if self.quiet > 3 and same and not self.projection._behind and self.projection.lag() == 0:
            raise Ended
        assert self.quiet < 400, "the projection never catches up"
        return [self.log.heads()]

    def play(self, what, part, count):
        if what == "say":
            yield from self.log.record(part, count)
        elif what == "lose":
            self.log.record(part, count)
        elif what == "twice":
            facts = self.log.record(part, count)
            yield from [*facts, *facts]
        elif what == "again":
            yield from self.log.facts(part, max(0, len(self.log.entries[part]) - count))
        elif what == "cut":  # each entry alone, the first of them lost
            start = len(self.log.entries[part])
            self.log.record(part, count)
            for number in range(start + 1, len(self.log.entries[part])):
                before = self.log.entries[part][number - 1].seq
                yield Facts(part, number + 1, before, [encode(self.log.entries[part][number])])
        elif what == "swap":  # announced in another order than recorded
            first = self.log.record(part, count)
            yield from [*self.log.record((part + 1) % 3, 1), *self.log.record(part, 1), *first]
        elif what == "heads":
            yield self.log.heads()
        elif what == "old heads":
            old = self.log.heads()
            yield from self.log.record(part, count)
            yield old
        elif what == "refuse":
            self.refusals = count
        elif what == "fail":
            self.failures = count
        elif what == "no stream":
            self.lost = True
        else:
            self.restore(what, part, count)

    def restore(self, what, part, count):
        """An older copy of persist, which then records other things, or an empty one."""
        keep = 0 if what == "empty" else max(0, len(self.log.entries[part]) - count)
        del self.log.entries[part][keep:]
        if what == "older and other":
            self.log.seq += 1000
            self.log.record(part, count + 1)

    async def scan(self, part, request):
        assert isinstance(request, ScanRequest)
        self.scans += 1
        if self.refusals:
            self.refusals -= 1
            raise RequestFailed("unavailable", "persist is not running")
        reply = self.log.scan(part, request)
        self.real_mismatches += reply.mismatch
        return reply

    # runtime.projection.Target

    def position(self, part):
        return self.at.get(part, Head())

    async def apply(self, part, entries):
        if self.failures:
            self.failures -= 1
            raise Retryable("disk is busy")
        for entry in entries:
            assert entry.rseq == len(self.held[part]) + 1, "out of order"
            self.held[part].append(entry)

    async def reset(self, part):
        held = self.held[part]
        assert held[: len(self.log.entries[part])] != self.log.entries[part] or len(held) > len(self.log.entries[part])
        self.resets.append(part)
        self.held[part] = []

    def heard(self, part, head, checkpoint):
        assert (len(self.held[part]), checkpoint) >= (head.rseq, head.seq), "told to be at the end, and is not"
        self.heads_heard[part] = head


async def nothing(_):
    """Time does not pass."""


def play(script, world=None):
    world = world or World(script, {})
    projection = Projection("index", PARTS, world, world, Health("index", Clock()))
    world.projection = projection
    real, asyncio.sleep = asyncio.sleep, nothing
    try:
        asyncio.run(projection.run())
    except Ended:
        return world, projection
    finally:
        asyncio.sleep = real
    raise AssertionError("the loop ended")


steps = st.tuples(
    st.sampled_from(
        ["say", "say", "say", "lose", "twice", "again", "cut", "swap", "heads", "heads", "old heads", "refuse", "fail"]
        + ["no stream", "older", "older and other", "empty"]
    ),
    st.sampled_from(PARTS),
    st.integers(1, 5),
)


@settings(max_examples=400, deadline=None, print_blob=True)
@given(st.lists(steps, max_size=40))
def test_in_the_end_the_target_has_exactly_the_log(script):
    world, projection = play(script)
    for part in PARTS:
        assert world.held[part] == world.log.entries[part]
        assert projection.taken[part] == world.log.head(part)
        assert part not in projection._behind
        assert not projection.catching_up(part)
        assert world.heads_heard[part] == world.log.head(part)
    assert projection.lag() == 0
    assert len(world.resets) == world.real_mismatches
    if not any(what in ("older", "older and other", "empty") for what, _, _ in script):
        assert not world.resets


@settings(max_examples=100, deadline=None, print_blob=True)
@given(st.lists(steps.filter(lambda s: s[0] in ("say", "lose", "heads", "twice")), max_size=20), st.integers(0, 9))
def test_a_restart_reads_on_where_it_was(script, keep):
    first, _ = play(script)
    second = World([("heads", 0, 1)], {})
    second.log = first.log
    for part in PARTS:
        second.held[part] = first.held[part][:keep]
        if second.held[part]:
            second.at[part] = Head(second.held[part][-1].rseq, second.held[part][-1].seq)
    play([], second)
    assert second.held == first.held
    assert not second.resets


def test_a_live_stream_is_never_scanned_again():
    world, _ = play([("heads", 0, 1)] * 6 + [("say", part, 3) for part in PARTS for _ in range(5)] + [("heads", 0, 1)])
    assert world.scans <= len(PARTS), "each partition once at the start"


def test_losing_only_the_last_message_is_noticed_by_the_heads():
    world, _ = play([("say", 0, 3), ("heads", 0, 1), ("heads", 0, 1), ("lose", 0, 1), ("heads", 0, 1)])
    assert len(world.held[0]) == 4


def test_one_partition_that_cannot_be_scanned_does_not_keep_the_others_back():
    class OneRefuses(World):
        async def scan(self, part, request):
            if part == 0 and self.script:
                raise RequestFailed("unavailable", "its shard is down")
            if part != 0:
                self.done.add(part)
                self.script = [] if self.done == {1, 2} else self.script
            return await super().scan(part, request)

    world = OneRefuses([("lose", 0, 1)] + [("heads", 0, 1)] * 300, {})
    world.done = set()
    play([], world)
    assert world.done == {1, 2}


def test_a_gap_inside_a_slice_stops_the_stage():
    class Gappy(World):
        async def scan(self, part, request):
            reply = await super().scan(part, request)
            return msgspec.structs.replace(reply, entries=reply.entries[1:])

    world = Gappy([("lose", 0, 3), ("heads", 0, 1)], {})
    try:
        play([], world)
    except Broken as error:
        assert "without a gap" in str(error)
    else:
        raise AssertionError("a gap was applied")


def test_waiting_grows_to_the_pace_of_the_heads():
    assert limits.RETRY_FIRST_S < limits.HEADS_EVERY_S
