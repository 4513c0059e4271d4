"""`jetmem toc rebuild` as the stage answers it: note it durably, or rehearse it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import partial
from typing import Any, Final

from jetmem.adapters.nats_shell import Endpoint
from jetmem.adapters.projection_process import ProjectionProcess
from jetmem.runtime.errors import RequestFailed
from jetmem.summarize.handler import Summarizer
from jetmem.summarize.rehearsal import Rehearsal
from jetmem_schemas.remaking import RemakeReply, RemakeRequest, TenantsReply

#: A rehearsal leaves the writer to others after so long.
_TURN_S: Final = 0.05


class Remaking:
    """The endpoints. One rehearsal at a time."""

    def __init__(self, process: ProjectionProcess, summarizer: Summarizer) -> None:
        self._process = process
        self._summarizer = summarizer
        self._rehearsing = False

    def endpoints(self) -> Mapping[str, Endpoint]:
        """What is answered."""
        return {
            "tenants": Endpoint(dict[str, Any], self._tenants),
            "remake": Endpoint(RemakeRequest, self._remake),
        }

    async def _tenants(self, part: int, request: dict[str, Any]) -> TenantsReply:
        return TenantsReply(await self._process.in_reader(partial(self._summarizer.rows.tenants, part)))

    async def _remake(self, part: int, request: RemakeRequest) -> RemakeReply:
        self._process.part_of(request.tenant)
        try:
            first = date.fromisoformat(request.first) if request.first else None
        except ValueError as error:
            raise RequestFailed("bad_field", "from must be a day like 2026-01-15", "from") from error
        paused = self._summarizer.tenants.paused(request.tenant)
        if request.dry_run:
            return RemakeReply(paused, await self._rehearse(request.tenant, first))
        await self._process.in_writer(partial(self._summarizer.remake, request.tenant, first))
        return RemakeReply(paused)

    async def _rehearse(self, tenant: str, first: date | None) -> dict[str, tuple[int, int]]:
        if self._rehearsing:
            raise RequestFailed("busy", "another dry run is under way; try again when it is done")
        self._rehearsing = True
        it = self._summarizer
        try:
            make = partial(Rehearsal, it.rows, it.maker, self._process.shell.clock, tenant, first, it.tenants.zone)
            rehearsal: Rehearsal = await self._process.in_writer(make)
            while await self._process.in_writer(partial(rehearsal.some, _TURN_S)):
                continue
        finally:
            self._rehearsing = False
        return rehearsal.levels
