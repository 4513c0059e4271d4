"""Importing opens nothing; a stage is one folder and one line."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import jetmem
from harness import toy
from jetmem import flow
from jetmem.console import configuration
from jetmem.docs import asyncapi, pages
from jetmem.runtime.settings import SettingsError
from jetmem.testing.store import FakeStore

ROOT = Path(__file__).parents[2]

#: Runs in a process of its own: imports everything of ours, and lists what our code opened, asked or read meanwhile.
WATCH = """
import importlib, os, pkgutil, sys, threading

OURS = ("jetmem.", "jetmem_schemas.")
seen = []

def ours(depth):
    frame = sys._getframe(depth)
    while frame is not None:
        name = frame.f_globals.get("__name__", "") + "."
        if name.startswith("importlib."):
            return ""
        if name.startswith(OURS):
            return name + str(frame.f_lineno)
        frame = frame.f_back
    return ""

WATCHED = ("open", "socket.connect", "socket.bind", "subprocess.Popen", "os.mkdir", "os.rename", "os.remove")

def hook(event, args):
    if event in WATCHED:
        where = ours(2)
        if where:
            seen.append(f"{where} {event} {args[0]!r}")

class Environ(type(os.environ)):
    def __getitem__(self, key):
        where = ours(2)
        if where:
            seen.append(f"{where} reads {key}")
        return super().__getitem__(key)

    def __iter__(self):
        where = ours(2)
        if where:
            seen.append(f"{where} lists the environment")
        return super().__iter__()

sys.addaudithook(hook)
os.environ.__class__ = Environ
before = threading.active_count()
count = 0
import jetmem, jetmem_schemas
for package in (jetmem, jetmem_schemas):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
            count += 1
if threading.active_count() != before:
    seen.append(f"threads: {[t.name for t in threading.enumerate()]}")
sys.stdout.write("\\n".join([str(count), *seen]))
"""


def test_importing_a_module_opens_nothing_and_reads_no_environment() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCH],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": "services:schemas", "PATH": "/usr/bin:/bin", "JETMEM_NONSENSE": "must not matter"},
    )
    assert done.returncode == 0, done.stderr
    count, *seen = done.stdout.splitlines()
    assert int(count) > 100
    assert seen == []


def test_the_watch_sees_what_it_should(tmp_path: Path) -> None:
    """That it found nothing means something only if it can find something."""
    package = tmp_path / "jetmem"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "bad.py").write_text("import os\nos.environ.get('X')\nopen(__file__).close()\n")
    (tmp_path / "jetmem_schemas").mkdir()
    (tmp_path / "jetmem_schemas" / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-c", WATCH],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
    )
    count, *seen = done.stdout.splitlines()
    assert count == "1"
    assert any("reads X" in line for line in seen)
    assert any(" open " in line for line in seen)


def test_a_stage_is_one_folder_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built, configured and documented; `integration/test_new_stage.py` runs the same stage."""
    monkeypatch.setattr(jetmem, "__path__", toy.path())
    monkeypatch.setattr(flow, "STAGES", toy.stages())

    assert flow.stage("tally") is toy.LINE
    assert [stage.name for stage in flow.projections()] == ["index", "summarize", "learn", "tally"]
    assert flow.arms() == ["record", "text", "vector", "toc", "procedures", "tasks", "tally"]
    settings = configuration.load(None, {"JETMEM_TALLY_READ_THREADS": "3", "JETMEM_DATA": str(tmp_path)})
    assert settings["tally"].read_threads == 3
    shell = flow.build("tally", settings, store=FakeStore(("words", "meta")))
    assert (shell.stage, shell.common.data) == ("tally", str(tmp_path))
    with pytest.raises(SettingsError):
        configuration.load(None, {"JETMEM_TALLY_RAED_THREADS": "3"})
    assert "tally (RocksDB)" in pages.picture()
    assert "| `tally` | RECORD |" in pages.stages()
    assert "`JETMEM_TALLY_READ_THREADS`" in pages.settings()
    assert "tally_reads_RECORD" in asyncapi.document()["operations"]


def test_every_stage_of_the_flow_can_be_built_from_its_folder() -> None:
    sections = flow.sections()
    assert set(sections) == {"", *flow.NAMES}
    assert len(set(flow.NAMES)) == len(flow.NAMES)
    for stage in flow.STAGES:
        assert issubclass(sections[stage.name], msgspec.Struct)
        assert sections[stage.name].__struct_config__.frozen
    with pytest.raises(KeyError):
        flow.stage("nonsense")
