"""`jetmem top`: figures from two looks, what is shown of them, and refusals."""

import http.server
import math
import threading

import pytest
from rich.console import Console
from typer.testing import CliRunner

from jetmem.cli import app
from jetmem.console.top_command import view
from jetmem.console.top_figures import Look, quantile, read, snapshot

HEALTH = {"stage": "index", "healthy": True, "detail": "ok", "lag": 7, "last_error": "", "dead_letters": None}


def look(at, text, **health):
    return Look(at, {**HEALTH, **health}, read(text))


def buckets(name, label, count, below):
    """So many, all within the second bucket."""
    return "\n".join(
        f'{name}_bucket{{{label},le="{bound}"}} {value}'
        for bound, value in (("0.1", 0), (below, count), ("+Inf", count))
    )


def asked(verb, count, below="0.2"):
    head = "# TYPE jetmem_request_seconds histogram\n"
    return head + buckets("jetmem_request_seconds", f'stage="query",verb="{verb}"', count, below) + "\n"


def test_rates_are_between_two_looks_and_begin_again_with_a_process():
    before = {"index": look(10.0, 'jetmem_received_total{stage="index"} 100\njetmem_lag_seconds{stage="index"} 9\n')}
    after = {"index": look(14.0, 'jetmem_received_total{stage="index"} 300\njetmem_lag_seconds{stage="index"} 2.5\n')}
    made = snapshot(before, after)
    (stage,) = made.stages
    assert (made.window_s, stage.rate, stage.lag, stage.lag_s) == (4.0, 50.0, 7, 2.5)
    again = {"index": look(18.0, 'jetmem_received_total{stage="index"} 20\n')}
    assert snapshot(after, again).stages[0].rate == 5.0


def test_who_does_not_answer_is_shown_and_has_no_rate():
    gone = {"index": Look(5.0, {}, {})}
    (stage,) = snapshot(gone, gone).stages
    assert (stage.healthy, stage.detail, stage.rate) == (False, "does not answer", None)
    back = {"index": look(9.0, 'jetmem_received_total{stage="index"} 100\n')}
    assert snapshot(gone, back).stages[0].rate is None, "since when, nobody knows"
    assert snapshot({}, back).dead_letters is None, "persist alone knows"
    assert snapshot({}, {"persist": look(9.0, "", stage="persist", dead_letters=3)}).dead_letters == 3


def test_latencies_are_of_the_window_or_of_all_if_nothing_was_asked():
    before = {"query": look(0.0, asked("search", 100, "5.0") + asked("toc", 10), stage="query")}
    after = {"query": look(1.0, asked("search", 104, "5.0") + asked("toc", 10), stage="query")}
    found = {each.name: each for each in snapshot(before, after).verbs}
    assert (found["search"].count, found["search"].since_start) == (4, False)
    assert (found["toc"].count, found["toc"].since_start) == (10, True)
    assert found["toc"].p50_s == 0.15
    assert [each.name for each in snapshot(before, after).verbs] == ["search", "toc"]


def test_arms_that_answers_lacked_are_shares_of_them():
    text = (
        'jetmem_requests_total{{stage="query",verb="search",code="ok"}} {}\njetmem_degraded_total{{arm="vector"}} {}\n'
    )
    before, after = ({"query": look(at, text.format(*n), stage="query")} for at, n in ((0, (0, 0)), (1, (200, 50))))
    assert snapshot(before, after).degraded == {"vector": 0.25}
    assert snapshot(after, after).degraded == {}


@pytest.mark.parametrize(("q", "expected"), [(0.0, 0.0), (0.5, 1.0), (0.75, 1.5), (0.99, 2.0)])
def test_quantiles_are_linear_within_a_bucket(q, expected):
    held = {1.0: 10.0, 2.0: 20.0 if q < 0.9 else 15.0, math.inf: 20.0}
    assert quantile(q, held) == pytest.approx(expected)


def test_what_is_no_exposition_is_read_as_far_as_it_goes():
    assert read("jetmem_healthy 1\n<html>") == {("jetmem_healthy", ()): 1.0}
    assert read("") == {}


def test_people_see_processes_latencies_and_the_last_error():
    before = {"query": look(0.0, asked("search", 1), stage="query")}
    error = "RequestFailed 3 s ago: stage persist is not running"
    after = {
        "query": look(
            1.0, asked("search", 3), stage="query", healthy=False, detail="7 messages wait", last_error=error
        ),
        "persist": Look(1.0, {}, {}),
    }
    console = Console(width=160, record=True, file=None, force_terminal=False)
    with console.capture() as shown:
        console.print(view(snapshot(before, after)))
    text = shown.get()
    for part in ("unhealthy", "7 messages wait", "does not answer", "search", "150.0 ms", error, "? dead letters"):
        assert part in text, part


def shown(snap, width, height=None):
    console = Console(width=width, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(view(snap, height))
    return captured.get().splitlines()


def shard(stage, ordinal, served, **more):
    states = {"served": served, "parked": 0, **more}
    lines = (f'jetmem_partitions{{stage="{stage}",shard="{ordinal}",state="{s}"}} {n}\n' for s, n in states.items())
    return look(1.0, "".join(lines), stage=stage, last_error=f"Retryable 3 s ago: {stage} waits for something " * 3)


def test_shards_are_told_apart_with_what_they_have():
    after = {
        "b:80": shard("persist", 1, 15, copying=1),
        "a:80": shard("persist", 0, 48),
        "c:80": shard("index", 0, 64),
        "d:80": Look(1.0, {}, {}),
    }
    snap = snapshot({}, after)
    assert [(each.stage, each.shard, each.served, each.moving) for each in snap.stages] == [
        ("persist", 0, 48, 0), ("persist", 1, 15, 1), ("index", 0, 64, 0), ("d:80", None, None, 0)
    ]  # fmt: skip
    lines = shown(snap, 80)
    assert any(line.split()[:2] == ["persist-1", "b:80"] and line.rstrip().endswith("15, 1 moving") for line in lines)
    assert "d:80: does not answer" in lines
    assert not any("partitions" in line for line in shown(snapshot({}, {"index": after["c:80"]}), 80))


def test_what_has_no_room_is_left_out_from_below():
    verbs = "".join(asked(f"v{number}", 3) for number in range(9))
    stages = {name: shard(name, 0, 64) for name in ("persist", "index", "learn")}
    snap = snapshot({}, stages | {"query": look(1.0, verbs, stage="query")})
    whole = shown(snap, 80)
    assert len(whole) > 20 and whole[0].startswith("last")
    for height in (5, 12, 18, len(whole)):
        lines = shown(snap, 80, height)
        assert len(lines) <= max(height, 3 + 4 + 4) and lines == whole[: len(lines)], "each line of it is one on screen"
        assert all(len(line) <= 80 for line in lines)


def run(*arguments):
    return CliRunner().invoke(app, ["top", *arguments])


def test_what_cannot_be_looked_at_is_refused(tmp_path):
    nothing = run("--data", str(tmp_path))
    assert nothing.exit_code == 1 and "nothing runs on" in nothing.stderr and "--at" in nothing.stderr
    for address in ("nowhere", "http://:80", "http://a:99999"):
        bad = run("--at", address)
        assert bad.exit_code == 2 and "is no address" in bad.stderr


class NotOurs(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_):
        pass


def test_who_is_not_ours_does_not_answer():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotOurs) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = run("--at", f"127.0.0.1:{server.server_address[1]}", "--every", "0.2", "--json")
        server.shutdown()
    assert done.exit_code == 0 and '"does not answer"' in done.stdout
