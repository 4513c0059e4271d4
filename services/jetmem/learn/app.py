"""Build and wire learn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from jetmem.adapters.embed_asker import Asker
from jetmem.adapters.layouts import Layout, Step, own_folder
from jetmem.adapters.memory import look_seldom
from jetmem.adapters.nats_ask import ask
from jetmem.adapters.nats_shell import Endpoint, Shell
from jetmem.adapters.projection_process import ProjectionProcess
from jetmem.adapters.rocks import Memory
from jetmem.domain.procedures import contagion
from jetmem.domain.procedures.crystals import Rules
from jetmem.learn import shown
from jetmem.learn.answers import Answers
from jetmem.learn.board import Board
from jetmem.learn.boards import Boards
from jetmem.learn.estimating import NO_BOOSTS, Learnt
from jetmem.learn.exporting import Exports
from jetmem.learn.fresh import Fresh
from jetmem.learn.handler import Learner
from jetmem.learn.lacking import Lacking
from jetmem.learn.ranks import totals
from jetmem.learn.rows import FAMILIES, FORMAT, Rows, hashed
from jetmem.learn.settings import LearnSettings
from jetmem.learn.studies import ANSWERING, Kind, Studies, Study
from jetmem.learn.waves import Waves
from jetmem.runtime.clock import Clock
from jetmem.runtime.errors import RequestFailed
from jetmem.runtime.settings import Common
from jetmem.runtime.store import Store
from jetmem_schemas import subjects
from jetmem_schemas.internal import Counts, EncodeReply, EncodeRequest, Entry, Head
from jetmem_schemas.procedures import InsightItem, ProcedureDetail, ProcedureItem, RelatedProcedure
from jetmem_schemas.procedures_asked import (
    Found,
    InsightsAsk,
    OneAsk,
    PatternsAsk,
    PatternsFound,
    PredictAsk,
    PredictFound,
    ProceduresAsk,
    RecommendAsk,
    RecommendFound,
    RelatedAsk,
)
from jetmem_schemas.sharing import ExportRequest

ARM: Final = "procedures"
#: Tasks that are compared by meaning.
TASKS: Final = "tasks"
#: Purging waits this long after a forget, so that several share one rewriting.
_PURGE_DELAY_S: Final = 5.0
#: Format 2 knows how much each procedure is used (`ranks`), and in which order tasks came; rows of what was tried begin
#: with their sums.
LAYOUT: Final = Layout(
    stage="learn", families=FAMILIES, format=FORMAT, steps=(Step(to=2),), memory=Memory(100_000_000, 128_000_000)
)
#: A definition waits so long for its vector, then its procedure is known by its tasks.
_ENCODE_S: Final = 5.0
#: How often is looked whether a model can be made.
_LOOK_S: Final = 0.5
#: What a forget leaves to be counted anew begins within so long.
_RECOUNT_LOOK_S: Final = 0.2
#: A tenant's first question waits so long for the vectors of its tasks, then does without those that lack: who asked
#: query waits two seconds for us.
_LOAD_S: Final = 0.8

T = TypeVar("T")


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
        Broken: The store is in use, damaged or of another format.
    """
    folder = own_folder(Path(common.data), "learn")
    shell = Shell("learn", common, clock=clock, broker=broker)
    Learn(shell, settings, store or LAYOUT.open(Path(common.data)), folder).wire()
    return shell


def _rules(settings: LearnSettings) -> Rules:
    return Rules(
        runs_min=settings.crystal_runs_min,
        agents_min=settings.crystal_agents_min,
        lower_min=settings.crystal_lower_min,
        last_min=settings.crystal_last_min,
        last=settings.crystal_last,
        dissolve_below=settings.dissolve_below,
        dissolve_last=settings.dissolve_last,
        fallen=settings.dissolve_fallen,
        alarm=settings.dissolve_alarm,
    )


class Learn:
    """The running stage: a projection's process that asks embed for vectors of tasks, and answers."""

    def __init__(self, shell: Shell, settings: LearnSettings, store: Store, folder: Path) -> None:
        self.shell = shell
        self.settings = settings
        self.process = ProjectionProcess(shell, self, folder, read_threads=settings.read_threads)
        self.rows = Rows(store)
        self.boards = Boards(self.rows, settings, _LOAD_S)
        self.studies = Studies(self.rows, self.boards, settings, shell.clock, shell.health.failed, self._encode)
        self.waves = Waves(shell, settings.waves_per_s)
        self.exports = Exports(self.process, self.rows, self.boards, self.position, self._recounting)
        hears = (self.boards, self.studies, self.waves, self.exports)
        self.learner = Learner(self.rows, hears, self.process.parts, shell.clock, _rules(settings))
        self.fresh = Fresh(self.learner)
        self.answers = Answers(self.rows, self.boards, shell.clock)
        self.asker = Asker(self.process, Lacking(self.learner))

    def wire(self) -> None:
        """Add loops and endpoints to the shell."""
        self.shell.on_start(self._look_seldom)
        self.shell.loop("purge", self._purge)
        self.shell.loop("recount", self._recount)
        self.shell.loop("waves", self.waves.run)
        self.shell.loop("studies", self._study)
        own = {
            "recommend": Endpoint(RecommendAsk, self._recommend),
            "predict": Endpoint(PredictAsk, self._predict),
            "procedure": Endpoint(OneAsk, self._procedure),
            "procedures": Endpoint(ProceduresAsk, self._procedures),
            "related": Endpoint(RelatedAsk, self._related),
            "patterns": Endpoint(PatternsAsk, self._patterns),
            "insights": Endpoint(InsightsAsk, self._insights),
            "export": Endpoint(ExportRequest, self.exports.answer),
        }
        self.process.wire(own | self.asker.wire())
        self.shell.on_stop(self._stop_reading)  # before the store is closed: stoppers run in reverse

    # --- what the process asks of us (adapters.projection_process.Projected)

    def position(self, part: int) -> Head:
        """Where reading resumes."""
        return self.learner.at[part]

    def apply(self, part: int, entries: Sequence[Entry]) -> None:
        """Apply; vectors come later."""
        self.learner.apply(part, entries)
        self.fresh.applied(part)

    def reset(self, part: int) -> None:
        """The log is another one."""
        self.learner.reset(part)
        self.fresh.reset(part)

    def heads(self, part: int, tenant: str) -> dict[str, Head]:
        """Up to where runs count, and up to where they count for tasks that mean the same: those have their vectors."""
        return {ARM: self.fresh.runs(part, tenant), TASKS: self.fresh.tasks(part, tenant)}

    def passed(self, part: int) -> dict[str, Head]:
        """What is erased is gone from tasks at once, and from counts when those of its procedures were made anew."""
        return {ARM: self.fresh.passed(part), TASKS: self.learner.at[part]}

    def counts(self, tenant: str) -> Counts:
        """What waits to be purged or embedded."""
        erased, pending = self.learner.erased, self.learner.vectors.pending
        waiting = self.learner.recounts.waiting(tenant)
        counts: Counts = {"purging": len(erased), "model": self.rows.model(), "recounting": waiting}
        if tenant:
            counts["purging"] = int(tenant in erased)  # how many others have is not this one's business
            counts["pending_tasks"] = pending.get(tenant, 0)
            counts["model_behind"] = self.studies.behind(tenant, "model", self._whole(tenant))
        return counts

    def close(self) -> None:
        """Close the store."""
        self.rows.store.close()

    # --- questions

    async def _recommend(self, part: int, asked: RecommendAsk) -> Found[RecommendFound]:
        def answer(board: Board, vector: bytes, learnt: Learnt) -> RecommendFound:
            return self.answers.recommend(board, asked.tenant, asked.ask, vector, learnt)

        return await self._compared(asked, self._at(asked.tenant), answer)

    async def _predict(self, part: int, asked: PredictAsk) -> Found[PredictFound]:
        def answer(board: Board, vector: bytes, learnt: Learnt) -> PredictFound:
            return self.answers.predict(board, asked.tenant, asked.ask, vector, learnt)

        return await self._compared(asked, self._at(asked.tenant), answer)

    async def _procedure(self, part: int, asked: OneAsk) -> Found[ProcedureDetail]:
        at = self._at(asked.tenant)
        boost = self._boosts(asked.tenant).get(asked.ask.id)
        value = contagion.value(boost, self.shell.clock.now_ms()) if boost else 0.0
        work = partial(self.answers.procedure, asked.tenant, asked.ask.id, value)
        return Found(await self.process.in_reader(work), at)

    async def _procedures(self, part: int, asked: ProceduresAsk) -> Found[list[ProcedureItem]]:
        at = self._at(asked.tenant)
        found, more = await self.process.in_reader(
            partial(self.answers.procedures, asked.tenant, asked.ask, asked.start)
        )
        return Found(found, at, more=more, left_out=self._left_out(asked.tenant))

    async def _related(self, part: int, asked: RelatedAsk) -> Found[list[RelatedProcedure]]:
        at = self._at(asked.tenant)
        known = await self.process.in_reader(partial(self.rows.procedure, asked.tenant, hashed(asked.ask.id)))
        if known is None:
            return Found(None, at)
        study = await self._studied(asked.tenant, "related", self._whole(asked.tenant))
        return Found(await self.process.in_reader(partial(shown.related, study.found, asked.ask)), study.at)

    async def _patterns(self, part: int, asked: PatternsAsk) -> Found[PatternsFound]:
        study = await self._studied(asked.tenant, "patterns", self._at(asked.tenant))
        now_ms = self.shell.clock.now_ms()
        work = partial(shown.patterns, study.found, asked.ask, asked.start, now_ms)
        found, more = await self.process.in_reader(work)
        return Found(found, study.at, more=more)

    async def _insights(self, part: int, asked: InsightsAsk) -> Found[list[InsightItem]]:
        study = await self._studied(asked.tenant, "insights", self._whole(asked.tenant))
        degraded = bool(self.learner.vectors.pending.get(asked.tenant))
        return Found(shown.insights(study.found, asked.ask), study.at, degraded=degraded)

    async def _studied(self, tenant: str, kind: Kind, at: Head) -> Study:
        """What was found in many runs, as of what is learnt or a little before.

        Raises:
            RequestFailed: `unavailable`; it is still being made for the first time.
        """
        study = await self.studies.get(tenant, kind, at)
        if study is None:
            raise RequestFailed("unavailable", "this is being made of the latest runs; ask again in a few seconds")
        return study

    async def _compared(
        self, asked: RecommendAsk | PredictAsk, at: Head, answer: Callable[[Board, bytes, Learnt], T]
    ) -> Found[T]:
        """An answer for a task, from its vector and what was found so far, and what of that was missing."""
        tenant = asked.tenant
        degraded = self._degraded(tenant, asked.vector, asked.model)
        vector = asked.vector if asked.model == self.rows.model() else b""
        learnt, lacks = await self._learnt(tenant, vector)

        def compared() -> Found[T]:
            board = self.boards.compared(tenant)
            whole = board.complete  # before it is answered
            missed = lacks if lacks and self.rows.varied(tenant, 1) else ()  # of no run there is nothing to be found
            return Found(answer(board, vector, learnt), at, degraded=degraded or not whole, lacks=missed)

        return await self.process.in_reader(compared)

    async def _learnt(self, tenant: str, vector: bytes) -> tuple[Learnt, Sequence[Kind]]:
        """What was found so far, and what of it was not yet; what is old is being made again meanwhile.

        Who has no vector waits for words, and who has too few tasks for a model waits for words and for what repeated
        runs tell: that takes milliseconds and needs no vectors.
        """
        at, whole, lacking = self._at(tenant), self._whole(tenant), tenant in self.learner.vectors.pending

        def asked() -> tuple[Study | None, Study | None]:
            words = self.studies.ask(tenant, "words", at)
            return words, self.studies.ask(tenant, "model", whole, lacking=lacking)

        few = None in asked() and await self.process.in_reader(partial(self.studies.few, tenant))
        waits = [self.studies.get(tenant, "words", at)] if few or not vector else []
        if few:
            waits.append(self.studies.get(tenant, "model", whole))
        await asyncio.gather(*waits)  # where others' are being made both may take as long as one can wait
        words, model = found = asked()
        lacks = [kind for kind, each in zip(ANSWERING, found, strict=True) if each is None]
        fitted, version = (model.found, model.at.rseq) if model else (None, 0)
        return Learnt(fitted, self._boosts(tenant), words.found if words else None, version), lacks

    def _left_out(self, tenant: str) -> int:
        """Procedures that are not on the tenant's board, loaded or not."""
        return max(0, totals(self.rows, tenant).procedures - self.settings.procedures_max)

    def _recounting(self, tenant: str) -> bool:
        """Whether counts hold what a forget erased."""
        return self.learner.recounts.since(tenant) is not None

    def _boosts(self, tenant: str) -> Mapping[str, contagion.Boost]:
        related = self.studies.ask(tenant, "related", self._whole(tenant)) if self.settings.contagion else None
        return related.found.boosts if related else NO_BOOSTS

    async def _encode(self, texts: list[str]) -> Sequence[bytes] | None:
        """Vectors of what definitions say; None if embed does not tell, or another model's."""
        subject = subjects.service("embed", "any", "encode")
        try:
            reply = await ask(self.shell.nc, subject, EncodeRequest(texts), EncodeReply, _ENCODE_S)
        except RequestFailed:
            return None
        told: list[bytes] = reply.vectors
        return told if reply.model == self.rows.model() and len(told) == len(texts) else None

    def _at(self, tenant: str) -> Head:
        """Up to where it is learnt; taken before the answer: what comes meanwhile is more."""
        return self.process.at(tenant)[ARM]

    def _whole(self, tenant: str) -> Head:
        """Up to where every task has its vector: what is found while some lack theirs is made again when they came."""
        return self.process.at(tenant)[TASKS]

    def _degraded(self, tenant: str, vector: bytes, model: str) -> bool:
        """Whether tasks are compared without vectors, all or some; who has no task misses none."""
        if self.learner.vectors.pending.get(tenant):
            return True
        return bool(self.rows.model()) and (not vector or model != self.rows.model())

    # --- loops

    async def _look_seldom(self) -> None:
        look_seldom()

    async def _study(self) -> None:
        """Make models before somebody asks."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for tenant in self.studies.quiet():
                with suppress(RequestFailed):  # another shard owns it now
                    if not self.learner.vectors.pending.get(tenant):  # else they come, and it is told again
                        self.studies.ask(tenant, "model", self._whole(tenant))
                        self.studies.ask(tenant, "words", self._at(tenant))

    async def _stop_reading(self) -> None:
        await self.studies.close()
        await asyncio.to_thread(self.boards.close)

    async def _recount(self) -> None:
        """Count on in turns, between which the writer does what else there is."""
        while True:
            await asyncio.sleep(_RECOUNT_LOOK_S)
            while self.learner.recounts.waiting():
                await self.process.in_writer(self.learner.recount)
                self.process.pulse()

    async def _purge(self) -> None:
        """Rewrite what holds erased words."""
        while True:
            await asyncio.sleep(_PURGE_DELAY_S)
            done = await self.process.in_writer(self.learner.purgeable)
            if done:
                await asyncio.to_thread(self.rows.store.compact)
                await self.process.in_writer(partial(self.learner.purged, done))
