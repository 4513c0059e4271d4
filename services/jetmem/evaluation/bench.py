"""`make bench`: how fast, how fresh, how large; every figure through the running service.

    python -m jetmem.evaluation.bench [--quick] [--only NAME] [--events N] [--json FILE]

One pipeline for all: the bare broker first, alone; then everything with all stages running, the bare model in turn.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console

from jetmem import client
from jetmem.client import Client
from jetmem.console import configuration
from jetmem.console.ending import fail, told
from jetmem.console.temporary import Pipeline, environment, model_cache, pipeline, run
from jetmem.evaluation import (
    bench_broker,
    bench_data,
    bench_encoder,
    bench_freshness,
    bench_learn,
    bench_load,
    bench_queries,
    bench_resources,
    bench_sizing,
    bench_toc,
    conditions,
)
from jetmem.evaluation import show as screen
from jetmem.evaluation.bench_report import Figure, Report, Section, show_targets, table, timings
from jetmem.evaluation.show import Told, facts
from jetmem.runtime.errors import Broken

_NAME: Final = "jetmem bench"
SECTIONS: Final = ("broker", "load", "sizing", "embeddings", "queries", "freshness", "resources", "toc", "learn")
#: Which need the events, and all their vectors.
_NEED_EVENTS: Final = {"load", "sizing", "embeddings", "queries", "resources"}
_NEED_VECTORS: Final = {"sizing", "embeddings", "queries", "resources"}
#: To reach, on two cores.
PERSISTED_MIN: Final = 15_000.0
TEXT_P95_MS_MAX: Final = 1_000.0
ENCODED_MIN: Final = 0.85
HYBRID_P95_MS_MAX: Final = 40.0
SUMMARIZED_MIN: Final = 2_000.0
TOC_P95_MS_MAX: Final = 10.0
LEARNT_MIN: Final = 5_000.0
RECOMMEND_P95_MS_MAX: Final = 25.0
WAVE_P95_MS_MAX: Final = 1_000.0
CONTAGION_S_MAX: Final = 1.0
#: Of the crowded freshness measure: about as many partitions have work at once as there are.
TENANTS: Final = 64
_REST_S: Final = 180.0
#: embed is held so long for a look at the bare model: less than the broker waits for a job's answer.
_HELD_S: Final = 8.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything."""

    only: frozenset[str] = frozenset(SECTIONS)
    data: Path = bench_data.IRC
    events: int = bench_data.EVENTS
    bare_events: int = 50_000
    alone_s: float = 15.0
    reference_s: float = 8.0
    questions: int = 300
    crowd_s: float = 60.0
    steady_s: float = 20.0
    singles: int = 50
    toc_events: int = bench_toc.EVENTS
    toc_texts: int = bench_toc.TEXTS
    runs: int = bench_learn.RUNS
    tasks: int = bench_learn.TASKS
    procedures: int = bench_learn.PROCEDURES


def quick(plan: Plan) -> Plan:
    """A minute or two: shows that everything works; figures for orientation only."""
    return msgspec.structs.replace(
        plan,
        events=min(plan.events, 5_000),
        bare_events=10_000,
        alone_s=4.0,
        reference_s=2.0,
        questions=60,
        crowd_s=8.0,
        steady_s=5.0,
        singles=10,
        toc_events=10_000,
        toc_texts=1_000,
        runs=10_000,
        tasks=1_000,
        procedures=100,
    )


class Bench:
    """One run; figures are shown as soon as they are there, and kept in `sections`."""

    def __init__(self, plan: Plan, console: Console, told: Told) -> None:
        self.plan = plan
        self.sections: list[Section] = []
        self.conditions = conditions.machine()
        self._console = console
        self._told = told
        self._bare: bench_broker.Bare | None = None
        self._alone: list[bench_encoder.Rate] = []
        self._backlog: bench_encoder.Backlog | None = None
        self._settings = configuration.load(None, environment())["embed"]

    async def run(self) -> Report:
        """Everything that was asked for."""
        began = time.perf_counter()
        wanted = self.plan.only
        data = bench_data.read(self.plan.data, self.plan.events)
        self.conditions |= {"events": f"{len(data.lines)} of {data.origin}", "broker": "sync_interval: always"}
        with tempfile.TemporaryDirectory(prefix="jetmem-bench-bare-") as scratch:
            if "broker" in wanted:
                await self._broker(data, Path(scratch))
            if wanted - {"broker", "toc", "learn"}:
                self._told.say("starting the pipeline")
                async with pipeline("jetmem-bench-", self._told.say) as running:
                    await self._piped(running, data, Path(scratch))
            if "embeddings" in wanted:
                await self._encoded(data, Path(scratch))
        if "toc" in wanted:
            await self._contents(data)
        if "learn" in wanted:
            await self._learnt(data)
        return Report(self.conditions, self.sections, round(time.perf_counter() - began, 1))

    async def _piped(self, running: Pipeline, data: bench_data.Data, folder: Path) -> None:
        """What needs all stages."""
        wanted = self.plan.only
        self.conditions |= await conditions.encoder_of(running.url)
        self.conditions["stages"] = ", ".join(running.processes())
        self._console.print(facts(self.conditions))
        async with client.connect(running.url, tenant=bench_data.TENANT, name="jetmem bench") as memory:
            sizing = bench_sizing.Sizing(running)
            if wanted & _NEED_EVENTS:
                await self._load(memory, data)
            if wanted & _NEED_VECTORS:
                self._told.say("waiting until every text has its vector")
                bare = partial(self._held, running.processes()["embed"], data, folder)
                looks = bare if "embeddings" in wanted else None
                self._backlog = await bench_encoder.backlog(memory, memory.nats, self._told, looks)
            if wanted & {"sizing", "queries", "freshness"}:
                # A tenant's vectors are loaded, and linked, once somebody asks.
                await memory.search("anything", mode="vector", limit=1)
                rested = await bench_resources.rest(running.processes(), memory.nats, self._told, _REST_S)
                self._told.say(f"waited {rested:.0f} s until graphs were linked and segments merged")
            if "sizing" in wanted:
                title = f"What {len(data.lines)} events took, all of it worked off"
                self._add("sizing", title, await sizing.figures(memory.nats, data))
            if "queries" in wanted:
                await self._queries(running, memory, data)
            if "freshness" in wanted:
                await self._freshness(memory, data)
        if "resources" in wanted:
            self._resources(running)
        _steady(running)

    async def _broker(self, data: bench_data.Data, folder: Path) -> None:
        self._told.say("the broker alone")
        some = msgspec.structs.replace(data, lines=data.lines[: self.plan.bare_events])
        self._bare = bare = await bench_broker.measure(some, folder)
        note = f"{bare.events} events, batches of 1,000, an fsync each"
        figures = [
            Figure("published, one Python publisher", bare.published, "events/s", note=note),
            Figure("read in order, one Python reader", bare.read, "events/s"),
        ]
        self._add("broker", "The broker alone, nothing behind it", figures)

    async def _load(self, memory: Client, data: bench_data.Data) -> None:
        found = await bench_load.measure(memory, data, self._told)
        if "load" not in self.plan.only:
            return
        ratio = f"{found.acknowledged / self._bare.published:.0%} of the broker alone" if self._bare else ""
        figures = [
            Figure("acknowledged (on disk)", found.acknowledged, "events/s", note=ratio),
            Figure("persisted (recorded, too)", found.persisted, "events/s", PERSISTED_MIN),
            Figure("found by words, too", found.by_words, "events/s"),
        ]
        self._add("load", f"{found.events} events published in batches, all stages running", figures)

    async def _held(self, embed: int, data: bench_data.Data, folder: Path) -> bench_encoder.Rate:
        """The bare model while embed is held; shorter than the broker waits for an answer to a job."""
        os.kill(embed, signal.SIGSTOP)
        try:
            plan = self._alone_plan(data, "jetmem", min(self.plan.alone_s, _HELD_S))
            self._alone.append(await bench_encoder.alone(plan, folder))
        finally:
            os.kill(embed, signal.SIGCONT)
        return self._alone[-1]

    def _alone_plan(self, data: bench_data.Data, how: Any, seconds: float) -> bench_encoder.Alone:
        own = self._settings
        windows = bench_encoder.windows(data.texts(), own.window_texts, 64)
        cache = own.cache or str(model_cache())
        return bench_encoder.Alone(how=how, settings=own, cache=cache, windows=windows, seconds=seconds)

    async def _encoded(self, data: bench_data.Data, folder: Path) -> None:
        self._told.say("sentence-transformers as it comes, in a process alone")
        plan = self._alone_plan(data, "sentence-transformers", self.plan.reference_s)
        reference = await bench_encoder.alone(plan, folder)
        best = max(self._alone, key=lambda each: each.rate)
        backlog = self._backlog or bench_encoder.Backlog(0.0, 0.0, 0.0)
        rates = ", ".join(f"{each.rate:,.0f}" for each in self._alone)
        ratio = statistics.median(backlog.ratios) if backlog.ratios else backlog.rate / best.rate
        stretches = ", ".join(f"{each:.2f}" for each in backlog.ratios) or "one stretch only"
        same = f"{best.precision}, micro-batches of {self._settings.batch_texts}, same windows and order"
        figures = [
            Figure(
                "through the pipeline", backlog.rate, "texts/s", note=f"backlog worked off in {backlog.seconds:.0f} s"
            ),
            Figure("events that got their vector", backlog.events, "events/s", note="equal texts are encoded once"),
            Figure("bare model, process alone", best.rate, "texts/s", note=f"{same}; in turn: {rates}"),
            Figure("pipeline to bare model", ratio, "", ENCODED_MIN, note=f"median of stretches: {stretches}"),
            Figure("sentence-transformers, fp32", reference.rate, "texts/s", note="batches of 32, its default"),
        ]
        self._add("embeddings", "Embeddings", figures)

    async def _queries(self, running: Pipeline, memory: Client, data: bench_data.Data) -> None:
        found = await bench_queries.alone(memory, data, self.plan.questions, self._told)
        figures = []
        for mode, asked in found.items():
            most = HYBRID_P95_MS_MAX if mode == "hybrid" else None
            figures += timings(mode, asked.asked, p95_max=most, note=_seen(asked))
        self._add("queries", f"One client of one tenant with {len(data.lines)} events, idle system", figures)
        spent = bench_resources.Spent(running.processes())
        crowd = await bench_queries.crowd(running.url, data, self.plan.crowd_s, self._told)
        figures = timings("hybrid", crowd.asked.asked, note=_seen(crowd.asked))
        figures += timings("publish one, acknowledged", crowd.acknowledged)
        figures.append(Figure("questions answered", crowd.rate, "per s", note=spent.told(crowd.asked.asked.n)))
        self._add("crowd", f"{bench_queries.AGENTS} agents, each publishes and asks once a second", figures)

    async def _freshness(self, memory: Client, data: bench_data.Data) -> None:
        meaning = await bench_freshness.by_meaning(memory, data, self.plan.singles, self._told)
        words = await bench_freshness.by_words(memory, data, self.plan.steady_s, self._told)
        many = await bench_freshness.by_words(memory, data, self.plan.steady_s, self._told, TENANTS)
        steady = f"at {words.rate:,.0f} events/s, missed {words.missed}"
        figures = timings("found by words", words.found, p95_max=TEXT_P95_MS_MAX, note=steady)
        spread = f"the same rate over {TENANTS} tenants, missed {many.missed}"
        figures += timings("… of many tenants", many.found, note=spread)
        figures += timings("found by meaning", meaning.found, note=f"idle system, missed {meaning.missed}")
        figures.append(Figure("steady stream", words.rate, "events/s", bench_freshness.RATE * 0.98))
        self._add("freshness", "From acknowledgement until a question finds it", figures)

    async def _contents(self, data: bench_data.Data) -> None:
        plan, tenant = self.plan, bench_toc.TENANT
        async with self._alone_with(tenant, "the table of contents") as (running, memory, rest):
            found = await bench_toc.measure(
                memory, data, plan.toc_events, plan.toc_texts, plan.questions, self._told, rest
            )
            used = bench_resources.memory(running.processes())["summarize"]
        counts = ", ".join(f"{count} {level}s" for level, count in found.nodes.items())
        figures = [
            Figure("summarized, every node recorded", found.summarized, "events/s", SUMMARIZED_MIN, note=counts),
            *timings("toc", found.toc, p95_max=TOC_P95_MS_MAX),
            *timings("browse", found.browse, p95_max=TOC_P95_MS_MAX, note="a page of 50, idle system"),
            Figure("memory, summarize", used.now, "MiB", note=f"most {used.most:,.0f}"),
        ]
        title = f"Table of contents over {plan.toc_events} events, {found.events} of them measured, all stages running"
        self._add("toc", title, figures)

    async def _learnt(self, data: bench_data.Data) -> None:
        plan, tenant = self.plan, bench_learn.TENANT
        async with self._alone_with(tenant, "runs") as (running, memory, rest):
            count = (plan.runs, plan.tasks, plan.procedures)
            spending = partial(bench_resources.Spent, running.processes())
            found = await bench_learn.measure(memory, data, count, plan.questions, self._told, spending, rest)
            used = bench_resources.memory(running.processes())["learn"]
        hubs = await asyncio.to_thread(bench_learn.hubs)
        note = f"idle system, other words than any run's; {found.cold} cold"
        heard = f"idle system, missed {found.missed}"
        figures = [
            Figure("learnt, every run counts", found.learnt, "runs/s", LEARNT_MIN, note=found.spent),
            *timings("recommend", found.recommend, p95_max=RECOMMEND_P95_MS_MAX, note=note),
            *timings("run published until others hear", found.waves, p95_max=WAVE_P95_MS_MAX, note=heard),
            Figure("memory, learn", used.now, "MiB", note=f"most {used.most:,.0f}; to stay below 1,536"),
            Figure("contagion on, in a study", hubs.seconds, "s", CONTAGION_S_MAX, at_most=True, note=hubs.told),
        ]
        title = f"{plan.runs} runs of {plan.tasks} tasks by {plan.procedures} procedures, {found.runs} of them measured"
        self._add("learn", title, figures)

    @asynccontextmanager
    async def _alone_with(
        self, tenant: str, what: str
    ) -> AsyncIterator[tuple[Pipeline, Client, Callable[[], Awaitable[None]]]]:
        """A pipeline of its own, a client of the tenant, and what waits until all stages are idle."""
        self._told.say(f"starting a pipeline for {what}")
        async with pipeline(f"jetmem-bench-{tenant}-", self._told.say) as running:
            async with client.connect(running.url, tenant=tenant, name="jetmem bench") as memory:

                async def rest() -> None:
                    rested = await bench_resources.rest(running.processes(), memory.nats, self._told, _REST_S)
                    self._told.say(f"waited {rested:.0f} s until the system was idle")

                yield running, memory, rest
            _steady(running)

    def _resources(self, running: Pipeline) -> None:
        used = bench_resources.memory(running.processes())
        figures = [
            Figure(f"memory, {name}", each.now, "MiB", note=f"most {each.most:,.0f}") for name, each in used.items()
        ]
        figures.append(Figure("memory, all", sum(each.now for each in used.values()), "MiB"))
        figures += [Figure(f"disk, {name}", size, "MiB") for name, size in bench_resources.disk(running.root).items()]
        self._add("resources", "Resident memory and disk at the end", figures)

    def _add(self, name: str, title: str, figures: list[Figure]) -> None:
        self.sections.append(Section(name, title, figures, conditions.load()))
        self._console.print(table(self.sections[-1]))
        self._console.print()


def _steady(running: Pipeline) -> None:
    if running.restarts():
        raise Broken(f"{running.restarts()} processes died and were restarted: the figures are worthless")


def _seen(asked: bench_queries.Asked) -> str:
    told = f"in the service p50 {asked.service.p50:.1f} p95 {asked.service.p95:.1f}"
    return f"{told}, degraded {asked.degraded}" if asked.degraded else told


def command(
    only: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(SECTIONS)}.")] = "",
    short: Annotated[bool, typer.Option("--quick", help="A minute or two, 5,000 events.")] = False,
    events: Annotated[int, typer.Option(min=1_000, help="How many events are loaded.")] = bench_data.EVENTS,
    data: Annotated[Path, typer.Option(help="events.jsonl.gz; made-up words if it is missing.")] = bench_data.IRC,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here, too.")] = None,
) -> None:
    """Measure speed, freshness, memory and disk of the running service."""
    wanted = frozenset(name.strip() for name in only.split(",") if name.strip()) or frozenset(SECTIONS)
    if wanted - set(SECTIONS):
        fail(_NAME, f"--only must be of {', '.join(SECTIONS)}, not {only!r}", 2)
    plan = Plan(only=wanted, data=data, events=events)
    console = screen.console()
    bench = Bench(quick(plan) if short else plan, console, Told(screen.console(stderr=True)))
    with told(_NAME, (screen.Unwritable,)):
        screen.writable(json_file)
        report = run(bench.run())
    show_targets(console, report.sections)
    console.print(f"{report.seconds:.0f} s in all", markup=False)
    if json_file:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def main() -> None:
    """Run the command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app()


if __name__ == "__main__":
    main()
