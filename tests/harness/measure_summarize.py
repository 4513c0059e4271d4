"""summarize alone: throughput of segments and of nodes over a record in memory, and where the time goes.

`python tests/harness/measure_summarize.py EVENTS.jsonl.gz [COUNT] [--vectors] [--profile]`

With `--vectors` every entry has one beforehand, and segments that are closed are made again with theirs meanwhile.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.measure_index import read
from harness.toc_record import at_once, ran
from jetmem.adapters.rocks import Rocks
from jetmem.adapters.tantivy_text import analyze
from jetmem.runtime.clock import SystemClock
from jetmem.summarize.handler import Summarizer
from jetmem.summarize.rows import FAMILIES, FORMAT, Rows
from jetmem.summarize.settings import SummarizeSettings
from jetmem.summarize.vectors import Vectors
from jetmem_schemas.internal import Entry, EntryVectorsReply, Head
from jetmem_schemas.subjects import partition_of

BATCH = 1_000
PART = partition_of("irc")


class Run:
    """Entries of the file; nodes come back at once, numbered as the record would."""

    def __init__(self, store, settings, vectors=False):
        self.it = Summarizer(Rows(store), settings, [PART], analyze, SystemClock())
        self.rseq = 0
        self.nodes = 0
        self.bytes = 0
        self.spent = {"segments": 0.0, "nodes": 0.0, "come back": 0.0, "vectors": 0.0}
        pool = np.random.default_rng(1).standard_normal((997, 384)).astype(np.float32)
        self.pool = [row.tobytes() for row in pool / np.linalg.norm(pool, axis=1, keepdims=True)]
        it, clock = self.it, SystemClock()
        self.vectors = None
        if vectors:
            self.vectors = Vectors(it.rows, it.maker, at_once, at_once, self.ask, clock, 300.0, it.tenants.paused)

    async def ask(self, tenant, rseqs):
        return EntryVectorsReply("random", [self.pool[rseq % len(self.pool)] for rseq in rseqs], Head(self.rseq))

    def bring(self):
        """A lap of the loop that brings vectors; the process takes one a second."""
        if self.vectors is not None:
            self.timed("vectors", lambda: ran(self.vectors.lap()))
            self.come_back()

    def timed(self, what, work):
        began = time.perf_counter()
        result = work()
        self.spent[what] += time.perf_counter() - began
        return result

    def apply(self, entries):
        fresh = [self.number(e) for e in entries]
        self.timed("segments", lambda: self.it.apply(PART, fresh))

    def number(self, entry):
        self.rseq += 1
        return Entry(self.rseq, self.rseq, *entry[2:])

    def make(self, most=1):
        """One turn of the loop that makes nodes, as the process takes it between two batches."""
        more = True
        for _ in range(most):
            more = self.timed("nodes", lambda: self.it.maker.some(0.05))
            if not more:
                break
        self.come_back()
        return more

    def come_back(self):
        back = []
        for key, version in list(self.it.waiting.unsent.items()):
            body = self.it.rows.outbox(key).body
            self.nodes += 1
            self.bytes += len(body)
            self.it.waiting.acknowledged(key, version, 2**62)
            back.append(self.number((0, 0, 0, "derived", "irc", "_", "node", "x", 0, body)))
        if back:
            self.timed("come back", lambda: self.it.apply(PART, back))


def measure(run, entries):
    began = time.perf_counter()
    for start in range(0, len(entries), BATCH):
        run.apply(entries[start : start + BATCH])
        run.make()
        if start // BATCH % 10 == 9:
            run.bring()
    applied = time.perf_counter() - began
    for key in list(run.it.waiting.wanted):
        run.it.waiting._schedule(key, urgent=True)
    while run.it.waiting.wanted:
        run.make()
        run.bring()
        for key in list(run.it.waiting.wanted):
            run.it.waiting._schedule(key, urgent=True)
    took = time.perf_counter() - began
    print(f"applied: {len(entries) / applied:,.0f} events/s; all nodes right: {len(entries) / took:,.0f} events/s")
    for what, spent in run.spent.items():
        print(f"  {what}: {spent:.1f} s of {took:.1f} s")
    print(
        f"{run.nodes:,} nodes published for {len(list(run.it.rows.store.scan('nodes', b''))):,} in the tree, "
        f"{run.bytes / 1e6:,.1f} MB; {len(list(run.it.rows.store.scan('segments', b''))):,} segments"
    )


def main():
    path, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2].isdigit() else 100_000
    entries = [
        (e.rseq, e.seq, e.at, e.kind, e.tenant, e.agent, e.session, e.id, e.ts, e.body) for e in read(path, count)
    ]
    folder = Path(tempfile.mkdtemp(prefix="jetmem-measure-"))
    store = Rocks(folder / "rows", FAMILIES, format_version=FORMAT)
    run = Run(store, SummarizeSettings(), "--vectors" in sys.argv)
    if "--profile" in sys.argv:
        import cProfile
        import pstats

        with cProfile.Profile() as profile:
            measure(run, entries)
        pstats.Stats(profile).sort_stats("tottime").print_stats(28)
        return
    measure(run, entries)
    print(
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB, disk {store.disk_bytes() / 1e6:,.0f} MB"
    )
    store.close()


if __name__ == "__main__":
    main()
