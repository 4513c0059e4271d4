"""`jetmem demo`: the pipeline in a temporary folder, the shipped sample, a few questions, and a clean stop."""

from __future__ import annotations

import shutil
import sys
import time
from importlib import resources
from typing import TYPE_CHECKING, Final

import typer

from jetmem.console.moments import zone_named

if TYPE_CHECKING:
    from rich.console import Console

    from jetmem.client import Client
    from jetmem_schemas.asking import Reply
    from jetmem_schemas.requests import SearchReply

TENANT: Final = "demo"
#: Lines of `questions.jsonl` that are asked: exact words, a price that changed, who said it, a preference behind a
#: description, an author named, one that shares no word with its answer, and when.
ASKED: Final = (0, 2, 6, 7, 10, 13, 15)
ASKED_AGENT: Final = ("What does the correction of the price say?", "research")
_WIDTH: Final = 100
_ANSWERS: Final = 3
_START_HINT: Final = "starting (the first start on a machine prepares the model, about a minute)"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo() -> None:
    """Start a pipeline in a temporary folder, load the sample, ask it questions, stop."""
    from jetmem.console import ending, tables, temporary

    console = tables.console()
    console.width = min(_WIDTH, console.width) if console.is_terminal else _WIDTH
    with ending.told("jetmem demo"):
        temporary.run(_Demo(console).run())


class _Demo:
    """One run."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def run(self) -> None:
        """All of it.

        Raises:
            StartFailed: The pipeline did not start.
            KeyboardInterrupt: Interrupted; everything was stopped first.
        """
        from jetmem import client
        from jetmem.console import temporary

        self._wait(_START_HINT)
        async with temporary.pipeline("jetmem-demo-", lambda line: typer.echo(line, err=True)) as pipeline:
            names = ", ".join(pipeline.processes())
            self._say(f"Ready in {pipeline.ready_s:.1f} s at {pipeline.url}: {names}.", "bold")
            async with client.connect(pipeline.url, tenant=TENANT, name="jetmem demo") as memory:
                await self._load(memory)
                await self._ask(memory)
            stopping = time.perf_counter()
        self._say(f"\nStopped everything cleanly in {time.perf_counter() - stopping:.1f} s.", "bold")
        self._next()

    async def _load(self, memory: Client) -> None:
        """Load the sample and say how fast it was there, and how fast it could be found."""
        from jetmem.loading import Loader, Source, wait_fresh

        began = time.perf_counter()
        with resources.as_file(resources.files("jetmem.sample") / "events.jsonl") as path, Source(str(path)) as source:
            loader = Loader(memory, on_bad=lambda *_: None, on_stored=lambda _: None)
            report = await loader.run(source, 60.0)
        self._say(
            f"Loaded {report.stored} events of a team's work in {report.seconds * 1000:.0f} ms "
            f"({report.stored / report.seconds:,.0f}/s), each on disk before it was acknowledged."
        )
        self._wait("embedding")
        await wait_fresh(memory, TENANT, report.last_seq, "text", lambda *_: None)
        text_s = time.perf_counter() - began
        await wait_fresh(memory, TENANT, report.last_seq, "vector", lambda *_: None)
        vector_s = time.perf_counter() - began
        self._say(f"All found by words after {text_s:.1f} s, by meaning after {vector_s:.1f} s.")

    async def _ask(self, memory: Client) -> None:
        import msgspec

        from jetmem.console import tables

        text = (resources.files("jetmem.sample") / "questions.jsonl").read_text(encoding="utf-8")
        lines = [msgspec.json.decode(line) for line in text.splitlines()]
        right = 0
        for number in ASKED:
            question, evidence = lines[number]["question"], set(lines[number]["evidence"])
            reply = await self._search(memory, question, evidence)
            right += any(hit.id in evidence for hit in reply.hits)
        question, agent = ASKED_AGENT
        await self._search(memory, question, set(), agent=agent)
        began = time.perf_counter()
        page = await memory.timeline(limit=_ANSWERS)
        self._question("The latest events (timeline)", "", page, began)
        for item in page.events:
            tables.show_item(self._console, item, zone_named(page.timezone))
        self._say(
            f"\n✓ marks what the sample says is the evidence: among the first {_ANSWERS} for {right} of {len(ASKED)}."
        )

    async def _search(self, memory: Client, question: str, evidence: set[str], **filters: str) -> SearchReply:
        from jetmem.console import tables

        began = time.perf_counter()
        reply = await memory.search(question, limit=_ANSWERS, **filters)
        self._question(question, " ".join(f"{name}={value}" for name, value in filters.items()), reply, began)
        for hit in reply.hits:
            mark = "✓" if hit.id in evidence else ""
            tables.show_item(
                self._console,
                hit,
                zone_named(reply.timezone),
                mark=mark,
                ranked=f"{hit.score:.3f} {'+'.join(hit.arms)}",
            )
        return reply

    def _question(self, question: str, filters: str, reply: Reply, began: float) -> None:
        from rich.text import Text

        self._console.print(
            Text.assemble("\n", (question, "bold cyan"), (f"  {filters}" if filters else "", "magenta"))
        )
        took = f"   {(time.perf_counter() - began) * 1000:.1f} ms, of which {reply.took_ms:.1f} ms in the service"
        took += f"; times in {reply.timezone}"
        self._say(took + (f"; without {', '.join(reply.degraded)}" if reply.degraded else ""), "dim")

    def _next(self) -> None:
        jetmem = "jetmem" if shutil.which("jetmem") else sys.argv[0]
        self._say(
            f"\nNext: keep a pipeline running with `{jetmem} up`, then in another terminal\n"
            f"  {jetmem} publish acme alice s1 'the build is green again'\n"
            f"  {jetmem} search acme 'is the build broken?'\n"
            f"  {jetmem} load FILE.jsonl --wait vector\n"
            "From code: jetmem.client, or plain NATS subjects from any language; see README.md."
        )

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, markup=False)

    def _wait(self, text: str) -> None:
        """Say on a terminal what is waited for. No spinner: its thread would own the children started meanwhile."""
        if self._console.is_terminal:
            self._console.print(f"{text} …", style="dim", markup=False)
