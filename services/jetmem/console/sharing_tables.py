"""Counts of several sources together, as people read them."""

from __future__ import annotations

from rich.console import Console

from jetmem.console import sharing_files, tables
from jetmem.domain.procedures.federation import Export, How, Merged


def show_merged(console: Console, merged: Merged, how: How) -> None:
    """Procedures, those with the most evidence first, and whose counts they are."""
    table = tables.lines("procedure", ">runs", ">rate", ">sources")
    for each in sorted(sharing_files.combined(merged, how), key=lambda each: (-each.runs, each.id)):
        name = tables.clean(each.id.replace("\n", " "))
        table.add_row(tables.Name(name), f"{each.runs:,.0f}", f"{each.rate:.2f}", f"{each.sources:,}")
    console.print(table if table.row_count else "no procedure has a run")
    told = ", ".join(map(_source, merged.sources.values())) or "none"
    console.print(f"{how} of {tables.count(len(merged.sources), 'source')}: {told}", style="dim", soft_wrap=True)


def _source(each: Export) -> str:
    noise = f", noise of epsilon {each.epsilon:g}" if each.epsilon else ""
    return f"{tables.clean(each.source)} (entry {each.version:,}{noise})"
