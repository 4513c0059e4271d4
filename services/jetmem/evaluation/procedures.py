"""`make eval-procedures`: how well runs tell what works, by five folds over tasks, on cold procedures, and simulated.

    python -m jetmem.evaluation.procedures [--data DIR]… [--seeds N] [--no-pipeline] [--plot FILE]

Five folds go through a running pipeline, and, to take the mechanisms apart, straight into the rules of
`jetmem.domain.procedures`; intervals are 95 %, by bootstrap over paraphrases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from jetmem.console.ending import told
from jetmem.console.temporary import run
from jetmem.evaluation import (
    conditions,
    locomo,
    metrics,
    procedures_cold,
    procedures_data,
    procedures_folds,
    procedures_pipeline,
    procedures_repeats,
    procedures_retrieval,
    procedures_sharing,
    procedures_simulation,
)
from jetmem.evaluation import show as screen
from jetmem.evaluation.procedures_cold import Cold
from jetmem.evaluation.procedures_folds import Folds
from jetmem.evaluation.procedures_repeats import Repeated
from jetmem.evaluation.procedures_retrieval import Retrieval
from jetmem.evaluation.procedures_scores import Figure
from jetmem.evaluation.procedures_sharing import Sharing
from jetmem.evaluation.procedures_simulation import Simulated
from jetmem.evaluation.show import Told, facts

_NAME: Final = "jetmem eval-procedures"
#: Log-loss at most and pick at least on the data set of that name; elsewhere log-loss at most this above global's.
GOALS: Final = {"intercode-sql-dev": (0.440, 0.735)}
HARM_MAX: Final = 0.002
OURS: Final = "jetmem (gated)"
PIPED: Final = "jetmem, through the pipeline"


class Report(msgspec.Struct, frozen=True):
    """What `--json` writes; `recommend` is how long an answer took, ms, by data set."""

    conditions: dict[str, str]
    folds: list[Folds]
    recommend: dict[str, metrics.Spread]
    retrieval: list[Retrieval]
    cold: list[Cold]
    sharing: list[Sharing]
    repeats: list[Repeated]
    simulation: Simulated | None


def measure(folders: list[Path], seeds: int, say: Told, *, cold: bool, piped: bool) -> Report:
    """Measure everything.

    Raises:
        Missing: No data.
    """
    found = conditions.machine()
    folds, retrieval, colds, sharing = [], [], [], []
    latencies: dict[str, metrics.Spread] = {}
    for folder in folders:
        say.say(f"{folder.name}: reading and embedding")
        data = procedures_data.load(folder)
        say.say(f"{folder.name}: five folds")
        folds.append(procedures_folds.measure(data))
        held = procedures_retrieval.measure(data)
        if piped:
            told = run(procedures_pipeline.measure(data, say))
            folds[-1].ways[PIPED] = told.scores
            latencies[data.name] = told.latency
            if held and told.retrieval:
                held.ways[PIPED] = told.retrieval
        retrieval += [held] if held else []
        sharing.append(procedures_sharing.measure(data))
        if cold:
            say.say(f"{folder.name}: cold procedures")
            colds.append(procedures_cold.measure(data))
    repeated = procedures_repeats.measure() if seeds else []
    if seeds:
        say.say(f"simulating {seeds} worlds")
    simulated = procedures_simulation.measure(seeds) if seeds else None
    return Report(found, folds, latencies, retrieval, colds, sharing, repeated, simulated)


def _shown(figure: Figure | None) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})" if figure else "–"


def _table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left")
    for name in columns:
        made.add_column(name, justify="right" if name else "left")
    return made


def folds_tables(found: Folds) -> list[Table]:
    """Ways beside each other; in two tables, for each figure has its interval."""
    title = f"{found.data}: {found.tasks} tasks, {found.procedures} procedures, {found.runs} runs"
    first = _table(title, "", "log-loss", "pick")
    second = _table(f"{found.data}: the same probabilities", "", "Brier", "AUC", "calibration error")
    for name, each in found.ways.items():
        first.add_row(name, _shown(each.log_loss), _shown(each.pick))
        if each.log_loss:
            second.add_row(name, _shown(each.brier), _shown(each.auc), _shown(each.calibration))
    return [first, second]


def judged(found: Folds) -> str:
    """Goals, and what became of them."""
    ours, plain = found.ways.get(PIPED, found.ways[OURS]), found.ways["global best"]
    loss = ours.log_loss.value if ours.log_loss else 0.0
    base = plain.log_loss.value if plain.log_loss else 0.0
    worst, least = GOALS.get(found.data, (base + HARM_MAX, 0.0))
    verdict = f"{found.data}: log-loss {loss:.4f}, goal {worst:.4f} {'reached' if loss <= worst else 'missed'}"
    if least:
        verdict += f"; pick {ours.pick.value:.4f}, goal {least} {'reached' if ours.pick.value >= least else 'missed'}"
    return f"{verdict}; chosen by held-out loss: {procedures_folds.hows(found)}"


def retrieval_table(found: Retrieval) -> Table:
    """Arms alone and together."""
    made = _table(f"{found.data}: {found.questions} tasks look for their paraphrase", "", "hit@1", "hit@5")
    for name, each in found.ways.items():
        made.add_row(name, _shown(each.hit_1), _shown(each.hit_5))
    return made


def cold_table(found: Cold) -> Table:
    """Ways, then what contagion changes."""
    runs = procedures_cold.RUNS
    made = _table(f"{found.data}: each procedure in turn seen in {runs} runs only", "", "log-loss", "by contagion")
    for name, each in found.ways.items():
        changed = found.contagion.get(name)
        made.add_row(
            name, _shown(each), f"{changed.value:+.4f} ({changed.low:+.4f} to {changed.high:+.4f})" if changed else ""
        )
    return made


def sharing_table(found: Sharing) -> Table:
    """Whose counts a rate rests on."""
    made = _table(f"{found.data}: rates from several deployments' counts", "", "log-loss")
    for name, each in found.rates.items():
        made.add_row(name, _shown(each))
    return made


def sharing_lines(found: Sharing) -> list[str]:
    """Patterns and clusters in words."""
    best = "; ".join(f"{' → '.join(each.steps)} {each.rate:.2f}, lift {each.lift:.1f}" for each in found.patterns)
    kinds = [
        f"{each.size} tasks like {each.examples[0]!r}: {each.works[0].procedure} {each.works[0].rate:.2f}"
        for each in found.insights
        if each.works
    ]
    held = f"held-out runs with a pattern of high rate succeed {found.with_pattern:.3f} ({found.covered:.0%} have one)"
    return [f"{found.data}: {held}, others {found.without_pattern:.3f}", f"patterns: {best}", *kinds]


def repeats_table(found: list[Repeated]) -> Table:
    """Ways of answering beside each other."""
    title, more = "simulation: a task, or an agent, that was seen before", ("worth", "true rate in interval", "width")
    made = _table(title, "", "correlation", *found[0].losses, *more)
    for each in found:
        losses = (f"{loss:.3f}" for loss in each.losses.values())
        held = f"{each.held:.2f}", f"{each.width:.2f}"
        made.add_row(each.of, f"{each.correlation:.2f}", *losses, f"{each.worth:.1f} runs", *held)
    return made


def simulation_table(found: Simulated) -> Table:
    """Regret a run."""
    title = (
        f"simulation: {procedures_simulation.AGENTS} agents, {procedures_simulation.PROCEDURES} procedures, "
        f"{found.runs} runs, {found.seeds} worlds"
    )
    made = _table(title, "", "regret a run", "in the last third")
    for name, each in sorted(found.regret.items(), key=lambda each: -each[1]):
        made.add_row(name, f"{each:.3f}", f"{found.late[name]:.3f}")
    return made


def show(console: Console, report: Report) -> None:
    """Print everything."""
    console.print(facts(report.conditions))
    for each in report.folds:
        console.print(*folds_tables(each))
        console.print(judged(each), markup=False)
        latency = report.recommend.get(each.data)
        if latency:
            console.print(f"recommend p50 {latency.p50:.1f} ms, p95 {latency.p95:.1f} ms", markup=False)
    for found in report.retrieval:
        console.print(retrieval_table(found))
    for cold in report.cold:
        console.print(cold_table(cold))
        console.print(f"mean |boost| of a cold procedure: {cold.mean_boost:.3f}", markup=False)
    for shared in report.sharing:
        console.print(sharing_table(shared))
        for line in sharing_lines(shared):
            console.print(line, markup=False)
    if report.repeats:
        console.print(repeats_table(report.repeats))
    if report.simulation:
        console.print(simulation_table(report.simulation))
        crystals = ", ".join(f"{name} {value:.2f}" for name, value in report.simulation.crystals.items())
        console.print(f"crystals, a world: {crystals}", markup=False)
        follows = ", ".join(f"{name} {value:.2f}" for name, value in report.simulation.follows.items())
        console.print(f"what comes next in a session: {follows}", markup=False)


def command(
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder with tasks.jsonl and runs.jsonl.gz; may be repeated.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=0, help="Simulated worlds; 0 for none.")] = 4,
    cold: Annotated[bool, typer.Option(help="Measure cold procedures, too.")] = True,
    piped: Annotated[bool, typer.Option("--pipeline/--no-pipeline", help="Ask a running pipeline, too.")] = True,
    plot: Annotated[Path | None, typer.Option(help="Draw the simulation into this PNG.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here, too.")] = None,
) -> None:
    """Measure how well runs tell which procedure works for a task."""
    with told(_NAME, (locomo.Missing, screen.Unwritable)):
        screen.writable(plot, json_file)
        report = measure(
            data or [*procedures_data.FOLDERS], seeds, Told(screen.console(stderr=True)), cold=cold, piped=piped
        )
        show(screen.console(), report)
        if plot and report.simulation:
            procedures_simulation.plot(report.simulation, plot)
            screen.console().print(f"drawn into {plot}", markup=False)
        if json_file:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def main() -> None:
    """Run the command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app()


if __name__ == "__main__":
    main()
