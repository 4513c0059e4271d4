"""Logs: one JSON object a line, and what is repeated is said now and then with how often it was not."""

import json
import subprocess
import sys

import pytest
import structlog

from jetmem.runtime import logs
from jetmem.runtime.logs import Repeats


class Ticking:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Ticking()


def passes(repeats, event, severity="warning", **fields):
    try:
        return repeats(None, severity, {"event": event, **fields})
    except structlog.DropEvent:
        return None


def test_what_is_said_again_and_again_is_left_out_and_counted(clock):
    repeats = Repeats(clock)
    shown = [passes(repeats, "broker", error=str(number)) for number in range(logs._SHOWN_MAX + 5)]
    assert [each is not None for each in shown] == [True] * logs._SHOWN_MAX + [False] * 5
    assert passes(repeats, "started") is not None and passes(repeats, "broker", "error") is not None
    clock.now = logs._WINDOW_S - 0.1
    assert passes(repeats, "broker") is None
    clock.now += 0.1
    assert passes(repeats, "broker") == {"event": "broker", "left_out": 6}
    assert passes(repeats, "broker") == {"event": "broker"}


def test_what_is_remembered_is_bounded(clock):
    repeats = Repeats(clock)
    for number in range(2 * logs._EVENTS_MAX):
        assert passes(repeats, f"event {number}") is not None
    assert len(repeats._windows) == logs._EVENTS_MAX


def test_a_flood_is_a_few_lines_on_standard_error():
    code = """
from jetmem.runtime import logs
logs.configure("info", "json", "index")
for number in range(1000):
    logs.logger().warning("start is waiting", error=str(number))
logs.logger().info("started")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    lines = [json.loads(line) for line in said.splitlines()]
    assert len(lines) == logs._SHOWN_MAX + 1
    assert (lines[-1]["event"], lines[-1]["stage"], lines[0]["level"]) == ("started", "index", "warning")


def test_what_libraries_log_is_a_line_like_ours_and_cut_like_ours():
    code = """
import logging, threading
from jetmem.runtime import logs
logs.configure("info", "json", "index")
def flood():
    for number in range(1000):
        logging.getLogger("some.library").error("gave up %d", number)
    logging.getLogger("other").warning("%d", "no number")
    logging.getLogger("other").info("nobody asked")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("other").exception("broken")
thread = threading.Thread(target=flood)
thread.start()
thread.join()
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert len(lines) == logs._SHOWN_MAX + 1
    first, last = lines[0], lines[-1]
    assert (first["event"], first["message"], first["stage"], first["level"]) == (
        "some.library", "gave up 0", "index", "error"
    )  # fmt: skip
    assert (last["event"], last["message"]) == ("other", "broken") and "ZeroDivisionError" in last["exception"]
