"""Build and wire learn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from jetmem.adapters.embed_asker import Asker
from jetmem.adapters.nats_shell import Endpoint, Shell
from jetmem.adapters.projection_process import ProjectionProcess, own_folder
from jetmem.adapters.rocks import Rocks
from jetmem.learn.answers import Answers
from jetmem.learn.boards import Boards
from jetmem.learn.handler import Learner
from jetmem.learn.lacking import Lacking
from jetmem.learn.rows import FAMILIES, FORMAT, Rows
from jetmem.learn.settings import LearnSettings
from jetmem.runtime.clock import Clock
from jetmem.runtime.settings import Common
from jetmem.runtime.store import Store
from jetmem_schemas.internal import Counts, Entry, Head
from jetmem_schemas.procedures import (
    Found,
    OneAsk,
    PredictAsk,
    PredictFound,
    ProcedureDetail,
    ProcedureItem,
    ProceduresAsk,
    RecommendAsk,
    RecommendFound,
)

ARM: Final = "procedures"
#: Purging waits this long after a forget, so that several share one rewriting.
_PURGE_DELAY_S: Final = 5.0


def build(
    common: Common,
    settings: LearnSettings,
    *,
    store: Store | None = None,
    clock: Clock | None = None,
    broker: Any = None,
) -> Shell:
    """Build the process; nothing is connected before `run`, the store is opened at once.

    Raises:
        Broken: The store is in use, damaged or of a newer format.
    """
    folder = own_folder(common, "learn")
    shell = Shell("learn", common, clock=clock, broker=broker)
    Learn(shell, settings, store or Rocks(folder / "rows", FAMILIES, format_version=FORMAT), folder).wire()
    return shell


class Learn:
    """The running stage: a projection's process that asks embed for vectors of tasks, and answers."""

    def __init__(self, shell: Shell, settings: LearnSettings, store: Store, folder: Path) -> None:
        self.shell = shell
        self.process = ProjectionProcess(shell, self, folder, read_threads=settings.read_threads)
        self.rows = Rows(store)
        self.boards = Boards(self.rows, settings)
        self.learner = Learner(self.rows, self.boards, self.process.parts, shell.clock)
        self.answers = Answers(self.rows, self.boards, shell.clock)
        self.asker = Asker(self.process, Lacking(self.learner))

    def wire(self) -> None:
        """Add loops and endpoints to the shell."""
        self.shell.loop("purge", self._purge)
        own = {
            "recommend": Endpoint(RecommendAsk, self._recommend),
            "predict": Endpoint(PredictAsk, self._predict),
            "procedure": Endpoint(OneAsk, self._procedure),
            "procedures": Endpoint(ProceduresAsk, self._procedures),
        }
        self.process.wire(own | self.asker.wire())

    # --- what the process asks of us (adapters.projection_process.Projected)

    def position(self, part: int) -> Head:
        """Where reading resumes."""
        return self.learner.at[part]

    def apply(self, part: int, entries: Sequence[Entry]) -> None:
        """Apply; vectors come later."""
        self.learner.apply(part, entries)

    def reset(self, part: int) -> None:
        """The log is another one."""
        self.learner.reset(part)

    def heads(self, part: int, tenant: str) -> dict[str, Head]:
        """Up to where runs count; a task without its vector counts too, but for tasks that only mean the same."""
        return {ARM: self.learner.at[part]}

    def passed(self, part: int) -> dict[str, Head]:
        """The same."""
        return {ARM: self.learner.at[part]}

    def counts(self, tenant: str) -> Counts:
        """What waits to be purged or embedded."""
        erased, pending = self.learner.erased, self.learner.vectors.pending
        counts: Counts = {"purging": len(erased), "model": self.rows.model()}
        if tenant:
            counts["purging"] = int(tenant in erased)  # how many others have is not this one's business
            counts["pending_tasks"] = pending.get(tenant, 0)
        return counts

    def close(self) -> None:
        """Close the store."""
        self.rows.store.close()

    # --- questions

    async def _recommend(self, part: int, asked: RecommendAsk) -> Found[RecommendFound]:
        at = self._at(asked.tenant)
        degraded = self._degraded(asked.tenant, asked.vector, asked.model)
        vector = asked.vector if asked.model == self.rows.model() else b""
        work = partial(self.answers.recommend, asked.tenant, asked.ask, vector, str(at.rseq))
        return Found(await self.process.in_reader(work), at, degraded=degraded)

    async def _predict(self, part: int, asked: PredictAsk) -> Found[PredictFound]:
        at = self._at(asked.tenant)
        degraded = self._degraded(asked.tenant, asked.vector, asked.model)
        vector = asked.vector if asked.model == self.rows.model() else b""
        work = partial(self.answers.predict, asked.tenant, asked.ask, vector)
        return Found(await self.process.in_reader(work), at, degraded=degraded)

    async def _procedure(self, part: int, asked: OneAsk) -> Found[ProcedureDetail]:
        at = self._at(asked.tenant)
        return Found(await self.process.in_reader(partial(self.answers.procedure, asked.tenant, asked.ask.id)), at)

    async def _procedures(self, part: int, asked: ProceduresAsk) -> Found[list[ProcedureItem]]:
        at = self._at(asked.tenant)
        found, more = await self.process.in_reader(
            partial(self.answers.procedures, asked.tenant, asked.ask, asked.start)
        )
        return Found(found, at, more=more)

    def _at(self, tenant: str) -> Head:
        """Up to where it is learnt; taken before the answer: what comes meanwhile is more."""
        return self.process.at(tenant)[ARM]

    def _degraded(self, tenant: str, vector: bytes, model: str) -> bool:
        """Whether tasks are compared without vectors, all or some; who has no task misses none."""
        if self.learner.vectors.pending.get(tenant):
            return True
        return bool(self.rows.model()) and (not vector or model != self.rows.model())

    # --- loops

    async def _purge(self) -> None:
        """Rewrite what holds erased words."""
        while True:
            await asyncio.sleep(_PURGE_DELAY_S)
            done = await self.process.in_writer(lambda: dict(self.learner.erased))
            if done:
                await asyncio.to_thread(self.rows.store.compact)
                await self.process.in_writer(partial(self.learner.purged, done))
