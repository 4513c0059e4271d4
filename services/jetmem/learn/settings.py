"""Settings of learn."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from jetmem.runtime.settings import Count, Seconds, Threads

Share = Annotated[float, Meta(ge=0, le=1)]
#: As many outcomes as a procedure keeps; not imported: every command reads settings, and that would bring scipy.
Last = Annotated[int, Meta(ge=1, le=40)]


class LearnSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How learn holds what it answers from.

    Attributes:
        procedures_max: Procedures of a tenant that are listed and recommended, those used most of late; 0.8 kB each in
            memory. The others answer to their names.
        tasks_max: Tasks of a tenant that are compared with a question, the newest; 2 kB each in memory.
        board_bytes_max: Memory of what questions are answered from, over all tenants; the longest unasked go first.
        study_every_s: Relations, patterns, insights and the model of success of a tenant are made again this often, at
            most, and if somebody asks.
        study_runs: … of the latest so many runs.
        crystal_runs_min: A procedure crystallises with so many runs at least,
        crystal_agents_min: … by so many agents,
        crystal_lower_min: … whose rate is surely (Wilson's lower bound) above this,
        crystal_last_min: … and that of so many last runs, too:
        crystal_last: … that many.
        dissolve_below: It dissolves when less than this share of its last runs succeed,
        dissolve_last: … of that many,
        dissolve_fallen: … or when it has fallen to this share of the rate that it had proved,
        dissolve_alarm: … told by a sum of log likelihood ratios (CUSUM) of so much: more is later and surer.
        waves_per_s: Waves of a tenant's success and failure in a second, at most; as many of crystals.
        contagion: Whether a run moves what is expected of related procedures. It does harm on all data that we have.
        boosting: Whether a gradient-boosted model may be chosen where it does better on runs that it had not seen.
        read_threads: Questions answered at once.
    """

    procedures_max: Count = 20_000
    tasks_max: Count = 200_000
    board_bytes_max: Annotated[int, Meta(ge=1_000_000, le=1_000_000_000_000)] = 500_000_000
    study_every_s: Seconds = 30.0
    study_runs: Annotated[int, Meta(ge=100, le=1_000_000)] = 20_000
    crystal_runs_min: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    crystal_agents_min: Annotated[int, Meta(ge=1, le=64)] = 3
    crystal_lower_min: Share = 0.8
    crystal_last_min: Share = 0.8
    crystal_last: Last = 10
    dissolve_below: Share = 0.3
    dissolve_last: Last = 20
    dissolve_fallen: Annotated[float, Meta(ge=0.05, le=0.95)] = 0.6
    dissolve_alarm: Annotated[float, Meta(gt=0, le=1_000)] = 5.0
    waves_per_s: Annotated[float, Meta(gt=0, le=10_000)] = 20.0
    contagion: bool = False
    boosting: bool = False
    read_threads: Threads = 2
