"""The part of `make eval` that judges ranking options: on the data under cross-validation, and on a made-up memory."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from jetmem.evaluation import options, planted
from jetmem.evaluation.gathered import Gathered, gather
from jetmem.evaluation.locomo import EVENTS_FILE, Question
from jetmem.evaluation.options import Gain, Verdict
from jetmem.evaluation.planted import Row
from jetmem.evaluation.show import Told, progress
from jetmem_schemas.ranking import Rank

#: Publishes a file of events and waits until all is found; see `retrieval`.
Load = Callable[[Path], Awaitable[object]]
_CANNOT: Final = (
    "The data has no corrections and no importance, and its questions were asked at the end of each conversation: it "
    "can show what an option costs there, and not all that it is for."
)


class Report(msgspec.Struct, frozen=True):
    """`judged` is null with fewer than two conversations; `planted` is told apart and decides nothing."""

    judged: options.Report | None
    planted: dict[str, Row]


async def measure(url: str, questions: Sequence[Question], load: Load, told: Told) -> Report:
    """Take every question's candidates once, then rank them over and over, offline."""
    taken = await _take(url, questions, told)
    made = planted.planted()
    with tempfile.TemporaryDirectory(prefix="jetmem-planted-") as folder:
        path = Path(folder) / EVENTS_FILE
        path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in made.events))
        await load(path)
    planted_taken = await _take(url, made.questions, told)
    told.say("trying ranking options")
    return Report(options.judge(taken), planted.measure(planted_taken, made))


async def _take(url: str, questions: Sequence[Question], told: Told) -> list[Gathered]:
    with progress(told, f"taking the candidates of {len(questions)} questions", len(questions)) as step:
        return await gather(url, questions, step)


def show(console: Console, report: Report) -> None:
    """Print both tables."""
    judged = report.judged
    if judged is None:
        console.print("ranking options: not judged, fewer than two conversations", style="dim")
    else:
        title = f"ranking options, gains held out; without any recall@10 {judged.recall_10:.3f}"
        table = Table(title=f"{title}, nDCG@10 {judged.ndcg_10:.3f}", title_justify="left")
        for name in ("option", "recall@10", "each conversation", "nDCG@10", "verdict"):
            table.add_column(name, justify="left", overflow="fold")
        for name, each in judged.options.items():
            table.add_row(name, _gain(each.recall_10), _folds(each), _gain(each.ndcg_10), "on" if each.on else "off")
        console.print(table)
        for name, each in judged.options.items():
            console.print(f"{name}: chosen {_chosen(each)}", style="dim", markup=False)
        console.print(_CANNOT, style="dim")
    made = Table(title="made-up corrections and repeats (decide nothing)", title_justify="left")
    for name in ("", "new above old", "old on the first page", "recall@10 beside repeats"):
        made.add_column(name, justify="right" if name else "left")
    for name, row in report.planted.items():
        made.add_row(name, f"{row.current_first:.3f}", f"{row.stale:.3f}", f"{row.recall_10:.3f}")
    console.print(made)


def _gain(gain: Gain) -> str:
    return f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"


def _folds(verdict: Verdict) -> str:
    return " ".join(f"{gain:+.3f}" for gain in verdict.recall_10.folds.values())


def _chosen(verdict: Verdict) -> str:
    counts: dict[str, int] = {}
    for rank in verdict.chosen.values():
        counts[_named(rank)] = counts.get(_named(rank), 0) + 1
    return ", ".join(f"{count}x {named}" for named, count in counts.items())


def _named(rank: Rank) -> str:
    return " ".join(f"{name} {value}" for name, value in msgspec.to_builtins(rank).items())
