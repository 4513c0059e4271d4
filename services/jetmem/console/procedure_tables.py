"""Procedures and what is known of them, as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from jetmem.console import tables
from jetmem.console.moments import when, zone_named
from jetmem_schemas import procedures as p
from jetmem_schemas.asking import Reply
from jetmem_schemas.procedure_replies import (
    InsightsReply,
    PatternsReply,
    PredictReply,
    ProcedureReply,
    ProceduresReply,
    RecommendReply,
    RelatedReply,
)

_INDENT: Final = 5
#: Of what goes on in a second line.
_HANG: Final = 2
_TEXT_CHARS: Final = 160
#: Of a failure in a table.
_GLANCE_CHARS: Final = 40
#: Outcomes in a table: of more no row would have room in 80 columns.
_GLANCE_RUNS: Final = 10
_COLUMNS: Final = (">runs", ">rate", "95 %", ">lift", "last ten", ">agents", "state", "last used")
#: In a terminal of fewer columns these would break names and numbers.
_WIDE: Final = 100
_IF_WIDE: Final = frozenset({"95 %", ">agents"})
_NO_PROCEDURES: Final = "no procedure is known; runs that name one teach them: jetmem runs load, or report_run"
_NONE_OF_STATE: Final = "no procedure is {state}; without --state all are listed"
_NO_PATTERNS: Final = "no pattern fits; steps in a row become one after three successful runs"
_NO_INSIGHTS: Final = "no cluster of tasks yet"
#: Why runs that are less alike may come first.
_ORDER: Final = (
    "runs come by meaning and words together, each task once before any comes again; alike tells of meaning alone"
)
#: What a probability rests on, as one says it.
_HOW: Final[dict[p.How, str]] = {
    "none": "nothing is known",
    "rate": "by its rate, where few runs and old ones say less",
    "context": "by its rate in such contexts",
    "neighbours": "by runs of similar tasks",
    "difficulty": "by how hard the task is",
    "boosted": "by the trained model",
}
_RELATION: Final[dict[p.Relation, str]] = {
    "similar_to": "similar to",
    "context_related": "in the same contexts",
    "follows": "comes next",
}
_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def show_recommended(console: Console, reply: RecommendReply) -> None:
    """Procedures for a task, each with what speaks for it."""
    if reply.cold and reply.procedures:
        console.print("nothing is known of such tasks; these are chances in general", style="yellow")
    for each in reply.procedures:
        ranked = f"  drew {each.drawn:.2f}" if each.drawn is not None else ""
        chance = f"  chance {_chance(each.probability, each.interval)}"
        tables.in_lines(console, Text.assemble((_line(each.id), "bold green"), chance, ranked), hang=_INDENT)
        _print_why(console, each.why)
        _tell(console, "steps", " > ".join(each.steps))
        _tell(console, "takes", _spread(each.duration_ms, of_time=True))
        _tell(console, "costs", _spread(each.cost))
        _print_said(console, each.failures, each.lessons)
    if not reply.procedures:
        console.print(_NO_PROCEDURES)
    _print_order(console, reply, [each.why for each in reply.procedures])
    tables.footer(console, reply)


def show_predicted(name: str, console: Console, reply: PredictReply) -> None:
    """One procedure's chance, and what it rests on."""
    cold = ("  it has no run; is its name spelt right?", "yellow") if reply.cold else ""
    head = Text.assemble((_line(name), "bold green"), f"  chance {_chance(reply.probability, reply.interval)}", cold)
    tables.in_lines(console, head, hang=_INDENT)
    _print_why(console, reply.why)
    _print_order(console, reply, [reply.why])
    tables.footer(console, reply)


def show_procedures(state: str | None, console: Console, reply: ProceduresReply) -> None:
    """A page of procedures, all or those of a state; what has no room is told of each by `show_procedure`."""
    wide = console.width >= _WIDE
    columns = [each for each in _COLUMNS if wide or each not in _IF_WIDE]
    table, zone = tables.lines("procedure", *columns), zone_named(reply.timezone)
    for each in reply.procedures:
        told = {
            ">runs": f"{each.runs:,}",
            ">rate": f"{each.rate:.2f}",
            "95 %": f"{each.interval.low:.2f}–{each.interval.high:.2f}",
            ">lift": f"{each.lift:.2f}",
            "last ten": spark(each.recent[-_GLANCE_RUNS:]),
            ">agents": f"{each.agents:,}",
            "state": each.state,
            "last used": when(each.last, zone)[:10] if each.last else "",
        }
        table.add_row(tables.Name(_line(each.id)), *(told[column] for column in columns))
    console.print(table if reply.procedures else _NONE_OF_STATE.format(state=state) if state else _NO_PROCEDURES)
    if reply.left_out:
        console.print(
            f"{reply.left_out:,} more are not listed: used least of late; `jetmem procedure` shows one by name"
        )
    tables.footer(console, reply, cursor=tables.cursor_of(reply.cursor))


def show_procedure(console: Console, reply: ProcedureReply) -> None:
    """One procedure whole."""
    each = reply.procedure
    version = f"  definition {_line(each.version)}" if each.version else ""
    head = Text.assemble((_line(each.id), "bold green"), f"  {each.state}{version}")
    tables.in_lines(console, head, hang=_INDENT)
    if each.description:
        tables.in_lines(console, Text(_line(each.description)), _INDENT)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _facts(each, zone_named(reply.timezone)):
        if value:
            table.add_row(name, Text(value))
    console.print(table)
    for title, shares in (("by agent", each.by_agent), ("by context", each.by_context)):
        if shares:
            console.print(_shares(title, shares))
    _print_said(console, each.failures, each.lessons)
    tables.footer(console, reply)


def _facts(each: p.ProcedureDetail, zone: tzinfo) -> list[tuple[str, str]]:
    used = f"{when(each.first, zone)} to {when(each.last, zone)}" if each.first and each.last else ""
    since = f" since {when(each.crystal_since, zone)}" if each.crystal_since else ""
    crystal = f"version {each.crystal}{since}: {_line(each.crystal_why)}"
    return [
        ("outcomes", f"{spark(each.recent)}  the latest last" if each.recent else ""),
        ("runs", f"{each.successes:,} of {each.runs:,} succeeded, by {tables.count(each.agents, 'agent')}"),
        ("rate", f"{_chance(each.rate, each.interval)}, {each.lift:.2f} times the tenant's"),
        ("lately", _chance_of(each)),
        ("consistency", f"{each.consistency:.2f} of the last ten ended like most of them" if each.runs else ""),
        ("used", used),
        ("takes", _spread(each.duration_ms, of_time=True)),
        ("costs", _spread(each.cost)),
        ("reward", _spread(each.reward)),
        ("boost", f"{each.boost:+.3f} by waves of related procedures" if each.boost else ""),
        ("crystal", crystal if each.crystal else ""),
        ("steps, frozen" if each.frozen else "steps", " > ".join(_line(step) for step in each.steps)),
    ]


def _chance_of(each: p.ProcedureDetail) -> str:
    """Of the decayed counts."""
    if each.posterior is None:
        return ""
    counts = f"{each.decayed_successes:.1f} of {each.decayed_runs:.1f} runs, each of half weight after 30 days"
    return f"{each.posterior.low:.2f}–{each.posterior.high:.2f} ({counts})"


def _shares(title: str, shares: Sequence[p.Share]) -> Table:
    table = tables.lines(title, ">runs", ">succeeded", "95 %", "outcomes", ">takes", ">costs", "fails mostly")
    for share in shares:
        bounds = f"{share.interval.low:.2f}–{share.interval.high:.2f}"
        half = _time(share.duration_ms.p50) if share.duration_ms else "", f"{share.cost.p50:.3g}" if share.cost else ""
        fails = _line(share.failures[0].text)[:_GLANCE_CHARS] if share.failures else ""
        counts = f"{share.runs:,}", f"{share.successes:,}", bounds
        table.add_row(tables.Name(_line(share.of)), *counts, spark(share.recent), *half, fails)
    return table


def show_related(name: str, console: Console, reply: RelatedReply) -> None:
    """A tree of neighbours; below each what is reached through it."""
    root = Tree(Text(_line(name), "bold"))
    grown: dict[tuple[str, ...], Tree] = {}
    for each in sorted(reply.procedures, key=lambda one: len(one.path)):
        parent = grown.get(tuple(each.path[:-1]), root)
        # what it is reached through may not be among those shown
        through = "" if parent is not root or len(each.path) <= 2 else f" through {_line(' > '.join(each.path[1:-1]))}"
        told = Text.assemble((_line(each.id), "green"), f"  {each.strength:.2f} {_RELATION[each.kind]}{through}")
        grown[tuple(each.path)] = parent.add(told)
    console.print(root)
    if not reply.procedures:
        console.print("nothing is related to it")
    tables.footer(console, reply)


def show_patterns(done: Sequence[str], console: Console, reply: PatternsReply) -> None:
    """A page of patterns, and what tends to come after the steps that are done."""
    for follows in reply.next:
        sure = f"  at least {follows.rate:.2f} of the runs that went on so succeed"
        head = Text.assemble("next: ", (_line(follows.step), "bold green"), sure)
        tables.in_lines(console, head, hang=_INDENT)
    if done and not reply.next:
        after = _line(" > ".join(done))
        tables.in_lines(console, Text(f"nothing is known of what comes after {after}", "yellow"))
    if done:
        console.print("patterns, whatever was done, the surest first:")
    table = tables.lines("steps", ">succeeded", ">failed", ">rate", ">at least", ">lift", "shared")
    for each in reply.patterns:
        sizes = f"{each.successes:,}", f"{each.failures:,}", f"{each.rate:.2f}", f"{each.low:.2f}", f"{each.lift:.2f}"
        steps = tables.Name(" > ".join(_line(step) for step in each.steps))
        table.add_row(steps, *sizes, "yes" if each.shared else "")
    console.print(table if reply.patterns else _NO_PATTERNS)
    tables.footer(console, reply, cursor=tables.cursor_of(reply.cursor))


def show_insights(console: Console, reply: InsightsReply) -> None:
    """Clusters of tasks: what is typical of each, what works, what fails."""
    for each in reply.insights:
        sizes = f"{tables.count(each.tasks, 'task')}, {tables.count(each.runs, 'run')}, {each.rate:.2f} succeeded"
        head = Text.assemble((sizes, "bold"), f"  {_line(', '.join(each.contexts))}")
        tables.in_lines(console, head, hang=_INDENT)
        for example in each.examples:
            tables.in_lines(console, Text(f"“{_line(example)}”"), _INDENT, hang=_HANG, style="dim")
        for mark, style, found in (("✓", "green", each.works), ("✗", "red", each.fails)):
            for one in found:
                told = f"  {one.rate:.2f}, at least {one.low:.2f}, lift {one.lift:.2f}, {tables.count(one.runs, 'run')}"
                head = Text.assemble((f"{mark} {_line(one.id)}", style), told)
                tables.in_lines(console, head, _INDENT, hang=_HANG)
    if not reply.insights:
        console.print(_NO_INSIGHTS)
    tables.footer(console, reply)


def spark(outcomes: Sequence[bool]) -> str:
    """A high bar for a success, a low one for a failure."""
    return "".join("█" if each else "▁" for each in outcomes)


def _print_why(console: Console, why: p.Why) -> None:
    parts = [_HOW[why.how], f"{why.successes:,} of {tables.count(why.runs, 'run')} succeeded"]
    parts += [f"{why.in_context:,} in this context"] if why.in_context else []
    parts += [f"{why.by_agent:,} by this agent"] if why.by_agent else []
    parts += [f"boost {why.boost:+.3f}"] if why.boost else []
    parts += [f"crystal {why.crystal}"] if why.crystal else []
    tables.in_lines(console, Text("; ".join(parts)), _INDENT, hang=_HANG)
    for near in why.neighbours:
        mark = ("✓", "green") if near.success else ("✗", "red")
        told = f" alike {near.similarity:.2f}  “{_line(near.task)}”  {_line(near.agent)}  "
        head = Text.assemble(mark, told, (_line(near.run), "green"))
        tables.in_lines(console, head, _INDENT, hang=_HANG, style="dim")


def _print_order(console: Console, reply: Reply, whys: Sequence[p.Why]) -> None:
    """Where vectors lack there are words alone."""
    if "vector" not in reply.degraded and any(len(why.neighbours) > 1 for why in whys):
        tables.in_lines(console, Text(_ORDER, "dim"))


def _print_said(console: Console, failures: Sequence[p.Said], lessons: Sequence[p.Said]) -> None:
    for what, style, found in (("fails", "red", failures), ("lesson", "yellow", lessons)):
        for said in found:
            told = Text.assemble((f"{what}: ", style), f"{_line(said.text)} ({tables.count(said.runs, 'run')})")
            tables.in_lines(console, told, _INDENT, hang=_HANG)


def _tell(console: Console, what: str, value: str) -> None:
    if value:
        tables.in_lines(console, Text(f"{what}: {tables.clean(value)}"), _INDENT, hang=_HANG)


def _line(text: str) -> str:
    """Any text on one line, cut to what a glance takes in."""
    shown = " ".join(tables.clean(text[: _TEXT_CHARS + 1]).split())
    return shown if len(text) <= _TEXT_CHARS else shown[:_TEXT_CHARS] + "…"


def _chance(probability: float, interval: p.Interval) -> str:
    return f"{probability:.2f} ({interval.low:.2f}–{interval.high:.2f})"


def _spread(spread: p.Spread | None, *, of_time: bool = False) -> str:
    if spread is None:
        return ""
    half, most = (_time(v) if of_time else f"{v:.3g}" for v in (spread.p50, spread.p90))
    return f"{half}, nine of ten at most {most}"


def _time(ms: float) -> str:
    """`850 ms`, `1.2 s`, `2 min`, `3.5 h`."""
    for size, unit in _UNITS:
        if ms >= size:
            return f"{ms / size:.3g} {unit}"
    return f"{ms:.3g} ms"
