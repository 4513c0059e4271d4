"""Questions about procedures, and what answers hold: what query is asked, and what learn answers it.

Items are made by learn as users see them, so that there is one description of each; `Found` adds how fresh they are.
Probabilities and strengths are 0..1, durations milliseconds, times RFC 3339.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from jetmem_schemas.asking import Cursor, Limit, Request, Token
from jetmem_schemas.events import Meta64, Name

TASK_CHARS_MAX = 8192
Task = Annotated[str, Meta(min_length=1, max_length=TASK_CHARS_MAX)]
State = Literal["fluid", "crystalline"]
Relation = Literal["similar_to", "context_related", "follows"]
#: What a probability was estimated by, the plainest first.
How = Literal["none", "rate", "context", "neighbours", "difficulty", "boosted"]

# --- questions


class Recommend(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Procedures for a task, best first.

    Attributes:
        task: What is to be done, in words.
        context: Where; compared with that of runs.
        agent: Who asks: where agents differ, its own runs tell what to expect of it.
        k: How many.
        explore: `thompson` draws from what is known of each, so that what was seldom tried is tried too.
        seed: The same question with the same seed gives the same draw until the tenant's runs tell something new.
    """

    task: Task
    context: Meta64 = {}
    agent: Token | None = None
    k: Annotated[int, Meta(ge=1, le=100)] = 5
    explore: Literal["none", "thompson"] = "none"
    seed: Annotated[str, Meta(max_length=128)] = ""


class Predict(Request, frozen=True, kw_only=True, omit_defaults=True):
    """How likely one procedure is to succeed at a task."""

    task: Task
    procedure: Name
    context: Meta64 = {}
    agent: Token | None = None


class ProcedureAsk(Request, frozen=True, kw_only=True, omit_defaults=True):
    """One procedure with its statistics."""

    id: Name


class Procedures(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Procedures: by name, runs, rate or lift (over the tenant's rate; both by lower bound), or the last used first."""

    sort: Literal["name", "runs", "rate", "lift", "last"] = "runs"
    state: State | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


class Related(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Neighbours of a procedure in the graph, the strongest first."""

    id: Name
    kinds: Annotated[list[Relation], Meta(max_length=3)] = []
    hops: Annotated[int, Meta(ge=1, le=3)] = 1
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class Patterns(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Steps in a row that recur in successful runs, and what tends to come after `done`."""

    done: Annotated[list[Name], Meta(max_length=16)] = []
    shared: bool = False
    limit: Limit = 20
    cursor: Cursor | None = None


class Insights(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Clusters of tasks, the largest first: what works and what fails in each."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 10


# --- what answers hold


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a probability, at 95 %."""

    low: float
    high: float


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """What half of the runs, and nine of ten, do not exceed: within 4.1 %, as round as can be."""

    p50: float
    p90: float


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A failure or lesson that runs told, and how many did; of many runs that is estimated from a sample."""

    text: str
    runs: int


class Neighbour(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run of a task like the one asked about.

    `similarity` is the cosine of the tasks, or, where a vector lacks, what their words have in common on that scale;
    words also decide the order. `procedure` is told where neighbours of several stand together.
    """

    run: str
    task: str
    agent: str
    success: bool
    similarity: float
    procedure: str = ""


class Why(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a probability rests on.

    Attributes:
        how: The estimate that answered; `none`: nothing is known, the probability is the prior.
        model: Version of the fitted model that answered, or chose to answer by plain rates: the number, in the log of
            the tenant's partition, of the entry up to which it counts; 0 if none did.
        runs: Runs of the procedure.
        successes: Those that succeeded.
        in_context: Runs of it in this context.
        by_agent: Runs of it by the agent that asks.
        neighbours: Its runs of the tasks most like this one, each task once before any comes again.
        boost: What waves of related procedures move the prior by; 0 where contagion is off.
        crystal: Version of the crystal that froze the procedure's steps; 0 if it is fluid, or it froze none.
    """

    how: How
    model: int = 0
    runs: int
    successes: int
    in_context: int = 0
    by_agent: int = 0
    neighbours: list[Neighbour] = []
    boost: float = 0.0
    crystal: int = 0


class Recommended(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One procedure for a task; `drawn` is the draw that ranked it under `thompson`."""

    id: str
    probability: float
    interval: Interval
    why: Why
    state: State = "fluid"
    steps: list[str] = []
    duration_ms: Spread | None = None
    cost: Spread | None = None
    failures: list[Said] = []
    lessons: list[Said] = []
    drawn: float | None = None


class ProcedureItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One procedure in a list. `rate` and `interval` are of all runs, `lift` is its rate over the tenant's.

    `recent` are the last outcomes, the latest last.
    """

    id: str
    runs: int
    successes: int
    rate: float
    interval: Interval
    lift: float
    state: State
    agents: int
    first: str = ""
    last: str = ""
    recent: list[bool] = []
    description: str = ""


class Share(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a procedure's runs: one agent's, or those in one context value (`key=value`).

    Attributes:
        interval: Wilson's, at 95 %, of all its runs.
        decayed_runs: Runs, each of half weight after 30 days.
        decayed_successes: Likewise.
        posterior: Beta's 95 % over the decayed counts.
        first: First use.
        last: Last use.
        latest: Its runs among the procedure's latest 1,000: what all that follows is of, and left out where it is 0.
        recent: Its last ten outcomes, the latest last.
        consistency: Share of those that ended like most of them.
        agents: Distinct ones.
    """

    of: str
    runs: int
    successes: int
    interval: Interval
    decayed_runs: float
    decayed_successes: float
    posterior: Interval
    first: str = ""
    last: str = ""
    latest: int = 0
    recent: list[bool] = []
    consistency: float | None = None
    agents: int | None = None
    reward: Spread | None = None
    duration_ms: Spread | None = None
    cost: Spread | None = None
    failures: list[Said] = []
    lessons: list[Said] = []


class ProcedureDetail(ProcedureItem, frozen=True, kw_only=True, omit_defaults=True):
    """One procedure whole.

    Attributes:
        steps: As the crystal froze them, else of the definition, else the most common ones of successful runs.
        frozen: Whether a crystal froze them, as they were when it formed: those of the definition of then, or of runs.
        version: Of the definition, as it was published; "" without one.
        consistency: Share of the last ten runs that ended like most of them.
        decayed_runs: Runs, each of half weight after 30 days.
        decayed_successes: Likewise.
        posterior: Beta's 95 % over the decayed counts.
        by_agent: Each agent's runs, the 20 of most runs.
        by_context: Runs in each context value, likewise.
        crystal: Version of the crystal; 0 if there never was one.
        crystal_why: What formed or dissolved it.
        crystal_since: When.
    """

    steps: list[str] = []
    frozen: bool = False
    version: str = ""
    consistency: float = 0.0
    decayed_runs: float = 0.0
    decayed_successes: float = 0.0
    posterior: Interval | None = None
    reward: Spread | None = None
    duration_ms: Spread | None = None
    cost: Spread | None = None
    by_agent: list[Share] = []
    by_context: list[Share] = []
    failures: list[Said] = []
    lessons: list[Said] = []
    boost: float = 0.0
    crystal: int = 0
    crystal_why: str = ""
    crystal_since: str = ""


class RelatedProcedure(msgspec.Struct, frozen=True, kw_only=True):
    """A neighbour, over how many edges (`path` from the one asked about, both ends in it), and the last edge's kind."""

    id: str
    kind: Relation
    strength: float
    path: list[str]


class PatternItem(msgspec.Struct, frozen=True, kw_only=True):
    """Two to five steps in a row.

    Attributes:
        id: The steps, joined by " > ".
        rate: Share of the runs with it that succeeded, decayed by 0.95 a week.
        lift: How much more often it is in successful runs than in failed ones.
        low: Wilson's lower bound of the rate.
        shared: Worth telling others: consistent, above 0.7, three times at least, by more than one agent.
    """

    id: str
    steps: list[str]
    successes: int
    failures: int
    rate: float
    lift: float
    low: float
    shared: bool


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """A step that tends to follow; `rate` is the lower bound of that of the pattern that says so."""

    step: str
    rate: float


class Works(msgspec.Struct, frozen=True, kw_only=True):
    """How a procedure does in a cluster.

    Attributes:
        rate: Share of its runs there that succeeded.
        low: Wilson's lower bound of that.
        lift: That rate over the cluster's; 0 where nothing succeeded.
        runs: Its runs there.
    """

    id: str
    rate: float
    low: float
    lift: float
    runs: int


class InsightItem(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster of tasks.

    Attributes:
        tasks: Distinct ones.
        runs: Of those tasks.
        rate: Share of them that succeeded.
        examples: The tasks nearest its middle.
        contexts: Those that are frequent in it, as `key=value`.
        works: Procedures whose rate is not below the cluster's; first what is best when drawn to its rate everywhere.
        fails: Those whose rate is below it; likewise the worst first.
    """

    id: str
    tasks: int
    runs: int
    rate: float
    examples: list[str]
    contexts: list[str]
    works: list[Works]
    fails: list[Works]
