"""What was found in the latest runs of tenants: made aside when somebody asks, kept until it is old.

A model is fitted in a process of its own, one at a time, and so are many words; the rest in a thread. While few tenants
have one, and for those that do, it is made before anybody asks, once nothing new comes.

A forget makes all of its tenant's void: nothing answers that was made with what was erased.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from jetmem.adapters.aside import aside
from jetmem.adapters.tantivy_text import analyze
from jetmem.domain.procedures import repeats
from jetmem.domain.procedures.kernels import Vectors
from jetmem.domain.procedures.prediction import CLUSTERS_MIN, HOWS, Sample
from jetmem.domain.procedures.repeats import Worths
from jetmem.learn import similar, study
from jetmem.learn.boards import Boards
from jetmem.learn.estimating import rates
from jetmem.learn.ports import News
from jetmem.learn.rows import Rows, hashed
from jetmem.learn.sample import Sampled, sampled
from jetmem.learn.settings import LearnSettings
from jetmem.learn.study import Model
from jetmem.runtime import metrics
from jetmem.runtime.clock import Clock
from jetmem.runtime.scraping import at_scrape
from jetmem_schemas.internal import Head

Kind: TypeAlias = Literal["related", "patterns", "insights", "words", "model"]
Encode: TypeAlias = Callable[[list[str]], Awaitable[Sequence[bytes] | None]]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
#: Found of so many tenants at once, those that asked last, …
_KEPT_MAX: Final[dict[Kind, int]] = {"related": 64, "patterns": 64, "insights": 64, "words": 64, "model": 64}
#: … and in so many bytes of all tenants and kinds, or the last alone. Of one tenant, words are 130 MB at most, a model
#: 100, patterns 18, relations 5.
BYTES_MAX: Final = 160_000_000
#: What answers rest on beside much else. Put away it rests: where more tenants ask in turn than can be held, each would
#: be made again for every question.
ANSWERING: Final[tuple[Kind, ...]] = ("words", "model")
_AWAY_MAX: Final = 10_000
#: Models of so many tenants are made unasked.
_UNASKED_MAX: Final = 6
#: Of insights.
_SMALL_BYTES: Final = 500_000
#: Samples of runs in memory at once (`sample.BYTES_MAX`).
SAMPLES_MAX: Final = 2
#: Who asks waits so long for what is being made, then takes what was made before.
WAIT_S: Final = 1.2
_NICE: Final = 10
#: Tasks, or characters of them, whose words are looked at in another process: 20,000 take seconds.
_ASIDE_FROM: Final = 1_000
_ASIDE_CHARS: Final = 200_000
#: Definitions that embed is asked about at once: other questions wait behind them.
_ENCODED_AT_ONCE: Final = 8
#: What took long is made again only after so many times as long: a model may take seconds.
_TIMES: Final = 20.0
#: … but at once when so many more tasks, as a share of those it was made of, have their vectors: it was made too early.
#: Each is made of that much more than the one before, so all of them together cost some ten times the last.
GROWN: Final = 0.1
#: A model waits so long for tasks' vectors that are being made, if it need not answer for them.
VECTORS_S: Final = 120.0
#: Nothing new for so long, and a model is made of what is there.
QUIET_S: Final = 1.0


class Study(NamedTuple):
    """What was found, up to which entry, when (monotonic, seconds), and how long it took.

    `tasks`: with vectors, that it was made of; `came`: tasks of the tenant that had got theirs in this process by then;
    `lacked`: whether some still lacked theirs; `size`: memory, about, in bytes.
    """

    found: Any
    at: Head
    made_s: float
    took_s: float
    tasks: int = 0
    came: int = 0
    lacked: bool = False
    size: int = 0


class Studies:
    """Event loop only, but for what `ports.Hears` asks, which any thread may call."""

    def __init__(
        self, rows: Rows, boards: Boards, settings: LearnSettings, clock: Clock,
        failed: Callable[[BaseException], None], encode: Encode,
    ) -> None:  # fmt: skip
        """Study a store.

        Args:
            rows: The store.
            boards: What is in memory of it.
            settings: How much, how often.
            clock: Of the process.
            failed: Called when a study could not be made.
            encode: Vectors of texts of the model that the tasks' are of, None if they cannot be had now.
        """
        self._rows = rows
        self._boards = boards
        self._settings = settings
        self._clock = clock
        self._failed = failed
        self._encode = encode
        self._kept: OrderedDict[tuple[str, Kind], Study] = OrderedDict()
        self._making: dict[tuple[str, Kind], asyncio.Task[None]] = {}
        self._lock = threading.Lock()
        self._voids: dict[str, int] = {}
        self._cleared = 0
        #: Per tenant: tasks that got their vectors, when something last came, since when some lack.
        self._came: Counter[str] = Counter()
        #: What could not be made is not tried again before then.
        self._rests: dict[tuple[str, Kind], float] = {}
        #: What was put away rests likewise.
        self._away: dict[tuple[str, Kind], float] = {}
        self._told: dict[str, float] = {}
        self._lacking: dict[tuple[str, Kind], float] = {}
        self._fitting = asyncio.Semaphore(1)
        self._wording = asyncio.Semaphore(1)
        self._sampling = asyncio.Semaphore(SAMPLES_MAX)
        self._pool = ThreadPoolExecutor(1, "study", initializer=_be_nice)
        at_scrape(self)

    async def get(self, tenant: str, kind: Kind, at: Head) -> Study | None:
        """What is found, made again if there is more to find up to `at`; None if that takes longer than one can wait.

        Args:
            tenant: Whose.
            kind: What.
            at: The last entry applied.
        """
        kept = self.ask(tenant, kind, at)
        making = self._making.get((tenant, kind))
        if making is not None and (kept is None or kept.at.rseq < at.rseq):
            await asyncio.wait([making], timeout=WAIT_S)
        return self._now(tenant, kind)

    def ask(self, tenant: str, kind: Kind, at: Head, *, lacking: bool = False) -> Study | None:
        """What is found now; if it is old, it is being made again.

        Args:
            tenant: Whose.
            kind: What.
            at: The last entry applied.
            lacking: Whether tasks lack their vectors: nothing is begun for `VECTORS_S` then.
        """
        kept = self._now(tenant, kind)
        waits = self._waits((tenant, kind), lacking=lacking)
        if not waits and (tenant, kind) not in self._making and self._is_old(tenant, kind, kept, at, lacking):
            task = asyncio.create_task(self._make(tenant, kind, at, lacking))
            self._making[tenant, kind] = task
            task.add_done_callback(lambda _: self._making.pop((tenant, kind), None))
        return kept

    def few(self, tenant: str) -> bool:
        """Whether a tenant has too few tasks for a model to be fitted; reads the store."""
        return not self._rows.varied(tenant, CLUSTERS_MIN)

    def behind(self, tenant: str, kind: Kind, at: Head) -> int:
        """Entries of the partition that came after what is found; all of them if nothing is."""
        kept = self._now(tenant, kind)
        return at.rseq - (kept.at.rseq if kept else 0)

    def tell(self, tenant: str, news: News) -> None:
        """What was found is void when something was erased."""
        with self._lock:
            self._came[tenant] += sum(raw is not None for raw in news.tasks.values())
            if tenant in self._told or len(self._told) < _UNASKED_MAX:
                self._told[tenant] = self._clock.monotonic()
            if news.erased:
                self._voids[tenant] = self._voids.get(tenant, 0) + 1
                for kind in KINDS:
                    self._kept.pop((tenant, kind), None)

    def clear(self) -> None:
        """Everything was changed underneath."""
        with self._lock:
            self._cleared += 1
            self._kept.clear()
            self._came.clear()

    def quiet(self) -> list[str]:
        """Tenants of whom a model is to be made unasked: something came, and then nothing for `QUIET_S`.

        They are those of whom one is held, and others while there is room. Each is told once.
        """
        now = self._clock.monotonic()
        with self._lock:
            still = [tenant for tenant, since in self._told.items() if now - since >= QUIET_S]
            for tenant in still:
                del self._told[tenant]
            held = {tenant for tenant, kind in self._kept if kind == "model"}
        room = _UNASKED_MAX - len(held)
        new = [tenant for tenant in still if tenant not in held]
        return [tenant for tenant in still if tenant in held or tenant in new[: max(0, room)]]

    def observe(self) -> None:
        """Say which models answer, and how much better than plain rates they are; from any thread."""
        with self._lock:
            models = [kept.found.fitted for (_, kind), kept in self._kept.items() if kind == "model"]
        fitted = [model for model in models if model is not None and model.held.loss]
        counted = Counter(model.how for model in fitted)
        for how in HOWS:
            metrics.models.labels(how).set(counted[how])
        gains = [model.held.loss["rate"] - model.held.loss[model.how] for model in fitted]
        metrics.model_gain.set(sum(gains) / len(gains) if gains else 0.0)

    async def close(self) -> None:
        """Wait for what is being made: nobody reads a store that is being closed."""
        for task in list(self._making.values()):
            task.cancel()
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    def _now(self, tenant: str, kind: Kind) -> Study | None:
        with self._lock:
            kept = self._kept.get((tenant, kind))
            if kept is not None:
                self._kept.move_to_end((tenant, kind))
            return kept

    def _waits(self, key: tuple[str, Kind], *, lacking: bool) -> bool:
        if not lacking:
            self._lacking.pop(key, None)
            return False
        now = self._clock.monotonic()
        return now - self._lacking.setdefault(key, now) < VECTORS_S

    def _is_old(self, tenant: str, kind: Kind, kept: Study | None, at: Head, lacking: bool) -> bool:
        if self._resting((tenant, kind)):
            return False
        if kept is None:
            return True
        if kind != "patterns" and self._came[tenant] - kept.came > GROWN * kept.tasks:
            return True
        whole = kept.lacked and not lacking  # it was made without all vectors, which are there now
        rest_s = self._settings.study_every_s if whole else self._rest_s(kept)
        return kept.at.rseq < at.rseq and self._clock.monotonic() - kept.made_s >= rest_s

    async def _make(self, tenant: str, kind: Kind, at: Head, lacked: bool) -> None:
        since, began, came = self._since(tenant), self._clock.monotonic(), self._came[tenant]
        try:
            found, tasks = await self._made(tenant, kind)
            size = await asyncio.get_running_loop().run_in_executor(self._pool, _size, found)
        except Exception as error:  # an answer is missing, learning goes on
            self._failed(error)
            self._rests[tenant, kind] = self._clock.monotonic() + self._settings.study_every_s
            return
        self._rests.pop((tenant, kind), None)
        self._away.pop((tenant, kind), None)
        now = self._clock.monotonic()
        metrics.study_seconds.labels(kind).observe(now - began)
        with self._lock:
            if since != self._since(tenant):
                return  # it may be made of what was erased meanwhile
            self._kept[tenant, kind] = Study(found, at, now, now - began, tasks, came, lacked, size)
            self._kept.move_to_end((tenant, kind))
            self._put_away(kind)

    def _put_away(self, kind: Kind) -> None:
        """Those that nobody asked for the longest, where they are too many or too much."""
        same = [key for key in self._kept if key[1] == kind]
        gone = {key: self._kept.pop(key) for key in same[: max(0, len(same) - _KEPT_MAX[kind])]}
        size = sum(each.size for each in self._kept.values())
        while size > BYTES_MAX and len(self._kept) > 1:
            key, first = self._kept.popitem(last=False)
            gone[key] = first
            size -= first.size
        now = self._clock.monotonic()
        for key, each in gone.items():
            if key[1] in ANSWERING:
                self._away[key] = now + self._rest_s(each)
        if len(self._away) > _AWAY_MAX:
            self._away = {key: until for key, until in self._away.items() if until > now}

    def _resting(self, key: tuple[str, Kind]) -> bool:
        return self._clock.monotonic() < max(self._rests.get(key, 0.0), self._away.get(key, 0.0))

    def _rest_s(self, kept: Study) -> float:
        return max(self._settings.study_every_s, _TIMES * kept.took_s)

    def _since(self, tenant: str) -> tuple[int, int]:
        return self._voids.get(tenant, 0), self._cleared

    async def _made(self, tenant: str, kind: Kind) -> tuple[Any, int]:
        """What is found, and the tasks with vectors that it is made of."""
        in_pool = partial(asyncio.get_running_loop().run_in_executor, self._pool)
        if kind == "words":
            return await self._words(tenant)
        if kind == "model":
            return await self._model(tenant)
        async with self._sampling:
            if kind != "related":
                return await in_pool(partial(self._study, tenant, kind))
            of, defined, said = await in_pool(partial(self._for_related, tenant))
            known = self._now(tenant, kind)
            meanings = await self._meanings(said, known.found.meanings if known else {})
            work = partial(study.related, of, spread=self._settings.contagion, defined=defined, meanings=meanings)
            return await in_pool(work), self._tasks(of)

    async def _model(self, tenant: str) -> tuple[Model, int]:
        """As `_made`; fitted of one tenant at a time. Who has too few tasks waits for nobody's."""
        in_pool = partial(asyncio.get_running_loop().run_in_executor, self._pool)
        if await in_pool(partial(self.few, tenant)):
            async with self._sampling:
                tasks, (*_, worths) = await in_pool(partial(self._for_model, tenant))
            return Model(None, {}, {}, worths), tasks
        async with self._fitting:
            async with self._sampling:
                tasks, given = await in_pool(partial(self._for_model, tenant))
            if len(given[0].situations) < CLUSTERS_MIN:  # runs may name no procedure
                return Model(None, {}, {}, given[3]), tasks
            return await aside(study.model, *given, self._settings.boosting), tasks

    async def _words(self, tenant: str) -> tuple[Any, int]:
        """As `_made`; of one tenant at a time."""
        in_pool = partial(asyncio.get_running_loop().run_in_executor, self._pool)
        async with self._wording:
            async with self._sampling:
                tasks, told = await in_pool(partial(self._for_words, tenant))
            if len(told[0]) < _ASIDE_FROM and sum(map(len, told[0])) < _ASIDE_CHARS:
                return await in_pool(partial(similar.worded, *told, analyze)), tasks
            async with self._fitting:
                return await aside(similar.worded, *told, analyze), tasks

    def _for_words(self, tenant: str) -> tuple[int, tuple[list[str], list[bytes], list[bool]]]:
        """Tasks with vectors, texts of all, their keys, and which lack theirs."""
        of = sampled(self._rows, tenant, self._settings.study_runs)
        return self._tasks(of), similar.told(of)

    def _for_related(self, tenant: str) -> tuple[Sampled, dict[str, bytes], dict[bytes, str]]:
        """Runs, and what definitions of their procedures say: its hash by procedure, the text by hash."""
        of = sampled(self._rows, tenant, self._settings.study_runs)
        found = {name: self._rows.definition(tenant, hashed(name)) for name in study.named(of)}
        said = {name: text for name, each in found.items() if each is not None and (text := each.text)}
        return of, {name: hashed(text) for name, text in said.items()}, {hashed(text): text for text in said.values()}

    async def _meanings(self, texts: Mapping[bytes, str], known: Mapping[bytes, Vectors]) -> dict[bytes, Vectors]:
        """Unit vectors of definitions; those that embed does not tell are absent, and asked for the next time."""
        held = {key: vector for key, vector in known.items() if key in texts}
        lacking = sorted(texts.keys() - held.keys(), key=texts.__getitem__)
        for start in range(0, len(lacking), _ENCODED_AT_ONCE):
            some = lacking[start : start + _ENCODED_AT_ONCE]
            made = await self._encode([texts[key] for key in some])
            if made is None:
                break
            held |= {key: np.frombuffer(raw, dtype=np.float32) for key, raw in zip(some, made, strict=True) if raw}
        return held

    def _study(self, tenant: str, kind: Kind) -> tuple[Any, int]:
        of = sampled(self._rows, tenant, self._settings.study_runs)
        tasks = self._tasks(of)
        if kind == "patterns":
            return study.recurring(of), tasks
        return study.told(of), tasks

    def _for_model(self, tenant: str) -> tuple[int, tuple[Sample, list[str], dict[str, float], Worths]]:
        """Tasks with vectors, and what a model is fitted to."""
        of = sampled(self._rows, tenant, self._settings.study_runs)
        sample, names = of.situations()
        standing = self._boards.get(tenant).standing(self._clock.now_ms())
        held = dict(zip(standing.names, rates(standing).tolist(), strict=True))
        return self._tasks(of), (sample, names, held, repeats.worths(of.runs))

    def _tasks(self, of: Sampled) -> int:
        """Those with vectors; of a full sample more than can come: it does not grow, it moves on."""
        return len(of.vectors) if len(of.runs) < self._settings.study_runs else sys.maxsize


def _size(found: Any) -> int:
    size: int = getattr(found, "nbytes", _SMALL_BYTES)
    return size


def _be_nice() -> None:
    os.nice(_NICE)  # of this thread alone, on Linux
