"""Counts of a tenant's procedures for others, exact or noised; an operator's command asks for them in pages."""

from __future__ import annotations

import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from jetmem.adapters.projection_process import ProjectionProcess
from jetmem.domain.procedures import federation
from jetmem.domain.procedures.federation import Export, Shared
from jetmem.learn.boards import Boards
from jetmem.learn.ports import News
from jetmem.learn.rows import Rows
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.internal import Head
from jetmem_schemas.sharing import PAGE, ExportReply, ExportRequest

#: Exports of which pages are still to be asked.
_KEPT_MAX: Final = 4
#: Row of `meta`: what noise is drawn from.
_SECRET: Final = b"federation"
_SECRET_BYTES: Final = 32


class _Key(NamedTuple):
    tenant: str
    version: int
    source: str
    epsilon: float


class Exports:
    """Makes exports and keeps the latest for as long as their pages are asked; `ports.Hears`."""

    def __init__(
        self,
        process: ProjectionProcess,
        rows: Rows,
        boards: Boards,
        at: Callable[[int], Head],
        recounting: Callable[[str], bool],
    ) -> None:
        """Export from boards.

        Args:
            process: Whose threads.
            rows: Of the store.
            boards: Counts in memory.
            at: The last entry applied of a partition; asked on the writer thread.
            recounting: Whether a tenant's counts still hold what a forget erased; likewise.
        """
        self._process = process
        self._rows = rows
        self._boards = boards
        self._at = at
        self._recounting = recounting
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, tuple[Export, int]] = OrderedDict()

    async def answer(self, part: int, asked: ExportRequest) -> ExportReply:
        """One page.

        Raises:
            RequestFailed: `bad_field`; `bad_cursor` if the version asked for is no longer held; `unavailable`: another
                shard owns the tenant, or its procedures are still being counted anew.
        """
        if asked.epsilon and not federation.EPSILON_MIN <= asked.epsilon < math.inf:
            raise RequestFailed("bad_field", f"epsilon must be at least {federation.EPSILON_MIN:g}, or 0", "epsilon")
        place = self._process.part_of(asked.tenant)
        if asked.start:
            export, left_out = self._held(asked)
        else:
            # it is loaded where questions wait for it, then taken where nothing is written meanwhile: the same version
            # with other counts and the same noise would tell what was added
            await self._process.in_reader(partial(self._boards.get, asked.tenant))
            export, left_out = await self._process.in_writer(partial(self._take, place, asked))
        page = islice(export.procedures.items(), asked.start, asked.start + PAGE)
        procedures = [(name, each.runs, each.successes) for name, each in page]
        return ExportReply(export.version, procedures, len(export.procedures) > asked.start + PAGE, left_out)

    def tell(self, tenant: str, news: News) -> None:
        """What was erased is told no more."""
        if news.erased:
            with self._lock:
                for key in [key for key in self._kept if key.tenant == tenant]:
                    del self._kept[key]

    def clear(self) -> None:
        """Everything was changed underneath."""
        with self._lock:
            self._kept.clear()

    def _held(self, asked: ExportRequest) -> tuple[Export, int]:
        with self._lock:
            kept = self._kept.get(_Key(asked.tenant, asked.version, asked.source, asked.epsilon))
        if kept is None:
            raise RequestFailed("bad_cursor", "this export is no longer held; begin again", "version")
        return kept

    def _take(self, place: int, asked: ExportRequest) -> tuple[Export, int]:
        if self._recounting(asked.tenant):  # asked here: no forget comes between this and what is taken
            raise RequestFailed(
                "unavailable", "procedures are being counted anew after a forget; try again in a minute"
            )
        board = self._boards.get(asked.tenant)
        standing = board.standing(0)
        found = zip(standing.names, standing.all_runs, standing.all_won, strict=False)
        counts = {name: Shared(float(runs), float(won)) for name, runs, won in found if name and runs}
        version = self._at(place).rseq
        key = self._secret() if asked.epsilon else ""
        export = federation.exported(asked.source, version, counts, asked.epsilon, f"{key}\0{asked.tenant}")
        kept = export, len(counts) - len(export.procedures) + board.left_out
        with self._lock:
            self._kept[_Key(asked.tenant, version, asked.source, asked.epsilon)] = kept
            while len(self._kept) > _KEPT_MAX:
                self._kept.popitem(last=False)
        return kept

    def _secret(self) -> str:
        """Drawn once; who knew it could take the noise off. Writer thread only."""
        held = self._rows.store.get("meta", _SECRET)
        if held is None:
            held = secrets.token_bytes(_SECRET_BYTES)
            batch = self._rows.store.batch()
            batch.put("meta", _SECRET, held)
            self._rows.store.write(batch, sync=True)
        return held.hex()
