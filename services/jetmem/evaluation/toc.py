"""`make eval-toc`: what the table of contents finds of LoCoMo's evidence, through the running service.

    python -m jetmem.evaluation.toc [--data DIR] [--limit N]

Each tenant's tree is read through `toc` and `browse`, and walked for each question as an agent would; `route` walks for
itself. Coverage is the share of a question's evidence turns that lie in the segments opened so far.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from jetmem import client
from jetmem.adapters.nats_ask import ask
from jetmem.adapters.tantivy_text import analyze
from jetmem.client import Client
from jetmem.console.ending import told
from jetmem.console.temporary import Pipeline, pipeline, run
from jetmem.domain import walk
from jetmem.domain.extract import Floats, Said
from jetmem.evaluation import conditions, locomo, metrics, toc_metrics
from jetmem.evaluation import show as screen
from jetmem.evaluation.locomo import Question
from jetmem.evaluation.retrieval import spread_evenly
from jetmem.evaluation.show import Told, facts, progress
from jetmem.evaluation.toc_baselines import PICKS, Baselines, Row, Segment, statistics
from jetmem.evaluation.toc_metrics import Coverage
from jetmem.loading import Loader, Source
from jetmem.runtime.errors import Broken
from jetmem_schemas import subjects
from jetmem_schemas.internal import EncodeReply, EncodeRequest, StageStatus
from jetmem_schemas.requests import Item
from jetmem_schemas.shown import NodeItem

_NAME: Final = "jetmem eval-toc"
_LOAD_S: Final = 120.0
_WAIT_MS: Final = 30_000
_NODES_MAX: Final = 300
#: Everything was said long ago: segments need not rest before they are made with vectors.
_QUICK: Final = {"JETMEM_SUMMARIZE_VECTORS_REST_S": "1"}
_ASK_S: Final = 30.0
_LOOK_S: Final = 1.0
_TEXTS_AT_ONCE: Final = 32
#: Makes `route` walk, whatever the question; none of its words is looked for.
_EXPLORE: Final = "Tell me about: "
GOAL: Final = 0.80


@dataclass
class Tree:
    """One tenant's table of contents, as read, and the events of each segment."""

    nodes: dict[str, NodeItem] = field(default_factory=dict)
    segments: dict[str, Segment] = field(default_factory=dict)

    def cards(self, ids: Sequence[str]) -> list[walk.Card]:
        """What a walk sees of these."""
        held = [self.nodes[each] for each in ids]
        return [walk.Card(n.id, n.level == "segment", n.terms, int(_ms(n.end))) for n in held]


class Walked(msgspec.Struct, frozen=True):
    """Walks of all questions: coverage, mean of nodes read, latency in ms, those that opened nothing."""

    coverage: Coverage
    read: float
    latency: metrics.Spread
    empty: int


class Report(msgspec.Struct, frozen=True):
    """What `--json` writes."""

    data: str
    events: int
    questions: int
    levels: dict[str, int]
    conditions: dict[str, str]
    seconds: dict[str, float]
    walks: dict[str, Walked]
    bullets: dict[str, Row]


async def measure(data: Path, limit: int, say: Told) -> Report:
    """Start the service, load, read the trees, walk, stop.

    Raises:
        Missing: No data.
        BadFile: Data that is not in our form.
    """
    questions = spread_evenly(locomo.questions_of(data), limit)
    found = conditions.machine()
    say.say("starting the pipeline (the first start on a machine prepares the model, about a minute)")
    async with pipeline("jetmem-eval-toc-", say.say, _QUICK) as running:
        async with client.connect(running.url, tenant="eval", name=_NAME) as memory:
            events, seconds = await _load(memory, data / locomo.EVENTS_FILE, say)
            say.say("reading the trees")
            trees = {tenant: await _read(memory.as_tenant(tenant)) for tenant in sorted({q.tenant for q in questions})}
            segments = {tenant: list(tree.segments.values()) for tenant, tree in trees.items()}
            meaning = await _encode(memory, Baselines.texts(segments, analyze), say)
            walks = {
                "walk over toc and browse": _walk_all(trees, questions),
                "route": await _route_all(memory, trees, questions, say),
            }
        _whole(running)
        seconds["ready"] = running.ready_s
    say.say("bullets chosen otherwise, for comparison")
    baselines = Baselines(segments, analyze, meaning)
    bullets = {name: baselines.row(questions, pick) for name, pick in PICKS.items()}
    found["load after"] = conditions.load()
    levels = {
        level: sum(node.level == level for tree in trees.values() for node in tree.nodes.values())
        for level in ("year", "month", "week", "day", "segment")
    }
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    return Report(str(data), events, len(questions), levels, found, rounded, walks, bullets)


def _whole(running: Pipeline) -> None:
    if running.restarts():
        raise Broken(f"{running.restarts()} processes died and were restarted: the figures would be worthless")


async def _load(memory: Client, path: Path, say: Told) -> tuple[int, dict[str, float]]:
    bad: list[str] = []
    began = time.perf_counter()
    say.say("loading")
    with Source(str(path)) as source:
        loader = Loader(memory, on_bad=lambda n, *why: bad.append(f"{n} {why}"), on_stored=lambda _: None)
        report = await loader.run(source, _LOAD_S)
    if bad:
        raise locomo.BadFile(f"{path}: {len(bad)} lines were refused, the first is line {bad[0]}")
    seconds = {"stored": time.perf_counter() - began}
    say.say("waiting until every node tells of everything")
    for tenant, seq in report.last_seqs.items():
        while True:
            reply = await memory.as_tenant(tenant).toc(after=seq, wait_ms=_WAIT_MS)
            if not reply.stale and not reply.degraded:
                break
            say.still(f"{tenant}: nodes are behind")
    seconds["all in the tree"] = time.perf_counter() - began
    say.say("waiting until every segment was made with vectors")
    for tenant in report.last_seqs:
        subject = subjects.service("summarize", subjects.partition_of(tenant), "status")
        while True:
            status = await ask(memory.nats, subject, {"tenant": tenant}, StageStatus, _ASK_S)
            if not status.counts["without_vectors"] and not status.counts["pending_nodes"]:
                break
            say.still(f"{tenant}: {status.counts['without_vectors']} segments wait for vectors")
            await asyncio.sleep(_LOOK_S)
    seconds["with vectors"] = time.perf_counter() - began
    return report.stored, seconds


async def _encode(memory: Client, texts: Sequence[str], say: Told) -> dict[str, Floats]:
    """Vectors of texts, as questions get them."""
    found: dict[str, Floats] = {}
    with progress(say, f"encoding {len(texts)} texts", len(texts)) as step:
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = list(texts[start : start + _TEXTS_AT_ONCE])
            subject = subjects.service("embed", "any", "encode")
            reply = await ask(memory.nats, subject, EncodeRequest(some), EncodeReply, _ASK_S)
            for text, raw in zip(some, reply.vectors, strict=True):
                if raw:
                    found[text] = np.frombuffer(raw, dtype=np.float32)
                step()
    return found


async def _read(memory: Client) -> Tree:
    """The whole tree, from the years down, and the words of its segments."""
    tree = Tree()
    level = (await memory.toc(explain=True)).nodes or []
    while level:
        tree.nodes |= {node.id: node for node in level}
        above = [node.id for node in level if node.level != "segment"]
        level = []
        for each in above:
            level += [node async for node in memory.browse_all(each, explain=True, limit=100)]
    for node in tree.nodes.values():
        if node.level == "segment":
            tree.segments[node.id] = Segment(await _events(memory, node))
    return tree


async def _events(memory: Client, node: NodeItem) -> list[Said]:
    """Events of a segment's time in its session; no other segment of LoCoMo's sessions is there."""
    held = memory.timeline_all(
        agent=node.agents[0],
        session=node.session,
        since=_ms(node.start),
        until=_ms(node.end) + 1,
        limit=100,
        order="asc",
    )
    return [_said(item) async for item in held]


def _said(item: Item) -> Said:
    return Said(item.id, int(_ms(item.ts)), item.text, item.author, item.role, item.kind)


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _walk_all(trees: dict[str, Tree], questions: Sequence[Question]) -> Walked:
    known = {tenant: statistics([tree.nodes[each].terms for each in tree.segments]) for tenant, tree in trees.items()}
    found, read, spent, empty = [], [], [], 0
    for question in questions:
        tree = trees[question.tenant]
        began = time.perf_counter()
        asked = walk.Question(analyze(question.question), known[question.tenant])
        way = walk.Walk(asked, segments=toc_metrics.OPENED[-1], nodes_max=_NODES_MAX)
        seen = [each.id for each in tree.nodes.values() if each.level == "year"]
        count = len(seen)
        way.see(tree.cards(seen))
        opened = []
        while (step := way.open()) is not None:
            if step.leaf:
                opened.append(tree.segments[step.id].ids)
            else:
                children = tree.nodes[step.id].children
                count += len(children)
                way.see(tree.cards(children))
        spent.append(time.perf_counter() - began)
        read.append(count)
        empty += not opened
        found.append(toc_metrics.coverage(opened, frozenset(question.evidence)))
    return Walked(toc_metrics.mean(found), sum(read) / max(1, len(read)), metrics.spread(spent), empty)


async def _route_all(memory: Client, trees: dict[str, Tree], questions: Sequence[Question], say: Told) -> Walked:
    found, spent, empty = [], [], 0
    # "in June" is the June before the conversation's end, when the questions were written
    ends = {tenant: max(node.end for node in tree.nodes.values()) for tenant, tree in trees.items()}
    with progress(say, f"asking route {len(questions)} questions", len(questions)) as step:
        for question in questions:
            began = time.perf_counter()
            reply = await memory.as_tenant(question.tenant).route(
                _EXPLORE + question.question, limit=toc_metrics.OPENED[-1], now=ends[question.tenant]
            )
            spent.append(time.perf_counter() - began)
            segments = trees[question.tenant].segments
            opened = [segments[node.id].ids for node in reply.nodes if node.id in segments]
            empty += not opened
            found.append(toc_metrics.coverage(opened, frozenset(question.evidence)))
            step()
    return Walked(toc_metrics.mean(found), 0.0, metrics.spread(spent), empty)


def _figures(coverage: Coverage) -> list[str]:
    return [f"{value:.3f}" for value in (coverage.at_1, coverage.at_3, coverage.at_5)]


def tables(report: Report) -> list[Table]:
    """Walks, then bullets alone."""
    levels = ", ".join(f"{count} {level}s" for level, count in report.levels.items())
    walks = Table(title=f"{report.data}: {report.events} events, {report.questions} questions; {levels}")
    walks.title_justify = "left"
    for name in ("", "cover@1", "cover@3", "cover@5", "nodes read", "nothing opened", "p50 ms", "p95 ms"):
        walks.add_column(name, justify="right" if name else "left")
    for name, each in report.walks.items():
        read = f"{each.read:.0f}" if each.read else "–"
        latency = (f"{each.latency.p50:.1f}", f"{each.latency.p95:.1f}")
        walks.add_row(name, *_figures(each.coverage), read, str(each.empty), *latency)
    bullets = Table(title="segments ranked by the words of their bullets alone", title_justify="left")
    for name in ("bullets", "cover@1", "cover@3", "cover@5", "evidence quoted", "repeated words", "alike"):
        bullets.add_column(name, justify="left" if name == "bullets" else "right")
    for name, row in report.bullets.items():
        bullets.add_row(name, *_figures(row.coverage), *(f"{v:.3f}" for v in (row.cited, row.repeated, row.alike)))
    return [walks, bullets]


def show(console: Console, report: Report) -> None:
    """Print everything."""
    console.print(facts(report.conditions))
    for table in tables(report):
        console.print(table)
    for name, each in report.walks.items():
        at_3 = each.coverage.at_3
        judged = "reached" if at_3 >= GOAL else "missed"
        console.print(f"goal {GOAL:.2f} at 3 opened segments: {name} {judged} with {at_3:.3f}")
    console.print(
        "seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in report.seconds.items()), markup=False
    )


def command(
    data: Annotated[Path, typer.Option(help="Folder with events.jsonl and questions.jsonl.")] = locomo.DATA,
    limit: Annotated[int, typer.Option(min=0, help="Ask only so many questions, spread evenly; 0 for all.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here, too.")] = None,
) -> None:
    """Measure how much of LoCoMo's evidence a walk down the table of contents reaches."""
    with told(_NAME, (locomo.Missing, locomo.BadFile, screen.Unwritable)):
        screen.writable(json_file)
        report = run(measure(data, limit, Told(screen.console(stderr=True))))
        show(screen.console(), report)
        if json_file:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def main() -> None:
    """Run the command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app()


if __name__ == "__main__":
    main()
