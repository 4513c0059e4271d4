"""A real Prometheus scrapes the running pipeline: every panel has data, and what goes wrong is told and over again."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator

import nats
import pytest

from harness.exporter import exporter
from harness.prometheus import Prometheus, prometheus
from harness.up import Running, up
from harness.waiting import until
from jetmem import flow
from jetmem.docs import alerts, dashboards
from jetmem_schemas import subjects

#: Two cores shared with others: a scrape, an evaluation and a restart may each take many seconds.
DEADLINE_S = 120.0
#: Nothing of this happens while all is well.
TROUBLE = ("jetmem: pipeline / Retries", "jetmem: pipeline / Last error")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with up(tmp_path_factory.mktemp("up")) as made:
        yield made


@pytest.fixture(scope="module")
def watched(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    ports = {name: each["http_port"] for name, each in running.processes().items()}
    broker = f"http://127.0.0.1:{ports['nats-server']}"
    with exporter(broker) as port:
        jobs = {"jetmem": [ports[name] for name in flow.NAMES], "nats": [port]}
        with prometheus(tmp_path_factory.mktemp("watch") / "prometheus", jobs) as made:
            yield made


def load(running: Running) -> None:
    """A little of everything: said, said again, said wrongly, asked, asked too early, walked."""

    async def work() -> None:
        nc = await nats.connect(running.url)
        js = nc.jetstream()

        async def ask(verb: str, **request: object) -> dict[str, object]:
            reply = await nc.request(subjects.query("acme", verb), json.dumps(request).encode(), timeout=30)
            return dict(json.loads(reply.data))

        try:
            said = [{"id": f"e{number}", "text": f"ticket {number} of the harbour is paid"} for number in range(40)]
            for each in [*said, *said[:5], {"id": "e1", "text": "other"}]:
                subject = subjects.memory("acme", "event", "alice", "s1")
                seq = (await js.publish(subject, json.dumps(each).encode(), timeout=10)).seq
            await ask("search", query="who paid for the harbour?", after=seq, wait_ms=20_000)
            await ask("search", query="tickets", mode="text", after=seq + 1_000_000)
            await ask("search", query="tickets", limit=0)
            for verb in ("timeline", "toc", "agents"):
                await ask(verb)
        finally:
            await nc.close()

    asyncio.run(work())


def test_every_panel_and_every_rule_has_data(running: Running, watched: Prometheus) -> None:
    wanted = {where: expr for where, expr in dashboards.expressions().items() if not where.startswith(TROUBLE)}
    wanted |= {name: name for name in alerts.RECORDED}

    def empty() -> list[str]:
        load(running)
        return [where for where, expr in wanted.items() if not watched.query(expr)]

    def filled() -> bool:
        nonlocal left
        left = empty()
        return not left

    left: list[str] = []
    try:
        until(filled, "every expression returns data", DEADLINE_S)
    except AssertionError as error:
        raise AssertionError(f"no data: {left}") from error
    for trouble in TROUBLE:
        assert any(where.startswith(trouble) for where in dashboards.expressions()), trouble
    arms = {each["metric"]["arm"] for each in watched.query("jetmem_freshness_seconds_count > 0")}
    assert {"record", "text", "vector"} <= arms


def test_a_stage_that_is_stopped_is_told_and_over_again(running: Running, watched: Prometheus) -> None:
    until(lambda: watched.query('up{job="jetmem"}'), "it was scraped")
    until(lambda: "JetmemStageDown" not in watched.alerts(), "all are there", DEADLINE_S)
    with running.hung("index"):
        until(lambda: "JetmemStageDown" in watched.alerts(), "the stage that hangs is told", DEADLINE_S)
    until(lambda: "JetmemStageDown" not in watched.alerts(), "and is over", DEADLINE_S)


def test_poison_is_told_and_over_again(running: Running, watched: Prometheus) -> None:
    async def poison() -> None:
        nc = await nats.connect(running.url)
        try:
            await nc.jetstream().publish(subjects.memory("acme", "event", "alice", "s1"), b"nope", timeout=10)
        finally:
            await nc.close()

    until(lambda: "JetmemDeadLetters" not in watched.alerts(), "nothing is told of before", DEADLINE_S)
    asyncio.run(poison())
    until(lambda: "JetmemDeadLetters" in watched.alerts(), "dead letters are told", DEADLINE_S)
    until(lambda: "JetmemDeadLetters" not in watched.alerts(), "and are over", DEADLINE_S)
    assert watched.query('increase(jetmem_dead_letters_total{code="bad_json"}[10m]) > 0')


def test_top_shows_what_happens(running: Running) -> None:
    load(running)
    command = [sys.executable, "-m", "jetmem", "top", "--data", str(running.folder), "--json", "--every", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    said = json.loads(done.stdout)
    assert {each["stage"] for each in said["stages"]} == set(flow.NAMES)
    assert all(each["healthy"] and each["rate"] is not None for each in said["stages"]), said["stages"]
    assert {"record", "text", "vector"} <= {each["name"] for each in said["freshness"]}
    assert "search" in {each["name"] for each in said["verbs"]}
    assert said["dead_letters"] > 0 and said["window_s"] >= 1


def test_nothing_is_told_when_all_is_well(running: Running, watched: Prometheus) -> None:
    """But of the disk of the machine that runs the tests."""
    until(lambda: len(watched.query('up{job="jetmem"} == 1')) == len(flow.NAMES), "all are scraped", DEADLINE_S)
    until(lambda: not watched.alerts() - {"JetmemDiskFull", "JetmemDiskFillsUp"}, "all is well", DEADLINE_S)
