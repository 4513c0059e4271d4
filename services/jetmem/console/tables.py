"""Replies as people read them. Times are on the tenant's clock; the footer says where that is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import tzinfo
from typing import Final

import msgspec
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, OverflowMethod, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from jetmem.console.moments import when, zone_named
from jetmem_schemas import requests, shown
from jetmem_schemas.asking import Reply

_SNIPPET_CHARS: Final = 300
_BEFORE_MATCH_CHARS: Final = 80
#: A cut is moved so far to spare a word.
_WORD_CHARS_MAX: Final = 24
_INDENT: Final = 5
#: However narrow the terminal.
_LINE_CHARS_MIN: Final = 20
_NEAR: Final = 4
_NOTHING: Final = "nothing found"
#: Of a name that is too long for its line.
_PARTS: Final = re.compile(r"[^-_.:/=]*[-_.:/=]+\s*|[^-_.:/=]+")
#: What a person can do about an answer that was cut short.
_CUT: Final = {
    "nodes": "not all was looked at: the budget of nodes was used up; --nodes gives it more",
    "ms": "not all was looked at: the time was up; --ms gives it more",
    "limit": "there is more in that time; --limit shows more of it",
}


def clean(text: str) -> str:
    """Stored text without what would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def console(*, stderr: bool = False) -> Console:
    """Where replies are printed: what was stored is text, never markup."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def snippet(item: requests.Item) -> Text:
    """The text around its first match, in whole words, matches marked."""
    marks: Sequence[tuple[int, int]] = item.highlights if isinstance(item, requests.Hit) else []
    begin = max(0, min((start for start, _ in marks), default=0) - _BEFORE_MATCH_CHARS)
    if begin:
        begin = _next_word(item.text, begin)
    end = _SNIPPET_CHARS + begin
    end = len(item.text) if end >= len(item.text) else _last_word(item.text, begin, end)
    shown = clean(item.text[begin:end].replace("\n", " "))
    text = Text(("…" if begin else "") + shown + ("…" if len(item.text) > end else ""))
    shift = (1 if begin else 0) - begin
    for first, last in marks:
        if last + shift > 0 and first < end:
            text.stylize("bold yellow", max(0, first + shift), min(last + shift, len(shown) + 1))
    return text or Text(f"({item.kind})", style="dim")


def _next_word(text: str, at: int) -> int:
    """Where the next word begins; `at` if none does soon."""
    space = text.find(" ", at, at + _WORD_CHARS_MAX)
    return at if space < 0 else space + 1


def _last_word(text: str, begin: int, end: int) -> int:
    """Where the last whole word before `end` ends."""
    space = text.rfind(" ", max(begin, end - _WORD_CHARS_MAX), end + 1)
    return end if space < 0 else space


def who(item: requests.Item) -> str:
    """Who said it; of a node its level."""
    if isinstance(item, requests.Hit) and item.level is not None:
        return item.level
    return clean(item.author or item.role or item.kind)


def show_item(
    console: Console,
    item: requests.Item,
    zone: tzinfo,
    *,
    mark: str = "",
    ranked: str = "",
    style: str = "",
    deeper: int = 0,
) -> None:
    """One event: who, when, which and where on one line that is never cut, its text below.

    Args:
        console: Where.
        item: Hit or event.
        zone: Whose clock.
        mark: One character before it.
        ranked: What to say of its rank.
        style: Of the whole.
        deeper: Columns it is moved to the right.
    """
    pad = " " * deeper
    head = Text.assemble(
        pad,
        (f" {mark or ' '} ", "bold green"),
        (who(item), "bold"),
        f"  {when(item.ts, zone)}  ",
        (item.id, "green"),
        f"  {'/'.join(filter(None, (item.agent, item.session)))}",
        (f"  {ranked}" if ranked else "", "dim"),
        (f"  corrects {item.supersedes}" if item.supersedes else "", "yellow"),
        (f"  corrected by {by}" if (by := getattr(item, "superseded_by", None)) else "", "yellow"),
        style=style,
    )
    console.print(head, soft_wrap=True)
    title, item = titled(item)
    if title:
        console.print(Text.assemble(pad, " " * _INDENT, (clean(title), "bold")), soft_wrap=True)
    in_lines(console, snippet(item), _INDENT + deeper, style=style)


def in_lines(console: Console, text: Text, indent: int = 0, *, hang: int = 0, style: str = "") -> None:
    """Print text in lines of whole words, `indent` columns to the right, all but the first `hang` further."""
    for place, line in enumerate(text.wrap(console, max(_LINE_CHARS_MIN, console.width - indent - hang))):
        line.rstrip()
        pad = " " * (indent + (hang if place else 0))
        console.print(Text.assemble(pad, line, style=style), soft_wrap=True)


def titled(item: requests.Item) -> tuple[str, requests.Item]:
    """The title that a node's text begins with, "" of an event, and the item with the rest of the text."""
    if not isinstance(item, requests.Hit) or not item.title or not item.text.startswith(item.title):
        return "", item
    cut = len(item.title) + len(item.text[len(item.title) :]) - len(item.text[len(item.title) :].lstrip())
    marks = [(start - cut, end - cut) for start, end in item.highlights if start >= cut]
    return item.title, msgspec.structs.replace(item, text=item.text[cut:], highlights=marks)


def show_hits(console: Console, reply: requests.SearchReply) -> None:
    """Ranked events and nodes, each event with its neighbours if they were asked for."""
    zone = zone_named(reply.timezone)
    for place, hit in enumerate(reply.hits):
        if place:
            console.print()
        for near in hit.before:
            show_item(console, near, zone, style="dim", deeper=_NEAR)
        show_item(console, hit, zone, ranked=f"{hit.score:.3f} {'+'.join(hit.arms)}")
        if hit.folded:
            console.print(" " * _INDENT + f"also: {', '.join(hit.folded)}", style="dim", soft_wrap=True)
        if hit.explain:
            why = "  ".join(f"{name} {value:.3f}" for name, value in hit.explain.items())
            console.print(" " * _INDENT + why, style="dim", soft_wrap=True)
        for near in hit.after:
            show_item(console, near, zone, style="dim", deeper=_NEAR)
    if not reply.hits:
        console.print(_NOTHING)
    footer(console, reply, f"mode {reply.mode}", cursor=cursor_of(reply.cursor))


def show_events(console: Console, items: Iterable[requests.Item], reply: Reply, at: str = "") -> None:
    """Events in order; the one called `at` is marked."""
    count = 0
    zone = zone_named(reply.timezone)
    for item in items:
        show_item(console, item, zone, mark="▶" if item.id == at else "")
        count += 1
    missing = getattr(reply, "missing", None) or []
    if not count and not missing:
        console.print(_NOTHING)
    if missing:
        console.print(f"not recorded: {', '.join(missing)}")
    footer(console, reply, cursor=cursor_of(getattr(reply, "cursor", None)))


def show_expanded(console: Console, reply: requests.ExpandReply, at: str = "") -> None:
    """One event, or a grip's words and its first event, among its neighbours."""
    if isinstance(reply.excerpt, str):
        console.print(Text.assemble("“", (clean(reply.excerpt), "bold"), "”", (f"  {reply.node}", "green")))
    show_events(console, reply.events, reply, at or reply.event.id)


def node_line(node: shown.NodeItem, zone: tzinfo) -> Text:
    """A node's title, time, size and id; of a segment also whose it is."""
    open_ = " · open" if node.open else ""
    whose = f"  {'/'.join([*node.agents, node.session])}" if node.level == "segment" else ""
    score = "" if node.score is None else f"  {node.score:.3f}"
    return Text.assemble(
        (clean(node.title) or node.level, "bold"),
        f"  {_from_to(node.start, node.end, zone)}  {count(node.events, 'event')}{open_}{whose}  ",
        (node.id, "green"),
        (score, "dim"),
    )


def _from_to(start: str, end: str, zone: tzinfo) -> str:
    """`2026-01-15 09:30 to 10:05`; one time where they are the same minute, days alone where they differ."""
    first, last = when(start, zone), when(end, zone)
    if first[:16] == last[:16]:
        return first[:16]
    if first[:10] == last[:10]:
        return f"{first[:16]} to {last[11:16]}"
    return f"{first[:10]} to {last[:10]}"


def bullet_lines(node: shown.NodeItem) -> list[Text]:
    """A node's bullets with the grips that prove them."""
    return [
        Text.assemble("• ", clean(bullet.text.replace("\n", " ")), (f"  {' '.join(bullet.grips)}", "dim"))
        for bullet in node.bullets
    ]


def show_nodes(console: Console, nodes: Iterable[shown.NodeItem], zone: tzinfo) -> None:
    """Nodes with their bullets."""
    for node in nodes:
        console.print(node_line(node, zone), soft_wrap=True)
        for line in bullet_lines(node):
            console.print(Text.assemble(" " * _INDENT, line), soft_wrap=True)


def show_children(console: Console, reply: requests.BrowseReply) -> None:
    """One page of a node's children."""
    show_nodes(console, reply.nodes, zone_named(reply.timezone))
    footer(console, reply, cursor=cursor_of(reply.cursor))


def show_route(console: Console, reply: requests.RouteReply) -> None:
    """What a question was taken for, and what was found."""
    if reply.widened:
        console.print("nothing in the time that was asked for; of any time:", style="yellow")
    zone = zone_named(reply.timezone)
    show_nodes(console, reply.nodes, zone)
    for hit in reply.hits:
        show_item(console, hit, zone, ranked=f"{hit.score:.3f} {'+'.join(hit.arms)}")
    if not reply.nodes and not reply.hits:
        console.print(_NOTHING)
    if isinstance(reply.cut, str):
        console.print(_CUT[reply.cut], style="yellow")
    console.print(clean(reply.explanation), style="dim", soft_wrap=True)
    footer(console, reply)


def show_route_explained(console: Console, reply: requests.RouteReply) -> None:
    """As `show_route`, and every strategy that was tried."""
    show_route(console, reply)
    table = lines("tried", ">found", ">ms", "why")
    for each in reply.tried:
        table.add_row(each.strategy, f"{each.found:,}", f"{each.took_ms:.1f}", clean(each.why))
    console.print(table)
    console.print(f"intent {reply.intent} · strategy {reply.strategy}", style="dim")


def show_sessions(console: Console, reply: requests.SessionsReply) -> None:
    """Sessions, the latest first."""
    table, zone = lines("session", "agent", ">events", "first", "last"), zone_named(reply.timezone)
    for each in reply.sessions:
        table.add_row(each.id, each.agent, f"{each.events:,}", when(each.first, zone), when(each.last, zone))
    console.print(table if reply.sessions else _NOTHING)
    footer(console, reply, cursor=cursor_of(reply.cursor))


def show_agents(console: Console, reply: requests.AgentsReply) -> None:
    """Agents, the latest first."""
    table, zone = lines("agent", ">events", ">sessions", "first", "last"), zone_named(reply.timezone)
    for each in reply.agents:
        table.add_row(each.id, f"{each.events:,}", f"{each.sessions:,}", when(each.first, zone), when(each.last, zone))
    console.print(table if reply.agents else _NOTHING)
    footer(console, reply, cursor=cursor_of(reply.cursor))


def show_status(console: Console, reply: requests.StatusReply) -> None:
    """Progress per stage."""
    table = lines("stage", "process", "state", "detail", "last error")
    colours = {"ok": "green", "behind": "cyan", "paused": "magenta", "degraded": "yellow", "down": "red"}
    for each in reply.stages:
        state = Text(each.state, style=colours.get(each.state, ""))
        working = each.state == "behind" and each.detail == "ok"
        table.add_row(each.stage, each.id, state, "work waits" if working else each.detail, each.last_error)
    console.print(table)
    if any(each.state == "paused" for each in reply.stages):
        console.print("the table of contents is paused; `jetmem toc resume` and `jetmem toc resume TENANT` go on")
    dead = "? dead letters" if reply.dead_letters is None else count(reply.dead_letters, "dead letter")
    console.print(f"{count(reply.events, 'event')}, {count(reply.sessions, 'session')}, {count(reply.agents, 'agent')}")
    console.print(
        f"{count(reply.pending_vectors, 'text')} still without vector, {dead}, "
        f"{count(reply.purging, 'erasure')} being purged"
    )
    if not reply.events:
        told = "no event is recorded under this tenant (runs are in `jetmem procedures`); is its name spelt right?"
        console.print(told, style="yellow", soft_wrap=True)
    footer(console, reply)


def show_forget(console: Console, reply: requests.ForgetReply) -> None:
    """What was erased."""
    waiting = f"; waiting for {', '.join(reply.waiting)}" if reply.waiting else ""
    console.print(f"{reply.state}: {count(reply.erased, 'message')} erased, recorded as {reply.seq}{waiting}")
    footer(console, reply)


def footer(console: Console, reply: Reply, *more: str, cursor: str = "") -> None:
    """Whose clock the times are on, and how the answer came about."""
    parts = [f"times in {_place(reply.timezone)}", f"{reply.took_ms:.1f} ms", *more]
    parts += [f"degraded: {', '.join(reply.degraded)}"] if reply.degraded else []
    parts += ["stale"] if reply.stale else []
    parts += [f"fresh up to {_fresh(reply.fresh)}"] if reply.fresh else []
    parts += [f"more: --cursor {cursor}"] if cursor else []
    style = "yellow" if reply.degraded or reply.stale else "dim"
    console.print(" · ".join(parts), style=style, soft_wrap=True)


def _fresh(arms: dict[str, int]) -> str:
    """`sequence 575 (record, text), 559 (toc)`: each arm has all that was published up to there."""
    held: dict[int, list[str]] = {}
    for arm, seq in arms.items():
        held.setdefault(seq, []).append(arm)
    return "sequence " + ", ".join(f"{seq} ({', '.join(held[seq])})" for seq in sorted(held, reverse=True))


def _place(name: str) -> str:
    """The zone that times are shown in, as `moments.zone_named` took its name."""
    zone = str(zone_named(name))
    return zone if zone == name else clean(f"{zone}, as {name} is not known here")


def lines(*columns: str) -> Table:
    """A table whose cells are never cut: they are to be copied. Columns are as `add_columns` takes them."""
    return add_columns(Table(box=None, pad_edge=False, header_style="bold"), columns, no_wrap=False, overflow="fold")


def add_columns(table: Table, columns: Iterable[str], *, no_wrap: bool, overflow: OverflowMethod) -> Table:
    """Add columns by their names; `>` before a name has its cells end in one line, as numbers are read."""
    for name in columns:
        justify: JustifyMethod = "right" if name.startswith(">") else "left"
        table.add_column(name.removeprefix(">"), justify=justify, no_wrap=no_wrap, overflow=overflow)
    return table


class Name:
    """A name in a cell: where it does not fit it breaks after its own `-`, `_` or the like, not amid a word."""

    def __init__(self, name: str) -> None:
        self._words = re.findall(r"\S+\s*", name)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        parts = [cell_len(part) for word in self._words for part in _PARTS.findall(word)]
        whole = sum(map(cell_len, self._words))
        return Measurement(min(max(parts, default=0), options.max_width), min(whole, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for word in self._words:
            fits = cell_len(word.rstrip()) <= options.max_width
            for part in [word] if fits else _PARTS.findall(word):
                if cell_len(lines[-1] + part.rstrip()) > options.max_width:
                    lines.append("")
                lines[-1] += part
        yield Text("\n".join(line.rstrip() for line in lines if line), overflow="fold")


def count(number: int, noun: str) -> str:
    """`1 event`, `2,000 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def cursor_of(value: object) -> str:
    """A reply's cursor; "" on the last page, where it is not set."""
    return value if isinstance(value, str) else ""
