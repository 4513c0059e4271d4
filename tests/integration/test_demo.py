"""`jetmem demo` with the real stages: what a person sees first."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands import PATIENT
from harness.waiting import DEADLINE_S, until
from jetmem.console.demo_command import ASKED

COMMAND = [sys.executable, "-P", "-m", "jetmem", "demo"]
#: The first start on a machine exports and measures the model.
FIRST_START_S = 280


@pytest.fixture
def environ(tmp_path):
    """Its temporary folder is the test's, so that what stays behind is seen."""
    (tmp_path / "tmp").mkdir()
    return {**os.environ, **PATIENT, "TMPDIR": str(tmp_path / "tmp")}


def left_over(folder):
    """Folders and processes of a demo that used this temporary folder."""
    found = [str(path) for path in folder.iterdir()]
    return found + [line for line in map(arguments, Path("/proc").glob("[0-9]*")) if str(folder) in line]


def arguments(process):
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it has ended since it was listed
        return ""


def test_it_answers_with_who_when_id_and_timings_and_leaves_nothing(environ, tmp_path):
    done = subprocess.run(COMMAND, capture_output=True, text=True, env=environ, timeout=FIRST_START_S)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = done.stdout
    assert "Loaded 399 events" in said
    assert said.count(" ms in the service") == len(ASKED) + 2
    assert "✓ dele  2026-10-07 08:27:49  demo-0250  research/bergen-trip" in said
    assert "times in UTC" in said
    assert "text+vector" in said
    assert "Stopped everything cleanly" in said
    assert "\x1b" not in said and max(map(len, said.splitlines())) <= 110
    assert left_over(tmp_path / "tmp") == []


def test_an_interrupt_stops_all_and_leaves_nothing(environ, tmp_path):
    out = tmp_path / "out"
    with out.open("wb") as file, subprocess.Popen(COMMAND, stdout=file, stderr=file, env=environ) as demo:
        until(lambda: (tmp_path / "tmp").exists() and any((tmp_path / "tmp").glob("*/run/state.json")), "it starts")
        demo.send_signal(signal.SIGINT)
        assert demo.wait(timeout=DEADLINE_S) == 130
    assert "Traceback" not in out.read_text()
    assert left_over(tmp_path / "tmp") == []
