"""`make eval`: recall of turn retrieval through the running service, per category and mode.

    python -m jetmem.evaluation.retrieval [--data DIR | --locomo locomo10.json] [--modes text,vector,hybrid]

recall@k is the mean over questions of |found ∩ evidence| / |evidence|; each tenant is searched alone.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from jetmem import client
from jetmem.client import Client
from jetmem.console.ending import fail, told
from jetmem.console.temporary import Pipeline, pipeline, run
from jetmem.evaluation import conditions, locomo, metrics, ranked
from jetmem.evaluation import show as screen
from jetmem.evaluation.show import Told, facts, progress
from jetmem.loading import Loader, Source, wait_fresh
from jetmem.runtime.errors import Broken

_NAME: Final = "jetmem eval"
MODES: Final = ("text", "vector", "hybrid")
#: As many as recall@20 needs.
HITS: Final = 20
_LOAD_S: Final = 120.0
_COLUMNS: Final = ("recall@5", "recall@10", "recall@20", "hit@10", "nDCG@10")


class Asked(msgspec.Struct, frozen=True):
    """One question's outcome."""

    category: int
    scores: metrics.Scores
    seconds: float
    degraded: bool


class Result(msgspec.Struct, frozen=True):
    """One mode: over all, per category, how long a question took, and how many answers were not whole."""

    overall: metrics.Scores
    categories: dict[int, metrics.Scores]
    latency: metrics.Spread
    degraded: int


class Report(msgspec.Struct, frozen=True):
    """What `--json` writes."""

    data: str
    events: int
    questions: int
    conditions: dict[str, str]
    seconds: dict[str, float]
    modes: dict[str, Result]
    ranking: ranked.Report


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured; `limit` questions, spread evenly, 0 for all."""

    data: Path
    modes: tuple[str, ...] = MODES
    limit: int = 0
    concurrency: int = 1


def summed(asked: Sequence[Asked]) -> Result:
    """One mode's result."""
    return Result(
        overall=metrics.mean(each.scores for each in asked),
        categories=metrics.by_category([(each.category, each.scores) for each in asked]),
        latency=metrics.spread([each.seconds for each in asked]),
        degraded=sum(each.degraded for each in asked),
    )


def spread_evenly(questions: list[locomo.Question], limit: int) -> list[locomo.Question]:
    """So many questions from all over the file."""
    if not limit or limit >= len(questions):
        return questions
    return [questions[number * len(questions) // limit] for number in range(limit)]


async def measure(work: Work, told: Told) -> Report:
    """Start the service, load, ask, stop.

    Raises:
        Missing: No data.
        BadFile: Data that is not in our form, or lines that the service refused.
    """
    questions = spread_evenly(locomo.questions_of(work.data), work.limit)
    conditions_ = conditions.machine()
    told.say("starting the pipeline (the first start on a machine prepares the model, about a minute)")
    async with pipeline("jetmem-eval-", told.say) as running:
        conditions_ |= await conditions.encoder_of(running.url)
        async with client.connect(running.url, tenant="eval", name="jetmem eval") as memory:
            events, seconds = await _load(memory, work.data / locomo.EVENTS_FILE, told)
            modes = {}
            for mode in work.modes:
                began = time.perf_counter()
                modes[mode] = summed(await _ask_all(memory, questions, mode, work.concurrency, told))
                seconds[f"asked {mode}"] = time.perf_counter() - began
            began = time.perf_counter()
            ranking = await ranked.measure(running.url, questions, partial(_load, memory, told=told), told)
            seconds["ranking options"] = time.perf_counter() - began
        _whole(running)
        seconds["ready"] = running.ready_s
    conditions_["load after"] = conditions.load()
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    return Report(str(work.data), events, len(questions), conditions_, rounded, modes, ranking)


def _whole(running: Pipeline) -> None:
    if running.restarts():
        raise Broken(f"{running.restarts()} processes died and were restarted: the figures would be worthless")


async def _load(memory: Client, path: Path, told: Told) -> tuple[int, dict[str, float]]:
    """Publish all, wait until all is found by words and by meaning; how many, and when each was reached."""
    bad: list[str] = []
    began = time.perf_counter()
    told.say("loading")
    with Source(str(path)) as source:
        loader = Loader(
            memory, on_bad=lambda n, code, why: bad.append(f"{n} ({code}: {why})"), on_stored=lambda _: None
        )
        report = await loader.run(source, _LOAD_S)
    if bad:
        raise locomo.BadFile(f"{path}: {len(bad)} lines were refused, the first is line {bad[0]}")
    seconds = {"stored": time.perf_counter() - began}
    for arm in ("text", "vector"):
        told.say(f"waiting until everything is found by {'words' if arm == 'text' else 'meaning'}")
        for tenant, seq in report.last_seqs.items():
            await wait_fresh(memory, tenant, seq, "text" if arm == "text" else "vector", told.waiting)
        seconds[f"all by {arm}"] = time.perf_counter() - began
    return report.stored, seconds


async def _ask_all(
    memory: Client, questions: list[locomo.Question], mode: str, concurrency: int, told: Told
) -> list[Asked]:
    """Every question once, at most `concurrency` at a time."""
    tenants = {each.tenant: memory.as_tenant(each.tenant) for each in questions}
    asked: list[Asked] = []
    waiting = iter(questions)

    async def work() -> None:
        for question in waiting:
            asked.append(await _ask(tenants[question.tenant], question, mode))
            step()

    with progress(told, f"asking {len(questions)} questions, mode {mode}", len(questions)) as step:
        await asyncio.gather(*(work() for _ in range(max(1, concurrency))))
    return asked


async def _ask(memory: Client, question: locomo.Question, mode: str) -> Asked:
    began = time.perf_counter()
    reply = await memory.search(question.question, mode=mode, limit=HITS)
    seconds = time.perf_counter() - began
    scores = metrics.score([hit.id for hit in reply.hits], frozenset(question.evidence))
    return Asked(question.category, scores, seconds, bool(reply.degraded) or reply.stale)


def table(report: Report) -> Table:
    """Per mode: each category, then all."""
    shown = Table(title=f"{report.data}: {report.events} events, {report.questions} questions", title_justify="left")
    shown.add_column("mode")
    shown.add_column("category")
    for name in ("n", *_COLUMNS, "p50 ms", "p95 ms"):
        shown.add_column(name, justify="right")
    for mode, result in report.modes.items():
        for kind, scores in result.categories.items():
            shown.add_row("", f"{kind} {metrics.CATEGORIES.get(kind, '')}", *_figures(scores))
        latency = (f"{result.latency.p50:.1f}", f"{result.latency.p95:.1f}")
        shown.add_row(mode, "all", *_figures(result.overall), *latency, style="bold", end_section=True)
    return shown


def _figures(scores: metrics.Scores) -> tuple[str, ...]:
    values = (scores.recall_5, scores.recall_10, scores.recall_20, scores.hit_10, scores.ndcg_10)
    return (str(scores.n), *(f"{value:.3f}" for value in values))


def show(console: Console, report: Report) -> None:
    """Print everything."""
    console.print(facts(report.conditions))
    console.print(table(report))
    ranked.show(console, report.ranking)
    degraded = {mode: result.degraded for mode, result in report.modes.items() if result.degraded}
    if degraded:
        console.print(f"answers that were degraded or stale: {degraded}", style="bold red", markup=False)
    console.print(
        "latency: one question after the other at concurrency 1; embed remembers the questions of earlier modes",
        style="dim",
    )
    spent = ", ".join(f"{name} {value:.1f}" for name, value in report.seconds.items())
    console.print(f"seconds: {spent}", markup=False)


def command(
    data: Annotated[Path, typer.Option(help="Folder with events.jsonl and questions.jsonl.")] = locomo.DATA,
    locomo_file: Annotated[Path | None, typer.Option("--locomo", help="The public locomo10.json instead.")] = None,
    modes: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(MODES),
    limit: Annotated[int, typer.Option(min=0, help="Ask only so many questions, spread evenly; 0 for all.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions under way at once.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here, too.")] = None,
) -> None:
    """Measure how well the running service finds the evidence of LoCoMo's questions."""
    wanted = tuple(mode.strip() for mode in modes.split(",") if mode.strip())
    if not wanted or set(wanted) - set(MODES):
        fail(_NAME, f"--modes must be of {', '.join(MODES)}, not {modes!r}", 2)
    console = screen.console()
    usage = (locomo.Missing, locomo.BadFile, screen.Unwritable)
    with told(_NAME, usage), tempfile.TemporaryDirectory(prefix="jetmem-locomo-") as scratch:
        screen.writable(json_file)
        folder = _converted(locomo_file, Path(scratch), console) if locomo_file else data
        work = Work(data=folder, modes=wanted, limit=limit, concurrency=concurrency)
        report = run(measure(work, Told(screen.console(stderr=True))))
        if locomo_file:
            report = msgspec.structs.replace(report, data=str(locomo_file))
        show(console, report)
        if json_file:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _converted(path: Path, folder: Path, console: Console) -> Path:
    converted = locomo.convert_file(path)
    locomo.write(converted, folder)
    dropped = f", {converted.without_evidence} without evidence left out" if converted.without_evidence else ""
    console.print(f"{path}: {len(converted.events)} turns, {len(converted.questions)} questions{dropped}", markup=False)
    return folder


def main() -> None:
    """Run the command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app()


if __name__ == "__main__":
    main()
