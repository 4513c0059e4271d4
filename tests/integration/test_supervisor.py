"""`jetmem up` and `jetmem down` as processes, over a real nats-server and stand-in stages."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from harness.ports import free_port
from harness.waiting import DEADLINE_S, until
from jetmem import flow
from jetmem.adapters import processes
from jetmem.adapters.data_folder import FORMAT, DataFolder
from jetmem.adapters.nats_server import answers

COMMAND = [sys.executable, str(Path(__file__).parents[1] / "harness" / "jetmem_stand_in.py")]
NAMES = ["nats-server", *flow.NAMES]


def alive(pid):
    return processes.started_at(pid) != ""


def environment_of(pid):
    """What a process was told."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


class Up:
    """One `jetmem up` in the foreground."""

    def __init__(self, root, *arguments, port=None, **environ):
        self.root = root
        self.port = port or free_port()
        self._out = root.with_suffix(".out")
        self._err = root.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--data", str(root), "--port", str(self.port), *arguments],
                stdout=out,
                stderr=err,
                env={**os.environ, **environ},
            )

    @property
    def out(self):
        return self._out.read_text()

    @property
    def err(self):
        return self._err.read_text()

    def state(self):
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.root / "run" / "state.json").read_text())
        return {"ready": False, "processes": []}

    def of(self, name):
        return next((p for p in self.state()["processes"] if p["name"] == name), None)

    def wait_ready(self):
        until(lambda: "\n" in self.out or self.process.poll() is not None, "the ready line")
        assert self.out == f"ready nats://127.0.0.1:{self.port}\n", self.err

    def ended(self):
        return self.process.wait(timeout=DEADLINE_S)


@pytest.fixture
def up(tmp_path):
    started = []

    def start(*arguments, name="data", **more):
        started.append(Up(tmp_path / name, *arguments, **more))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def down(root):
    return subprocess.run([*COMMAND, "down", "--data", str(root)], capture_output=True, text=True, timeout=DEADLINE_S)


def test_ready_then_interrupted_stops_all_in_reverse_order(up):
    it = up()
    it.wait_ready()
    state = it.state()
    assert [p["name"] for p in state["processes"]] == NAMES
    assert {p["state"] for p in state["processes"]} == {"ok"}
    assert state["pid"] == it.process.pid
    for name in NAMES:
        assert name in it.err
    for each in state["processes"]:
        with urllib.request.urlopen(f"http://127.0.0.1:{each['http_port']}/healthz") as reply:
            assert reply.status == 200
        assert os.getsid(each["pid"]) == each["pid"]
    it.process.send_signal(signal.SIGINT)
    assert it.ended() == 0
    assert not any(alive(p["pid"]) for p in state["processes"])
    assert (it.root / "order").read_text().split() == list(reversed(flow.NAMES))
    assert not (it.root / "run" / "state.json").exists()
    assert {p.stem for p in (it.root / "logs").glob("*.log")} == set(NAMES)


def test_the_broker_syncs_every_acknowledgement_and_listens_on_loopback(up):
    it = up()
    it.wait_ready()
    monitor = it.of("nats-server")["http_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/varz") as reply:
        varz = json.load(reply)
    assert varz["host"] == "127.0.0.1" and varz["http_host"] == "127.0.0.1"
    assert varz["max_payload"] == 8 * 1024 * 1024
    assert varz["jetstream"]["config"]["sync_always"] is True
    assert Path(varz["jetstream"]["config"]["store_dir"]).is_relative_to(it.root / "nats")


def test_given_health_ports_are_used_in_order(up):
    base = free_port()
    while not all(processes.port_is_free(base + i) for i in range(len(NAMES))):
        base = free_port()
    it = up("--http-port", str(base))
    it.wait_ready()
    assert [it.of(name)["http_port"] for name in [*flow.NAMES, "nats-server"]] == list(range(base, base + len(NAMES)))


@pytest.mark.parametrize("name", ["index", "nats-server"])
def test_a_killed_child_is_restarted(up, name):
    it = up()
    it.wait_ready()
    before = it.of(name)
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: it.of(name)["restarts"] == 1 and it.of(name)["state"] == "ok", f"{name} is well again")
    assert it.of(name)["pid"] != before["pid"]
    assert f"{name} ended and is restarted" in it.err
    assert it.process.poll() is None
    assert it.out.count("ready") == 1


def test_a_stage_that_stays_unhealthy_is_restarted(up):
    it = up(JETMEM_UP_UNHEALTHY_RESTART_S="5")
    it.wait_ready()
    before = it.of("index")
    sick = it.root / "sick-index"
    sick.touch()
    until(lambda: "index was unhealthy for" in it.err, "it is said")
    sick.unlink()
    until(lambda: it.of("index")["restarts"] == 1 and it.of("index")["state"] == "ok", "it is well again")
    assert not alive(before["pid"])
    assert [it.of(name)["restarts"] for name in NAMES if name != "index"] == [0] * (len(NAMES) - 1)


def test_killing_the_supervisor_leaves_no_orphan(up):
    it = up()
    it.wait_ready()
    children = [p["pid"] for p in it.state()["processes"]]
    assert all(alive(pid) for pid in children)
    it.process.kill()
    it.process.wait()
    until(lambda: not any(alive(pid) for pid in children), "every child has ended")
    again = up(port=it.port)
    again.wait_ready()


def test_a_second_interrupt_hurries(up):
    it = up(STAND_IN_STUBBORN="index")
    it.wait_ready()
    pid = it.of("index")["pid"]
    it.process.send_signal(signal.SIGINT)
    until(lambda: it.of("index")["state"] == "stopping", "index is being stopped")
    assert alive(pid)
    it.process.send_signal(signal.SIGINT)
    assert it.ended() == 0
    assert not alive(pid)


def test_a_stage_that_does_not_stop_is_killed(up):
    it = up(STAND_IN_STUBBORN="persist", STAND_IN_STOP_S="0.3")
    it.wait_ready()
    pid = it.of("persist")["pid"]
    it.process.send_signal(signal.SIGTERM)
    assert it.ended() == 0
    assert not alive(pid)


def test_a_stage_that_cannot_start_is_named_with_the_last_line_of_its_log(up):
    it = up(STAND_IN_FAILS="embed", STAND_IN_READY_S="15")
    assert it.ended() == 1
    assert it.out == ""
    assert "embed failed to start 5 times, last: embed: the disk is on fire" in it.err
    assert "not ready after" in it.err.splitlines()[-1] or "the disk is on fire" in it.err.splitlines()[-1]
    assert "Traceback" not in it.err
    assert not answers(it.port)


def test_a_port_in_use_is_refused(up):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        it = up(port=taken.getsockname()[1])
        assert it.ended() == 2
    assert it.err == (
        f"jetmem: port {it.port} on 127.0.0.1 is in use; stop what listens there or choose another with --port\n"
    )


def test_a_data_folder_in_use_is_refused(up):
    first = up()
    first.wait_ready()
    second = up()
    assert second.ended() == 2
    assert f"is in use by process {first.process.pid}" in second.err
    assert second.err.count("\n") == 1
    assert first.process.poll() is None


def test_a_newer_or_strange_format_is_refused(up, tmp_path):
    for name, text, said in (("newer", str(FORMAT + 1), "has format 2"), ("strange", "x", "holds no number")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "format").write_text(text)
        it = up(name=name)
        assert it.ended() == 2
        assert said in it.err and it.err.count("\n") == 1
        assert (tmp_path / name / "format").read_text() == text


def test_an_unknown_setting_is_refused(up):
    it = up(JETMEM_SPEED="11")
    assert it.ended() == 2
    assert it.err == "jetmem: environment: unknown setting JETMEM_SPEED\n"
    assert not it.root.exists()


def test_a_missing_server_binary_is_refused(up):
    it = up(JETMEM_NATS_SERVER="/nowhere/nats-server")
    assert it.ended() == 2
    assert "/nowhere/nats-server" in it.err and it.err.count("\n") == 1


def test_settings_of_the_file_are_checked_and_used(up, tmp_path):
    it = up()
    it.wait_ready()
    it.process.send_signal(signal.SIGTERM)
    assert it.ended() == 0
    (it.root / "jetmem.toml").write_text("[index]\ncommit_seconds = 1\n")
    again = up()
    assert again.ended() == 2
    assert "unknown setting index.commit_seconds" in again.err


def test_down_stops_what_runs_and_says_so(up):
    it = up()
    it.wait_ready()
    pids = [p["pid"] for p in it.state()["processes"]]
    said = down(it.root)
    assert said.returncode == 0
    assert said.stdout.startswith("stopped query, learn, summarize, index, embed, persist, nats-server in ")
    assert it.ended() == 0
    assert not any(alive(pid) for pid in pids)
    again = down(it.root)
    assert (again.returncode, again.stdout) == (0, f"nothing runs on {it.root}\n")


def test_down_never_stops_a_process_that_only_has_the_number(tmp_path):
    folder = DataFolder(tmp_path)
    folder.open()
    with subprocess.Popen(["sleep", "600"]) as bystander:
        try:
            state = {"pid": bystander.pid, "started": "1", "server": "", "ready": True}
            (folder.run / "state.json").write_text(json.dumps(state))
            said = down(tmp_path)
            assert said.returncode == 1 and "nothing was stopped" in said.stderr
            folder.lock.release()
            said = down(tmp_path)
            assert said.returncode == 0 and "nothing runs" in said.stdout
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_detached_returns_when_ready_and_down_stops_it(tmp_path):
    port = free_port()
    start = [*COMMAND, "up", "--detach", "--data", str(tmp_path / "data"), "--port", str(port)]
    try:
        said = subprocess.run(start, capture_output=True, text=True, timeout=DEADLINE_S)
        assert (said.returncode, said.stdout) == (0, f"ready nats://127.0.0.1:{port}\n"), said.stderr
        assert answers(port)
        second = subprocess.run(start, capture_output=True, text=True, timeout=DEADLINE_S)
        foreground = subprocess.run(
            [a for a in start if a != "--detach"], capture_output=True, text=True, timeout=DEADLINE_S
        )
        assert second.returncode == foreground.returncode == 2
        assert second.stderr == foreground.stderr, "one sentence for one cause"
        assert "is in use by process" in second.stderr
        assert f"stop it with `jetmem down --data {tmp_path / 'data'}`" in second.stderr
    finally:
        assert down(tmp_path / "data").returncode == 0
    assert not answers(port)


def test_detached_tells_what_happens_as_it_happens(tmp_path):
    """A person who waits must not wait in silence for a stage that cannot start."""
    start = [*COMMAND, "up", "--detach", "--data", str(tmp_path / "data"), "--port", str(free_port())]
    environ = {"STAND_IN_FAILS": "embed", "STAND_IN_READY_S": "15", "JETMEM_EMBED_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "out"
    with out.open("wb") as file:
        process = subprocess.Popen(start, stdout=file, stderr=file, env={**os.environ, **environ})
    try:
        until(
            lambda: "embed failed to start 5 times, last: embed: the disk is on fire" in out.read_text(), "it is said"
        )
        assert process.poll() is None, "while it is still tried"
        assert "preparing the model (about a minute, once)" in out.read_text()
        assert out.read_text().count("preparing the model") == 1
        assert process.wait(timeout=DEADLINE_S) == 1
    finally:
        down(tmp_path / "data")
    assert "not ready after" in out.read_text()


def test_the_model_is_kept_for_all_data_folders_and_its_making_is_told_once(up, tmp_path):
    cache = tmp_path / "cache" / "jetmem"
    first = up(XDG_CACHE_HOME=str(tmp_path / "cache"))
    first.wait_ready()
    assert f"preparing the model (about a minute, once), kept in {cache}" in first.err
    assert environment_of(first.of("embed")["pid"])["JETMEM_EMBED_CACHE"] == str(cache)
    (cache / "measured-0").mkdir(parents=True)
    (cache / "measured-0" / "onnx-int8.json").touch()
    second = up(name="other", XDG_CACHE_HOME=str(tmp_path / "cache"))
    second.wait_ready()
    assert "preparing" not in second.err
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "jetmem.toml").write_text(f'[embed]\ncache = "{tmp_path}/mine"\n')
    third = up(name="third", XDG_CACHE_HOME=str(tmp_path / "cache"))
    third.wait_ready()
    assert environment_of(third.of("embed")["pid"])["JETMEM_EMBED_CACHE"] == f"{tmp_path}/mine", "the setting wins"


def test_without_a_cache_of_the_users_own_the_model_is_kept_in_the_data_folder(up):
    it = up(XDG_CACHE_HOME="/proc")
    it.wait_ready()
    assert environment_of(it.of("embed")["pid"])["JETMEM_EMBED_CACHE"] == str(it.root / "models")


@pytest.mark.parametrize("detach", [[], ["--detach"]])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[index]\ncommit_s = -3", "index.commit_s is -3; it must be a number, above 0 and at most 60"),
        ("[embed]\nbatch_texts = 0", "embed.batch_texts is 0; it must be a whole number, 1 to 1024"),
    ],
)
def test_a_setting_out_of_range_stops_it_before_anything_starts(tmp_path, detach, text, said):
    (tmp_path / "jetmem.toml").write_text(text)
    start = [*COMMAND, "up", "--data", str(tmp_path), "--port", str(free_port()), *detach]
    done = subprocess.run(start, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (done.returncode, done.stderr) == (2, f"jetmem: {tmp_path / 'jetmem.toml'}: {said}\n")
    assert [each.name for each in tmp_path.iterdir()] == ["jetmem.toml"]


def test_detached_that_fails_prints_why(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        start = [*COMMAND, "up", "--detach", "--data", str(tmp_path / "data"), "--port", str(port)]
        said = subprocess.run(start, capture_output=True, text=True, timeout=DEADLINE_S)
    assert said.returncode == 2
    assert said.stdout == "" and f"port {port} on 127.0.0.1 is in use" in said.stderr


def test_a_grown_log_is_rotated_at_start(up, tmp_path, monkeypatch):
    log = tmp_path / "x.log"
    log.write_bytes(b"old\n" * 3)
    monkeypatch.setattr(processes, "LOG_BYTES_MAX", 10)
    processes.rotate(log)
    assert not log.exists() and (tmp_path / "x.log.1").read_bytes() == b"old\n" * 3


def test_the_last_line_of_a_log_is_readable(tmp_path):
    log = tmp_path / "x.log"
    log.write_text('first\n{"event": "stopped", "error": "no disk", "level": "error"}\n\n')
    assert processes.last_line(log) == "stopped: no disk"
    assert processes.last_line(log, since=log.stat().st_size) == ""
    assert processes.last_line(tmp_path / "none") == ""
