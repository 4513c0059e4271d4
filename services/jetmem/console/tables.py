"""Replies as people read them. Times are UTC and say so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from jetmem_schemas import requests

_SNIPPET_CHARS: Final = 300
_BEFORE_MATCH_CHARS: Final = 80


def clean(text: str) -> str:
    """Stored text without what would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def when(stamp: str) -> str:
    """`2026-01-15T09:30:00.000Z` as `2026-01-15 09:30:00Z`."""
    moment, _, _ = stamp.partition(".")
    return clean(moment.replace("T", " ").removesuffix("Z")) + "Z"


def snippet(item: requests.Item) -> Text:
    """The text around its first match, matches marked."""
    marks: Sequence[tuple[int, int]] = item.highlights if isinstance(item, requests.Hit) else []
    begin = max(0, min((start for start, _ in marks), default=0) - _BEFORE_MATCH_CHARS)
    shown = clean(item.text[begin : begin + _SNIPPET_CHARS].replace("\n", " "))
    text = Text(("…" if begin else "") + shown + ("…" if len(item.text) > begin + _SNIPPET_CHARS else ""))
    shift = (1 if begin else 0) - begin
    for start, end in marks:
        if end + shift > 0 and start < begin + _SNIPPET_CHARS:
            text.stylize("bold yellow", max(0, start + shift), min(end + shift, len(shown) + 1))
    return text or Text(f"({item.kind})", style="dim")


def who(item: requests.Item) -> str:
    """Who said it, to whom."""
    return clean(item.author or item.role or item.kind)


def show_hits(console: Console, reply: requests.SearchReply) -> None:
    """Ranked events."""
    table = Table("score", "when", "who", "text", "id", "session", "arms", show_lines=True, expand=True)
    for hit in reply.hits:
        arms = " ".join(hit.arms) + "".join(f"\n{name} {value:.3f}" for name, value in hit.explain.items())
        table.add_row(
            f"{hit.score:.3f}", when(hit.ts), who(hit), snippet(hit), hit.id, f"{hit.agent}/{hit.session}", arms
        )
        for near in (*hit.before, *hit.after):
            table.add_row("", when(near.ts), who(near), snippet(near), near.id, "", "", style="dim")
    console.print(table if reply.hits else "nothing found")
    footer(console, reply, f"mode {reply.mode}", cursor=_cursor(reply.cursor))


def show_events(console: Console, items: Iterable[requests.Item], reply: requests.Reply, at: str = "") -> None:
    """Events in order; the one called `at` is marked."""
    table = Table("when", "who", "text", "id", "session", show_lines=True, expand=True)
    for item in items:
        style = "bold" if item.id == at else ""
        table.add_row(when(item.ts), who(item), snippet(item), item.id, f"{item.agent}/{item.session}", style=style)
    console.print(table if table.row_count else "nothing found")
    missing = getattr(reply, "missing", None) or []
    if missing:
        console.print(f"not recorded: {', '.join(missing)}", markup=False)
    footer(console, reply, cursor=_cursor(getattr(reply, "cursor", None)))


def show_sessions(console: Console, reply: requests.SessionsReply) -> None:
    """Sessions, the latest first."""
    table = Table("session", "agent", "events", "first", "last")
    for each in reply.sessions:
        table.add_row(each.id, each.agent, str(each.events), when(each.first), when(each.last))
    console.print(table)
    footer(console, reply, cursor=_cursor(reply.cursor))


def show_agents(console: Console, reply: requests.AgentsReply) -> None:
    """Agents, the latest first."""
    table = Table("agent", "events", "sessions", "first", "last")
    for each in reply.agents:
        table.add_row(each.id, str(each.events), str(each.sessions), when(each.first), when(each.last))
    console.print(table)
    footer(console, reply, cursor=_cursor(reply.cursor))


def show_status(console: Console, reply: requests.StatusReply) -> None:
    """Progress per stage."""
    table = Table("stage", "process", "state", "detail", "last error")
    colours = {"ok": "green", "behind": "cyan", "degraded": "yellow", "down": "red"}
    for each in reply.stages:
        state = Text(each.state, style=colours.get(each.state, ""))
        table.add_row(each.stage, each.id, state, escape(each.detail), escape(each.last_error))
    console.print(table)
    dead = "?" if reply.dead_letters is None else reply.dead_letters
    console.print(
        f"{reply.events} events, {reply.sessions} sessions, {reply.agents} agents; {reply.pending_vectors} texts "
        f"without vector, {dead} dead letters, {reply.purging} erasures being purged"
    )
    footer(console, reply)


def show_forget(console: Console, reply: requests.ForgetReply) -> None:
    """What was erased."""
    waiting = f"; waiting for {', '.join(reply.waiting)}" if reply.waiting else ""
    console.print(f"{reply.state}: {reply.erased} erased, recorded as {reply.seq}{waiting}")
    footer(console, reply)


def footer(console: Console, reply: requests.Reply, *more: str, cursor: str = "") -> None:
    """How the answer came about."""
    parts = [f"{reply.took_ms:.1f} ms", *more]
    parts += [f"degraded: {', '.join(reply.degraded)}"] if reply.degraded else []
    parts += ["stale"] if reply.stale else []
    parts += [f"fresh up to {', '.join(f'{arm} {seq}' for arm, seq in reply.fresh.items())}"] if reply.fresh else []
    parts += [f"more: --cursor {cursor}"] if cursor else []
    style = "yellow" if reply.degraded or reply.stale else "dim"
    console.print(" · ".join(parts), style=style, markup=False, highlight=False)


def _cursor(value: object) -> str:
    return value if isinstance(value, str) else ""
