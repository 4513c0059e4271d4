"""Apply facts: runs and definitions into counts, what was erased out of them, vectors as they come.

Everything here runs on the one writer thread. One write holds a batch's rows and the checkpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from jetmem.domain import keys
from jetmem.domain.procedures.crystals import RULES, Rules
from jetmem.domain.procedures.run import Ran
from jetmem.learn import ranks
from jetmem.learn.core import Defined, defined_of, run_of
from jetmem.learn.counting import Counting
from jetmem.learn.forgetting import Forgetting
from jetmem.learn.ports import Hears, News
from jetmem.learn.recounting import AT_ONCE, Recounting
from jetmem.learn.rows import FAMILIES, Rows, prefix
from jetmem.learn.vectors import TaskVectors
from jetmem.runtime import limits, metrics
from jetmem.runtime.clock import Clock
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.ledger import Ledger
from jetmem.runtime.models import Models, Verdict
from jetmem.runtime.store import WriteSet
from jetmem_schemas.internal import Entry, Forgotten, Head, VectorsReady

_forgotten = msgspec.msgpack.Decoder(Forgotten).decode
#: Entries of forgets in one write: of each up to 500 runs are read, and stand in memory as long.
_FORGOT_AT_ONCE: Final = 4
#: Row in `meta` of what must be finished on the next start if we die in it.
_REMODEL: Final = b"remodel"


class Learner:
    """The writer of learn's store.

    Attributes:
        at: Per partition, the last entry applied.
        erased: Per tenant, the last forget whose words may still be in files.
        vectors: Those of tasks.
        recounts: Procedures that a forget left to be counted anew.
    """

    def __init__(
        self,
        rows: Rows,
        hears: Sequence[Hears],
        parts: Iterable[int],
        clock: Clock,
        rules: Rules = RULES,
        at_once: int = AT_ONCE,
    ) -> None:
        """Open what the store holds; `at_once` runs are counted anew in one turn of the writer."""
        self.rows = rows
        self.parts = tuple(parts)
        self.at = {part: rows.position(part) for part in self.parts}
        self.ledger = Ledger(rows.store)
        self.erased = self.ledger.erased
        self.vectors = TaskVectors(rows)
        self._clock = clock
        self._models = Models(clock)
        self._counting = Counting(rows, self.vectors.expect, rules)
        self._hears = (self._counting, *hears)
        self.recounts = Recounting(rows, rules, at_once)
        self._forgetting = Forgetting(rows, self.vectors.drop, rules, self.recounts)
        self._finish()

    def _finish(self) -> None:
        """Finish what the process before us died in."""
        for part in self.ledger.unfinished():
            self.reset(part)
        model = self.rows.store.get("meta", _REMODEL)
        if model is not None:
            self._change_model(model.decode())

    def apply(self, part: int, entries: Sequence[Entry]) -> None:
        """Apply entries in order; what was applied before is passed over."""
        run: list[Entry] = []
        for entry in entries:
            if entry.rseq <= self.at[part].rseq:
                continue
            forgot = entry.kind == "forgot"
            if run and (forgot != (run[-1].kind == "forgot") or (forgot and len(run) == _FORGOT_AT_ONCE)):
                self._apply_run(part, run)
                run = []
            run.append(entry)
        self._apply_run(part, run)

    def _apply_run(self, part: int, run: Sequence[Entry]) -> None:
        """Entries of which all are a forget's, or none."""
        if not run:
            return
        batch = self.rows.store.batch()
        news: defaultdict[str, News] = defaultdict(News)
        if run[-1].kind == "forgot":
            erased = self._take_back(batch, run, news)
        else:
            self._take(batch, run, news)
            erased = {}
        for tenant, rseq in erased.items():
            self.ledger.erase(batch, tenant, rseq)
        self._write(batch, part, Head(run[-1].rseq, run[-1].seq), news)
        self._measure([entry for entry in run if entry.kind == "run"])

    def _measure(self, runs: Sequence[Entry]) -> None:
        metrics.learnt.inc(len(runs))
        metrics.operations.labels("learn", "ok").inc(len(runs))
        now_ms = self._clock.now_ms()
        for age_s in [(now_ms - entry.at) / 1_000 for entry in runs]:
            if age_s < limits.RECORD_AGE_S:  # older ones came by scan: they do not tell how fast success spreads
                metrics.success_propagation.observe(max(0.0, age_s))

    def _take(self, batch: WriteSet, run: Sequence[Entry], news: Mapping[str, News]) -> None:
        runs: defaultdict[str, list[Ran]] = defaultdict(list)
        defined: defaultdict[str, list[tuple[int, Defined]]] = defaultdict(list)
        for entry in run:
            if entry.kind == "run":
                runs[entry.tenant].append(run_of(entry))
            elif entry.kind == "procedure":
                defined[entry.tenant].append((entry.rseq, defined_of(entry)))
        for tenant in runs.keys() | defined.keys():
            self._counting.take(batch, tenant, runs[tenant], defined[tenant], news[tenant])

    def _take_back(self, batch: WriteSet, run: Sequence[Entry], news: Mapping[str, News]) -> dict[str, int]:
        """Erase; tenants of whom anything was held, with the forget's number."""
        gone: defaultdict[str, list[int]] = defaultdict(list)
        last: dict[str, int] = {}
        for entry in run:
            gone[entry.tenant] += _forgotten(entry.body).rseqs
            last[entry.tenant] = entry.rseq
        back = self._forgetting.take_back
        return {t: last[t] for t, rseqs in gone.items() if back(batch, t, rseqs, run[0].rseq, news[t])}

    def recount(self) -> None:
        """Count on, for one turn of the writer, what forgets left to be counted."""
        batch = self.rows.store.batch()
        news: dict[str, News] = {}
        self.recounts.slice(batch, news)
        crashpoint("learn:in-recount")
        self._total(batch, news)
        if news:
            self.rows.store.write(batch, sync=False)
            for tenant, each in news.items():
                self._tell(tenant, each)
        self.recounts.written()

    def _write(self, batch: WriteSet, part: int, at: Head, news: Mapping[str, News]) -> None:
        self.rows.set_position(batch, part, at)
        self._total(batch, news)
        self.rows.store.write(batch, sync=False)
        self.vectors.written()
        for tenant, each in news.items():
            self._tell(tenant, each)
        self.at[part] = at
        crashpoint("learn:after-store")

    def _total(self, batch: WriteSet, news: Mapping[str, News]) -> None:
        for tenant, each in news.items():
            ranks.write_totals(batch, self.rows, tenant, each)

    # --- vectors

    def store_vectors(self, ready: VectorsReady) -> int | None:
        """Store vectors that embed made; of how many tasks, None if they are another model's while ours is in use."""
        verdict = self._models.judge(self.rows.model(), ready.model)
        if verdict is Verdict.REFUSE:
            return None
        if verdict is Verdict.CHANGE:
            self._change_model(ready.model)
        batch = self.rows.store.batch()
        news = News()
        stored = self.vectors.arrived(batch, ready.tenant, ready.vectors, news)
        self.rows.store.write(batch, sync=False)
        self.vectors.written()
        self._tell(ready.tenant, news)
        crashpoint("learn:after-vectors")
        return stored

    def _change_model(self, model: str) -> None:
        """Vectors of two models cannot be compared: ask again for all, or, at first, only note the name."""
        store = self.rows.store
        if self.rows.model():
            self.ledger.note(_REMODEL, model.encode())
            for family in ("vectors", "pending"):
                self.ledger.wipe(family, b"")
            self.vectors.expect_all()
        batch = store.batch()
        self.rows.set_model(batch, model)
        batch.delete("meta", _REMODEL)
        store.write(batch, sync=True)
        self.vectors.recount()
        self._clear()

    # --- erasing

    def purgeable(self) -> dict[str, int]:
        """Of `erased`, those whose rows hold nothing of it any more."""
        return {tenant: rseq for tenant, rseq in self.erased.items() if self.recounts.since(tenant) is None}

    def purged(self, tenants: Mapping[str, int]) -> None:
        """The files were rewritten after `erased` told of these."""
        self.ledger.purged(tenants)

    def reset(self, part: int) -> None:
        """Forget everything of a partition; what is begun is finished, if need be by the next process."""
        self.ledger.drop(part, self._tenants(keys.partition(part)), FAMILIES)
        self.vectors.recount()
        self.recounts.reload()
        self._clear()
        batch = self.rows.store.batch()
        self.ledger.dropped(batch, part)
        self._write(batch, part, Head(), {})
        self.rows.store.sync()

    def _tell(self, tenant: str, news: News) -> None:
        for each in self._hears:
            each.tell(tenant, news)

    def _clear(self) -> None:
        for each in self._hears:
            each.clear()

    def _tenants(self, start: bytes) -> list[str]:
        """Tenants of a partition of whom anything is held."""
        found: list[str] = []
        after = start
        while True:
            key = next((key for key, _ in self.rows.store.scan("places", start, start=after)), None)
            if key is None:
                return found
            found.append(keys.tenant_of(key))
            after = prefix(found[-1]) + b"\xff" * 9
