"""One kept process: how long it waits before it starts again, and what it is told in which life."""

import sys

import pytest

from harness.waiting import until
from jetmem.adapters.supervised import Child, Timing

TIMING = Timing(restart_first_s=1.0, restart_last_s=5.0, healthy_reset_s=30.0, failures_told=3)
SAYS_ITS_CRASH = "import os; print('crash=' + os.environ.get('JETMEM_CRASH', ''))"


@pytest.fixture
def child(tmp_path):
    made = []

    def make(argv):
        made.append(Child("stage", argv, {"JETMEM_CRASH": "x"}, tmp_path / "logs" / "stage.log", 1, TIMING))
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
