"""Topics alone, over random segments: what placing, grouping and making cost the writer and the others.

`python tests/harness/measure_topics.py [SEGMENTS ...]`
"""

import asyncio
import resource
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from jetmem.adapters.density_clusters import grouped
from jetmem.adapters.rocks import Rocks
from jetmem.adapters.tantivy_text import analyze
from jetmem.domain import topics as rules
from jetmem.domain.calendar import NodeId
from jetmem.domain.summaries import Summary
from jetmem.summarize.rows import FAMILIES, FORMAT, NodeRow, Rows, encode, node_key
from jetmem.summarize.topics import GROUPED_MAX, Found, Topics, moves
from jetmem_schemas.internal import Head

TENANT = "acme"
DAY_MS = 24 * 3_600_000
AT_ONCE = 64


def segments(store, topics, count):
    """Closed segments of `count / 40` kinds, with 200 words each; their vectors."""
    chance = np.random.default_rng(0)
    kinds = max(5, count // 40)
    centres = chance.standard_normal((kinds, 384))
    kind = chance.integers(0, kinds, count)
    vectors = (centres[kind] + 1.2 * chance.standard_normal((count, 384))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    batch = store.batch()
    for n in range(count):
        key = node_key(TENANT, NodeId(date.fromordinal(735_000 + n // 50), 4, f"{n:026d}"))
        words = {f"w{(int(kind[n]) * 31 + w) % 5_000}": 1 + w % 3 for w in range(200)}
        summary = Summary("t", "s", [], [f"w{kind[n] * 31 % 5_000}", "other"], "observation", 0.5, ["Ann"], words)
        at = n // 50 * DAY_MS + n
        row = NodeRow(1, digest=b"d", summary=summary, start=at, end=at + 1, events=9, agents=["alice"])
        batch.put("nodes", key, encode(row))
        topics.made(batch, key, row, Head())
        found.append(Found(key, b"d", vectors[n]))
    store.write(batch, sync=False)
    return found


async def measure(count):
    spent = {}

    def timed(what, began):
        spent[what] = spent.get(what, 0.0) + time.perf_counter() - began

    with tempfile.TemporaryDirectory() as folder:
        store = Rocks(Path(folder) / "rows", FAMILIES, format_version=FORMAT)
        topics = Topics(Rows(store), analyze, lambda _: False)
        found = segments(store, topics, count)
        began = time.perf_counter()
        for start in range(0, count, AT_ONCE):
            topics.place(TENANT, "m", found[start : start + AT_ONCE])
        timed("placing (writer)", began)
        began = time.perf_counter()
        snapshot = topics.snapshot(TENANT)
        timed("snapshot", began)
        began = time.perf_counter()
        looked_at = np.unique(np.linspace(0, count - 1, min(count, GROUPED_MAX)).astype(np.int64))
        groups = np.full(count, -1, np.int64)
        groups[looked_at] = await grouped(snapshot.vectors[looked_at])
        timed("grouping (child)", began)
        began = time.perf_counter()
        plan = rules.regroup(snapshot.members, snapshot.vectors, groups)
        moved = list(moves(snapshot, plan))
        timed("plan", began)
        began = time.perf_counter()
        for start in range(0, len(moved), 1_000):
            topics.move(TENANT, moved[start : start + 1_000])
        topics.grouped(TENANT, snapshot.tally, plan)
        timed("moving (writer)", began)
        made = len(topics.remake)
        began = time.perf_counter()
        while (wanted := topics.next()) is not None:
            topics.make(wanted[0])
        timed(f"making {made} topics (writer)", began)
        store.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    told = "  ".join(f"{what} {seconds:.2f} s" for what, seconds in spent.items())
    print(f"{count:,} segments: {told}  peak {peak} MB", flush=True)


if __name__ == "__main__":
    for number in map(int, sys.argv[1:] or ["1000", "10000", "50000"]):
        asyncio.run(measure(number))
