"""One kept process: how long it waits before it starts again, and what it is told in which life."""

import sys

import msgspec
import pytest

from harness.waiting import until
from jetmem.adapters.supervised import Child, Timing

TIMING = Timing(
    restart_first_s=1.0,
    restart_last_s=5.0,
    healthy_reset_s=30.0,
    failures_told=3,
    unhealthy_restart_s=300.0,
    stop_s=25.0,
)
STUBBORN = """import signal, sys
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
print("up", flush=True)
while True:
    signal.pause()
"""
SAYS_ITS_CRASH = "import os; print('crash=' + os.environ.get('JETMEM_CRASH', ''))"


@pytest.fixture
def child(tmp_path):
    made = []

    def make(argv, timing=TIMING):
        made.append(Child("stage", argv, {"JETMEM_CRASH": "x"}, tmp_path / "logs" / "stage.log", 1, timing))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None:
            each.process.kill()
            each.process.wait()


def die(it, now):
    """Start it if it is not, see it end at `now`; what a person is told."""
    if it.state == "waiting":
        it.start()
    until(lambda: it.process.poll() is not None, "it ends")
    return it.tick(now)


def test_the_delay_doubles_up_to_its_bound_and_the_third_failure_is_told(child):
    it = child([sys.executable, "-c", "raise SystemExit('no disk')"])
    now, told = 1000.0, []
    for delay in (1.0, 2.0, 4.0, 5.0, 5.0):
        told.append(die(it, now))
        assert (it.state, it.detail) == ("restarting", "no disk")
        it.tick(now + delay - 0.01)
        assert it.process is None
        it.tick(now + delay)
        assert it.process is not None and it.state == "starting"
        now += delay
    assert it.restarts == 5
    assert [bool(text) for text in told] == [False, False, True, False, False]
    assert "failed to start 3 times, last: no disk" in told[2]


def test_long_health_resets_the_delay(child):
    it = child([sys.executable, "-c", "input()"])
    die(it, 0.0)
    die_delay = 1.0
    it.tick(die_delay)
    it.judged(True, "ok", 10.0)
    assert it.state == "ok"
    it.tick(41.0)
    assert "restarted in 1 s" in die(it, 42.0)


def test_a_test_crash_point_is_armed_in_the_first_life_only(child):
    it = child([sys.executable, "-c", SAYS_ITS_CRASH])
    die(it, 0.0)
    it.tick(10.0)
    die(it, 11.0)
    assert it.log.read_text() == "crash=x\ncrash=\n"


def test_a_program_that_is_not_there_is_a_failure_like_any_other(child):
    it = child(["/nowhere/program"])
    it.start()
    assert it.state == "restarting" and "cannot be started" in it.detail
    assert it.failures == 1


def lives(it):
    it.start()
    until(lambda: "up" in it.log.read_text(), "it runs")
    it.judged(True, "ok", 0.0)


def test_who_is_unhealthy_for_minutes_is_told_to_end_then_killed_and_started_again(child):
    it = child([sys.executable, "-c", STUBBORN])
    lives(it)
    it.judged(False, "3 messages wait", 100.0)
    it.judged(False, "4 messages wait", 300.0)
    assert it.tick(400.0) == ""
    assert "stage was unhealthy for 301 s and is restarted: 4 messages wait" in it.tick(401.0)
    until(lambda: "told" in it.log.read_text(), "it got SIGTERM")
    assert it.tick(402.0) == "" and it.process.poll() is None
    it.judged(True, "ok", 403.0)  # its last words; what was told to end ends
    it.tick(425.0)
    assert it.process.poll() is None
    it.tick(427.0)
    until(lambda: it.process.poll() is not None, "it was killed")
    it.tick(428.0)
    assert (it.state, it.process, it.detail) == ("restarting", None, "was unhealthy for 301 s: 4 messages wait")
    it.tick(430.0)
    assert it.state == "starting" and it.restarts == 1
    it.judged(True, "ok", 440.0)
    assert it.tick(10_000.0) == "", "a new life begins without the old one's sins"


def test_a_moment_of_health_begins_the_minutes_anew(child):
    it = child([sys.executable, "-c", STUBBORN])
    lives(it)
    for at in range(0, 3_000, 200):
        it.judged(False, "busy", at + 1.0)
        it.judged(True, "ok", at + 199.0)
        assert it.tick(at + 199.5) == ""
    assert it.process.poll() is None


def test_who_never_was_healthy_may_take_its_time(child):
    """The first start exports a model, and a stage waits for a broker as long as it takes."""
    it = child([sys.executable, "-c", STUBBORN])
    it.start()
    it.judged(False, "opening the model", 1.0)
    assert it.tick(10_000.0) == ""
    assert it.state == "starting" and it.process.poll() is None


def test_zero_leaves_the_unhealthy_alone(child):
    it = child([sys.executable, "-c", STUBBORN], msgspec.structs.replace(TIMING, unhealthy_restart_s=0.0))
    lives(it)
    it.judged(False, "busy", 1.0)
    assert it.tick(10_000.0) == ""
    assert it.process.poll() is None
