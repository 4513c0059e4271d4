"""What is known of a part of a procedure's runs: one agent's, or those in one context value; pure.

Counts are of all runs, as they are kept. What else there is to say is read off the procedure's latest runs when
somebody asks: to keep it up would cost each run a sketch and a sample more, for its agent and each context value.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from jetmem.domain.procedures import decay, sketch, statistics
from jetmem.domain.procedures.run import Ran
from jetmem.domain.procedures.sketch import Sketch
from jetmem.domain.procedures.statistics import HALF_LIFE_MS, Statistics, beta_interval, wilson
from jetmem.learn.core import pairs_of
from jetmem.learn.rows import ShareRow
from jetmem_schemas.events import rfc3339
from jetmem_schemas.procedures import Interval, Said, Share, Spread

#: Parts that one procedure's answer has, those of most runs, of so many that are looked at: any, and beside them those
#: of most of the latest runs. Where a context has a value of its own for each run, any alone would be such values.
SHARES: Final = 20
SHARES_READ_MAX: Final = 2_000
LATEST_SHARES_MAX: Final = 200
#: Latest runs of a procedure that are read for them: some 20 ms.
LATEST_READ_MAX: Final = 1_000


def most_used(rows: Iterable[ShareRow], beside: Iterable[ShareRow]) -> list[ShareRow]:
    """Of so many rows, and of those beside them, those of most runs."""
    held = {row.of: row for row in (*islice(rows, SHARES_READ_MAX), *beside)}
    return sorted(held.values(), key=lambda row: (-row.tally.runs, row.of))[:SHARES]


def agents_of(latest: Iterable[Ran]) -> list[str]:
    """Agents of most of the latest runs."""
    return _commonest(run.agent for run in latest)


def pairs_in(latest: Iterable[Ran]) -> list[str]:
    """Context values of most of the latest runs."""
    return _commonest(pair for run in latest for pair in pairs_of(run.context))


def _commonest(names: Iterable[str]) -> list[str]:
    found = Counter(names)
    return sorted(found, key=lambda name: (-found[name], name))[:LATEST_SHARES_MAX]


def by_agent(rows: Sequence[ShareRow], latest: Iterable[Ran], now_ms: int) -> list[Share]:
    """Each agent's part."""
    return _shares(rows, ((run.agent, run) for run in latest), now_ms)


def by_context(rows: Sequence[ShareRow], latest: Iterable[Ran], now_ms: int) -> list[Share]:
    """The part of each context value."""
    return _shares(rows, ((pair, run) for run in latest for pair in pairs_of(run.context)), now_ms)


def _shares(rows: Sequence[ShareRow], latest: Iterable[tuple[str, Ran]], now_ms: int) -> list[Share]:
    of: defaultdict[str, list[Ran]] = defaultdict(list)
    shown = {row.of for row in rows}
    for name, run in latest:
        if name in shown:
            of[name].append(run)
    return [_share(row, _looked_at(of, row.of), now_ms) for row in rows]


def _looked_at(of: Mapping[str, Sequence[Ran]], name: str) -> Statistics:
    return statistics.recomputed(of.get(name, ()))


def _share(row: ShareRow, seen: Statistics, now_ms: int) -> Share:
    tally = row.tally
    low, high = wilson(tally.successes, tally.runs)
    runs = decay.value(tally.decayed_runs, now_ms, HALF_LIFE_MS)
    won = decay.value(tally.decayed_successes, now_ms, HALF_LIFE_MS)
    return Share(
        of=row.of,
        runs=tally.runs,
        successes=tally.successes,
        interval=Interval(low=low, high=high),
        decayed_runs=runs,
        decayed_successes=won,
        posterior=posterior(won, runs),
        first=rfc3339(tally.first_ms) if tally.runs else "",
        last=rfc3339(tally.last_ms) if tally.runs else "",
        latest=seen.runs,
        recent=[each.success for each in reversed(seen.recent[: statistics.CONSISTENCY_RUNS])],
        consistency=alike(seen) if seen.runs else None,
        agents=seen.distinct_agents if seen.runs else None,
        reward=spread(seen.reward),
        duration_ms=spread(seen.duration_ms),
        cost=spread(seen.cost),
        failures=said(statistics.failures(seen)),
        lessons=said(statistics.lessons(seen)),
    )


# --- how statistics are said, of a part as of a whole


def posterior(successes: float, runs: float) -> Interval:
    """Beta's 95 %."""
    low, high = beta_interval(successes, runs)
    return Interval(low=low, high=high)


def alike(of: Statistics) -> float:
    """Share of the last ten runs that ended like most of them; 0 of none."""
    last = statistics.consistency(of)
    return max(last, 1.0 - last) if of.recent else 0.0


def spread(of: Sketch) -> Spread | None:
    """None of none."""
    middle, most = sketch.quantile(of, 0.5), sketch.quantile(of, 0.9)
    return Spread(p50=middle, p90=most) if middle is not None and most is not None else None


def said(found: Iterable[tuple[str, int]]) -> list[Said]:
    """Failures or lessons."""
    return [Said(text=text, runs=runs) for text, runs in found]
