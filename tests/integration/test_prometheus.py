"""A real Prometheus scrapes the running pipeline: every panel and every rule has data, and all is well."""

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
TROUBLE = ("jetmem: pipeline / Retries", "jetmem: pipeline / Last error", "jetmem: stores and broker / Expires")


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
    """A little of everything: said, said again, said wrongly, done, asked, asked too early, walked."""

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
            for number in range(20):  # enough to crystallise
                subject = subjects.memory("acme", "run", f"a{number % 4}", "s1")
                run = {"id": f"r{number}", "task": "pay the harbour", "procedure": "transfer", "success": True}
                await js.publish(subject, json.dumps(run).encode(), timeout=10)
            await ask("search", query="who paid for the harbour?", after=seq, wait_ms=20_000)
            await ask("search", query="tickets", mode="text", after=seq + 1_000_000)
            await ask("search", query="tickets", limit=0)
            for verb in ("timeline", "toc", "agents", "procedures", "patterns", "insights"):
                await ask(verb)
            await ask("recommend", task="pay the harbour")
            await ask("related", id="transfer")
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
