"""Where persist is asked: one subscription for all partitions if all are here, else one for each that is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from jetmem.adapters.nats_shell import Endpoint, Served, Shell
from jetmem_schemas import subjects

_EVERY: Final = "*"
_ALL: Final = "all"


class Places:
    """Nobody answers on a partition's subject but its owner, so that who asks hears at once that there is none.

    Attributes:
        table: The verbs; set before `wire`.
    """

    def __init__(self, shell: Shell) -> None:
        self.table: Mapping[str, Endpoint] = {}
        self._shell = shell
        self._served: dict[int | str, Served] = {}

    def wire(self, parts: Collection[int], *, stay: bool) -> None:
        """Answer for these partitions once the process runs; `stay`: none of them is to leave."""
        if stay and len(parts) == subjects.PARTITIONS:
            self._add(_EVERY)
            return
        self._add(_ALL)
        for part in parts:
            self._add(part)

    async def begin(self, part: int) -> None:
        """Answer for a partition from now on."""
        if part not in self._served and _EVERY not in self._served:
            await self._add(part).start()

    async def keep(self, parts: Collection[int]) -> None:
        """Answer for no others: what has come for them is still answered."""
        for place in list(self._served):
            if isinstance(place, int) and place not in parts:
                gone = self._served.pop(place, None)
                if gone is not None:
                    await gone.stop()

    def _add(self, place: int | str) -> Served:
        served = self._shell.serve(subjects.service_all(self._shell.stage, place), self.table)
        self._served[place] = served
        return served
