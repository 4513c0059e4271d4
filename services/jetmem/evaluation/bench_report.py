"""Figures of a bench run as tables, each beside its target."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetmem.evaluation import metrics


class Figure(msgspec.Struct, frozen=True):
    """One measured value.

    Attributes:
        name: What.
        value: How much.
        unit: Of what.
        target: To reach; None where there is none.
        at_most: The target is a ceiling rather than a floor.
        note: Conditions of this one figure.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False
    note: str = ""

    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


class Section(msgspec.Struct, frozen=True):
    """Figures that belong together; `load` is the machine's when they were taken."""

    name: str
    title: str
    figures: list[Figure]
    load: str = ""


class Report(msgspec.Struct, frozen=True):
    """What `--json` writes."""

    conditions: dict[str, str]
    sections: list[Section]
    seconds: float


def number(value: float) -> str:
    """Three significant places are all that such a measurement has."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def timings(name: str, found: metrics.Spread, *, p95_max: float | None = None, note: str = "") -> list[Figure]:
    """p50, p95 and p99 of one thing."""
    note = ", ".join(part for part in (f"n {found.n}", note) if part)
    return [
        Figure(f"{name} p50", found.p50, "ms"),
        Figure(f"{name} p95", found.p95, "ms", p95_max, at_most=True),
        Figure(f"{name} p99", found.p99, "ms", note=f"{note}, worst {number(found.worst)}"),
    ]


def table(section: Section) -> Table:
    """One section."""
    title = f"{section.title} (load {section.load})" if section.load else section.title
    shown = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    shown.add_column("figure", min_width=34)
    shown.add_column("value", justify="right", min_width=9)
    shown.add_column("unit")
    shown.add_column("target", justify="right")
    shown.add_column("")
    shown.add_column("note", overflow="fold", style="dim")
    for each in section.figures:
        shown.add_row(each.name, number(each.value), each.unit, _target(each), _mark(each), each.note)
    return shown


def _target(figure: Figure) -> str:
    return "" if figure.target is None else f"{'≤' if figure.at_most else '≥'} {number(figure.target)}"


def _mark(figure: Figure) -> Text:
    met = figure.met()
    return Text("") if met is None else Text("✓", "bold green") if met else Text("✗", "bold red")


def show_targets(console: Console, sections: Sequence[Section]) -> None:
    """All targets once more, at the end."""
    aimed = [each for section in sections for each in section.figures if each.target is not None]
    if aimed:
        console.print(table(Section("targets", "Targets", aimed)))
