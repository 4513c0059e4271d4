"""When a bench takes the system for idle."""

import asyncio

from rich.console import Console

from jetmem.evaluation import bench_resources, conditions
from jetmem.evaluation.show import Told


def test_a_system_is_idle_once_nothing_begins_works_or_ends(monkeypatch):
    looks = iter([
        {"learn": 1.0, "7": 5.0},
        {"learn": 1.1},  # a model is fitted, and what waited for it begins
        {"learn": 1.1, "8": 0.1},
        {"learn": 1.1, "8": 1.6},
        {"learn": 1.2},
        {"learn": 1.2},
        {"learn": 99.0},
    ])  # fmt: skip
    monkeypatch.setattr(bench_resources, "_LOOK_S", 1e-3)
    monkeypatch.setattr(bench_resources, "_IDLE_SHARE", 150.0)
    monkeypatch.setattr(bench_resources, "_used", lambda _: next(looks))

    async def linked(nc, stage):
        return {"unlinked": 0}

    monkeypatch.setattr(conditions, "stage_counts", linked)
    asyncio.run(bench_resources.rest({}, None, Told(Console(quiet=True)), 60.0))
    assert next(looks) == {"learn": 99.0}
