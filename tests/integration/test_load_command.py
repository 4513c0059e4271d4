"""`jetmem load` as a process: exit codes, interruption, a broker that goes away."""

import asyncio
import contextlib
import gzip
import json
import os
import pty
import signal
import subprocess
import sys

import nats
import pytest

from harness.broker import Broker
from harness.waiting import DEADLINE_S, until
from jetmem.adapters import nats_streams
from jetmem.client import connect
from jetmem.client.flushing import flushed
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects


@pytest.fixture
def broker():
    async def fill(url):
        nc = await nats.connect(url, allow_reconnect=False)
        await nats_streams.ensure(nc, subjects.MEMORY, Common())
        await nc.close()

    with Broker() as running:
        asyncio.run(fill(running.url))
        yield running


def _line(number):
    return json.dumps({"tenant": "t", "agent": "a", "session": "s", "event": {"text": f"{number}"}}) + "\n"


def _command(broker, *arguments):
    return [sys.executable, "-m", "jetmem", "load", *arguments, "--server", broker.url]


def _run_line(number):
    run = {"task": f"{number}", "success": True, "procedure": "p"}
    return json.dumps({"tenant": "t", "agent": "a", "session": "s", "run": run}) + "\n"


def _runs_command(broker, *arguments):
    return [sys.executable, "-m", "jetmem", "runs", "load", *arguments, "--server", broker.url]


def _count(broker):
    async def read():
        nc = await nats.connect(broker.url, allow_reconnect=False)
        info = await nc.jetstream().stream_info(subjects.MEMORY)
        await nc.close()
        return info.state.messages

    return asyncio.run(read())


def test_a_bad_line_is_told_and_the_exit_code_is_1(broker, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(_line(i) for i in range(5)) + "nope\n" * 30)
    done = subprocess.run(_command(broker, str(file)), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert "line 6: bad_json: " in done.stderr
    assert "10 more bad lines" in done.stderr
    assert "5 events acknowledged" in done.stderr
    assert _count(broker) == 5


def test_usage_errors_exit_with_2(broker, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(_line(1))
    wrong = [["/no/such/file"], [str(tmp_path), "--wait", "never"]]
    wrong += [[str(file), "--give-up", value] for value in ("-1", "0", "nan")]
    for arguments in wrong:
        done = subprocess.run(_command(broker, *arguments), capture_output=True, text=True, timeout=DEADLINE_S)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_ends_it_and_says_how_to_go_on(broker, number):
    process = subprocess.Popen(_command(broker, "-"), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write("".join(_line(i) for i in range(100)).encode())
    process.stdin.flush()
    until(lambda: _count(broker) == 100, "what came through the pipe is stored though it stays open")
    process.send_signal(number)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert b"100 events acknowledged" in errors
    assert b"begins at line 1, and nothing is stored twice" in errors


def test_a_terminal_sees_a_bar(broker, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(_line(i) for i in range(2_000)))
    reading, writing = pty.openpty()
    environ = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(_command(broker, str(file)), stderr=writing, env=environ) as process:
        os.close(writing)
        shown = _all_shown(reading)  # while it runs: a terminal that nobody reads is full in the end
    os.close(reading)
    assert process.returncode == 0
    assert b"2,000 events" in shown


def _all_shown(terminal):
    shown = b""
    with contextlib.suppress(OSError):  # Linux says so when the last who could write has closed it
        while part := os.read(terminal, 65536):
            shown += part
    return shown


def test_a_broker_that_is_not_there_is_one_sentence(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(_line(1))
    command = [sys.executable, "-m", "jetmem", "load", str(file), "--server", "nats://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert "cannot reach nats://127.0.0.1:1" in done.stderr
    assert "start one with `jetmem up`, or name another with --server" in done.stderr
    assert "Traceback" not in done.stderr


def test_killed_and_started_again_stores_every_line_under_one_id(broker, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(_line(i) for i in range(60_000)))
    process = subprocess.Popen(_command(broker, str(file)), stderr=subprocess.DEVNULL)
    until(lambda: _count(broker) > 3_000, "the load is under way")
    process.kill()
    process.wait()
    assert subprocess.run(_command(broker, str(file)), stderr=subprocess.DEVNULL, timeout=DEADLINE_S).returncode == 0

    async def ids():
        nc = await nats.connect(broker.url, allow_reconnect=False)
        total = (await nc.jetstream().stream_info(subjects.MEMORY)).state.messages
        sub = await nc.jetstream().subscribe("", stream=subjects.MEMORY, ordered_consumer=True)
        found = {json.loads((await sub.next_msg(timeout=DEADLINE_S)).data)["id"] for _ in range(total)}
        await nc.close()
        return total, found

    total, found = asyncio.run(ids())
    assert total > 60_000
    assert len(found) == 60_000


def test_many_tenants_over_one_connection(broker):
    async def run():
        async with connect(broker.url, tenant="one") as client:
            await client.publish("x", session="s")
            other = client.as_tenant("two")
            return (await other.publish("x", session="s")).seq, other.tenant

    assert asyncio.run(run()) == (2, "two")


@pytest.mark.parametrize("name", ["-", "/dev/null"])
def test_nothing_at_all_is_loaded_at_once(broker, name):
    """/dev/null is no file and cannot be waited for either."""
    done = subprocess.run(
        _command(broker, name), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("0 events acknowledged")


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_a_pipe_is_read_packed_or_not(broker, name, pack):
    packed = pack("".join(_line(i) for i in range(3_000)).encode())
    done = subprocess.run(_command(broker, name), input=packed, capture_output=True, timeout=DEADLINE_S)
    assert (done.returncode, _count(broker)) == (0, 3_000), done.stderr


def test_a_damaged_file_is_said_to_be_and_where(broker, tmp_path):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress("".join(_line(i) for i in range(5_000)).encode())[:-200])
    done = subprocess.run(_command(broker, str(file)), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    stored = _count(broker)
    assert 0 < stored < 5_000
    last = done.stderr.splitlines()[-1]
    assert last.startswith("stopped: ") and f"is compressed and damaged: it ends early after line {stored}" in last
    assert "run it again" not in done.stderr and "mended" in last


def test_fields_that_mean_nothing_are_told_and_harm_nothing(broker, tmp_path):
    file = tmp_path / "a.jsonl"
    where = {"tenant": "t", "agent": "a", "session": "s"}
    events = [{"text": "x", "athor": "bob"}, {"text": "y", "athor": "eve", "bogus": 1}, {"text": "z", "author": "al"}]
    file.write_text("".join(json.dumps({**where, "event": event}) + "\n" for event in events))
    done = subprocess.run(_command(broker, str(file)), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0
    assert "fields that mean nothing: athor (2 events), bogus (1)\n" in done.stderr


def test_who_waits_for_vectors_is_told_what_is_in_the_way_and_may_give_up(broker, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(_line(1))
    answer = {"fresh": {"vector": 0}, "degraded": ["vector"], "stale": True, "took_ms": 1.0}
    counts = dict.fromkeys(("events", "sessions", "agents", "dead_letters", "purging"), 0) | {"pending_vectors": 311}
    down = [{"id": "embed", "stage": "embed", "state": "down", "detail": "no answer", "last_error": ""}]
    replies = {"search": {"mode": "vector", "hits": []}, "status": {**counts, "stages": down}}

    async def main():
        nc = await nats.connect(broker.url, allow_reconnect=False)

        async def answers(msg):
            await nc.publish(msg.reply, json.dumps({**answer, **replies[msg.subject.rsplit(".", 1)[1]]}).encode())

        for verb in replies:
            await nc.subscribe(subjects.query("t", verb), cb=answers)
        await flushed(nc)
        command = _command(broker, str(file), "--wait", "vector", "--give-up", "6")
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        await nc.close()
        return process.returncode, errors.decode()

    code, errors = asyncio.run(main())
    assert code == 1
    assert "waiting for vectors of t: 311 texts; embed: down, no answer" in errors
    assert "gave up: no progress for 6 s with the vectors of t: embed: down, no answer" in errors


def _stored(broker):
    """Subject and payload of all that MEMORY holds, in order."""

    async def read():
        nc = await nats.connect(broker.url, allow_reconnect=False)
        total = (await nc.jetstream().stream_info(subjects.MEMORY)).state.messages
        sub = await nc.jetstream().subscribe("", stream=subjects.MEMORY, ordered_consumer=True)
        found = [await sub.next_msg(timeout=10) for _ in range(total)]
        await nc.close()
        return [(subjects.published(each.subject), json.loads(each.data)) for each in found]

    return asyncio.run(read())


def test_runs_are_loaded_like_events(broker, tmp_path):
    file = tmp_path / "runs.jsonl.gz"
    lines = [_run_line(1), "nope\n", _line(3), _run_line(4).replace("true", '"yes"'), _run_line(5)]
    file.write_bytes(gzip.compress("".join(lines).encode()))
    done = subprocess.run(_runs_command(broker, str(file)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "line 2: bad_json: " in done.stderr
    assert "line 3: missing_field: required field run is missing" in done.stderr
    assert "line 4: bad_field: success must be" in done.stderr
    assert "2 runs acknowledged" in done.stderr and "3 bad lines" in done.stderr
    again = subprocess.run(_runs_command(broker, str(file)), capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    stored = _stored(broker)
    assert {subject for subject, _ in stored} == {"mem.t.run.a.s"}
    assert [body["task"] for _, body in stored] == ["1", "5", "1", "5"]
    assert [body["id"] for _, body in stored[:2]] == [body["id"] for _, body in stored[2:]]


def test_a_load_of_runs_is_interrupted_like_one_of_events(broker):
    process = subprocess.Popen(_runs_command(broker, "-"), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write("".join(_run_line(i) for i in range(100)).encode())
    process.stdin.flush()
    until(lambda: _count(broker) == 100, "what came through the pipe is stored though it stays open")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"100 runs acknowledged" in errors


def test_runs_know_other_waits_than_events(broker, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(_run_line(1))
    for command, wait in ((_runs_command, "vector"), (_command, "learnt")):
        done = subprocess.run(command(broker, str(file), "--wait", wait), capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr.endswith(f", not {wait}\n")
    assert _count(broker) == 0


def test_who_waits_until_runs_are_learnt_is_told_when_they_are(broker, tmp_path):
    """Applied first, then with the vectors of their tasks: neither alone is enough."""
    file = tmp_path / "a.jsonl"
    file.write_text(_run_line(1))
    missing = [["procedures"], ["vector"], []]
    counts = dict.fromkeys(("events", "sessions", "agents", "dead_letters", "purging"), 0) | {"pending_vectors": 1}
    asked = []

    async def main():
        nc = await nats.connect(broker.url, allow_reconnect=False)

        async def answers(msg):
            common = {"fresh": {"procedures": len(asked)}, "stale": False, "took_ms": 1.0, "degraded": []}
            if msg.subject.endswith("recommend"):
                asked.append(json.loads(msg.data))
                common |= {"degraded": missing[len(asked) - 1], "procedures": [], "cold": True}
            await nc.publish(msg.reply, json.dumps({**common, **counts, "stages": []}).encode())

        for verb in ("recommend", "status"):
            await nc.subscribe(subjects.query("t", verb), cb=answers)
        await nc.flush()
        command = _runs_command(broker, str(file), "--wait", "learnt")
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        await nc.close()
        return process.returncode, errors.decode()

    code, errors = asyncio.run(main())
    assert (code, len(asked), {each["after"] for each in asked}) == (0, 3, {1}), errors
