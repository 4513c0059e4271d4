"""What a stage says of itself: progress, silence, the last error and its age, dead letters."""

import asyncio
import json
import urllib.error
import urllib.request

import nats.errors
import pytest

from harness.fake_stages import FakeClock
from harness.ports import free_port
from harness.waiting import until_async
from jetmem.adapters.http_health import healthz
from jetmem.runtime import limits
from jetmem.runtime.errors import Broken, Poison, RequestFailed, Retryable
from jetmem.runtime.health import Health, error_code, serve_http
from jetmem.runtime.projection import Projection
from jetmem.tasks import end
from jetmem_schemas.internal import Entry, Facts, Head, ScanReply, encode

LATE_S = limits.PROGRESS_DEADLINE_S + 1


class Clock(FakeClock):
    wall = 1_700_000_000_000

    def now_ms(self):
        return self.wall + int((self.now - 1_000) * 1000)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    made = Health("index", clock)
    made.ready = True
    return made


def ask(port, path="/healthz"):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_what_begins_and_does_not_end_turns_the_verdict_after_the_stated_time(health, clock):
    health.progressed(0)
    clock.now += 3_600 * 0.001
    health.behind(3)
    clock.now += limits.PROGRESS_DEADLINE_S
    assert health.verdict() == (True, "ok")
    clock.now += 1
    assert health.verdict() == (False, "3 messages wait and none was handled for 31 s")
    health.behind(3)
    assert not health.verdict()[0], "saying again that one is behind is no progress"
    health.progressed(2)
    assert health.verdict() == (True, "ok")


def test_a_loop_that_spoke_and_falls_silent_is_unhealthy(health, clock):
    clock.now += LATE_S
    assert health.verdict() == (True, "ok"), "a stage that has no loop says nothing"
    health.progressed(0)
    clock.now += LATE_S
    assert health.verdict() == (False, "nothing was heard of its loop for 31 s")


def test_the_last_error_has_an_age(health, clock):
    assert health.last_error == ""
    health.failed(Retryable("the disk is busy"))
    assert health.last_error == "Retryable 0 s ago: the disk is busy"
    for seconds, age in ((90, "90 s"), (3_600, "60 min"), (86_400, "24 h"), (8 * 86_400, "8 d")):
        clock.now = 1_000 + seconds
        assert health.last_error == f"Retryable {age} ago: the disk is busy"
    assert health.verdict() == (True, "ok")


def test_error_codes_are_a_fixed_set():
    named = {
        "retryable": Retryable("x"),
        "broken": Broken("x"),
        "bad_json": Poison("bad_json", "x"),
        "unavailable": RequestFailed("unavailable", "x"),
        "timeout": TimeoutError(),
        "os": OSError("disk"),
        "broker": nats.errors.ConnectionClosedError(),
        "other": KeyError("acme"),
    }
    assert {code: error_code(error) for code, error in named.items()} == {code: code for code in named}
    assert error_code(RequestFailed("tenant-acme", "x")) == "other"
    assert error_code(nats.errors.TimeoutError()) == "timeout"


def test_healthz_and_metrics_show_lag_last_error_and_dead_letters(health, clock):
    port = free_port()
    stop = serve_http(health, "127.0.0.1", port)
    try:
        status, body = ask(port)
        assert (status, json.loads(body)["dead_letters"]) == (200, None)
        health.progressed(7)
        health.counted(5)
        health.failed(RequestFailed("unavailable", "stage persist is not running"))
        status, body = ask(port)
        said = json.loads(body)
        assert (status, said["healthy"], said["lag"], said["dead_letters"]) == (200, True, 7, 5)
        assert said["last_error"] == "RequestFailed 0 s ago: stage persist is not running"
        assert said["last_error_at"] == clock.wall
        shown = ask(port, "/metrics")[1]
        assert 'jetmem_last_error_timestamp_seconds{code="unavailable",stage="index"} 1.7e+09' in shown
        assert "jetmem_dead_letters_held 5.0" in shown
        clock.now += LATE_S
        status, body = ask(port)
        assert (status, json.loads(body)["healthy"]) == (503, False)
        assert asyncio.run(healthz(port)) == (False, "7 messages wait and none was handled for 31 s")
    finally:
        stop()


class World:
    """One entry live on partition 0, and a target that never takes it."""

    def __init__(self, apply):
        self.apply_as = apply
        self.tries = 0
        self.said = False

    async def fetch(self, *, wait):
        if not wait:
            return []
        if self.said:
            await asyncio.Event().wait()
        self.said = True
        return [Facts(0, 1, 0, [encode(Entry(1, 1, 0, "event", "acme", "a", "s", "e1", 0, b""))])]

    async def scan(self, part, request):
        return ScanReply([], Head(), 0)

    def position(self, part):
        return Head()

    async def apply(self, part, entries):
        self.tries += 1
        await self.apply_as()

    async def reset(self, part):
        raise AssertionError("never")

    def heard(self, part, head, checkpoint):
        pass


async def fails():
    raise Retryable("the disk is busy")


async def hangs():
    await asyncio.Event().wait()


@pytest.mark.parametrize(("apply", "tries"), [(fails, 3), (hangs, 1)])
def test_a_target_that_never_takes_its_first_live_batch_is_not_healthy(health, clock, apply, tries):
    async def main():
        world = World(apply)
        task = asyncio.create_task(Projection("index", [0], world, world, health).run())

        async def tried():
            return world.tries >= tries

        await until_async(tried, "the batch is tried")
        assert health.lag == 1
        assert health.verdict() == (True, "ok")
        clock.now += LATE_S
        assert health.verdict() == (False, "1 messages wait and none was handled for 31 s")
        if tries > 1:
            assert health.last_error.endswith("ago: the disk is busy")
            seen = world.tries
            await until_async(lambda: moved(world, seen), "it is tried again")
            assert not health.verdict()[0], "trying again is no progress"
        await end(task)

    async def moved(world, seen):
        return world.tries > seen

    asyncio.run(main())
