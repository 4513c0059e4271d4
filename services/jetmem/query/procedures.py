"""`recommend`, `predict` and the other questions about procedures, which learn alone can answer: with it down, nobody.

What an answer lacks is in its `degraded`: `vector`, where tasks are compared by words alone, without embed or the
vectors of tasks; `model`, while a tenant's first model of success is being fitted; `words`, while those of its tasks,
which put evidence in order, are being looked at for the first time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from jetmem.query import core
from jetmem.query.core import Standing
from jetmem.query.encoding import encode
from jetmem.query.patience import Patience
from jetmem.query.ports import Stages
from jetmem.query.progress import awaited
from jetmem.query.settings import QuerySettings
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas import procedure_replies, procedures, procedures_asked
from jetmem_schemas.asking import SEQ_MAX, Reply
from jetmem_schemas.internal import EncodeReply
from jetmem_schemas.procedures_asked import Found

LEARN: Final = "learn"
ARM: Final = "procedures"
_VECTOR: Final = "vector"
#: Of a task that could not be encoded.
_NO_VECTOR: Final = EncodeReply("", [b""])
T = TypeVar("T")
Item = TypeVar("Item", bound=msgspec.Struct)
Compared = TypeVar("Compared", procedures.Recommend, procedures.Predict)
Answer = Callable[[str, Any, Standing, Patience], Awaitable[Reply]]


class ProcedureAnswers:
    """One coroutine for each verb about procedures.

    All raise `RequestFailed`: `unavailable`, `timeout` where learn does not answer, `not_found` where there is no such
    procedure, `bad_cursor`.
    """

    def __init__(self, stages: Stages, settings: QuerySettings) -> None:
        self._stages = stages
        self._settings = settings

    def verbs(self) -> dict[str, Answer]:
        """What is answered here, by verb."""
        return {
            "recommend": self._recommend,
            "predict": self._predict,
            "procedure": self._procedure,
            "procedures": self._procedures,
            "related": self._related,
            "patterns": self._patterns,
            "insights": self._insights,
        }

    async def _ask(
        self,
        verb: str,
        tenant: str,
        asked: Any,
        kind: type[Found[T]],
        rseq: int,
        standing: Standing,
        patience: Patience,
    ) -> Found[T]:
        found = await self._stages.ask(LEARN, verb, tenant, asked, kind, patience.timeout_s())
        standing.answered(ARM, found.at, rseq)
        if found.degraded:
            standing.without([_VECTOR])
        standing.without(found.lacks, covered=True)  # counts hold all runs; what is made of them aside is always older
        return found

    async def _awaited(self, tenant: str, standing: Standing, patience: Patience) -> int:
        """Counts never wait for vectors."""
        return await awaited(self._stages, LEARN, tenant, standing, patience, [ARM])

    async def _compared(self, tenant: str, standing: Standing, patience: Patience) -> int:
        """What compares tasks waits until those have their vectors, too."""
        return await awaited(self._stages, LEARN, tenant, standing, patience)

    async def _prepared(self, tenant: str, task: str, standing: Standing, patience: Patience) -> tuple[int, bytes, str]:
        """The entry to be covered, and the task's vector with its model: encoded while that entry is waited for."""
        rseq, encoded = await asyncio.gather(
            self._compared(tenant, standing, patience), encode(self._stages, self._settings, tenant, task)
        )
        if encoded is None:
            standing.without([_VECTOR])
        told = encoded or _NO_VECTOR
        return rseq, told.vectors[0], told.model

    async def _recommend(
        self, tenant: str, request: procedures.Recommend, standing: Standing, patience: Patience
    ) -> procedure_replies.RecommendReply:
        """Of what does not fit one reply the best are shown."""
        rseq, vector, model = await self._prepared(tenant, request.task, standing, patience)
        asked = procedures_asked.RecommendAsk(tenant, _packable(request), vector, model)
        kind = Found[procedures_asked.RecommendFound]
        found = (await self._ask("recommend", tenant, asked, kind, rseq, standing, patience)).value
        items = found.procedures if found else []
        return procedure_replies.RecommendReply(
            **standing.common(patience.took_ms()),
            procedures=_first(items),
            cold=found is None or found.cold,
            similar=found.similar if found else [],
        )

    async def _predict(
        self, tenant: str, request: procedures.Predict, standing: Standing, patience: Patience
    ) -> procedure_replies.PredictReply:
        rseq, vector, model = await self._prepared(tenant, request.task, standing, patience)
        asked = procedures_asked.PredictAsk(tenant, _packable(request), vector, model)
        kind = Found[procedures_asked.PredictFound]
        found = _known(await self._ask("predict", tenant, asked, kind, rseq, standing, patience), "procedure")
        return procedure_replies.PredictReply(
            **standing.common(patience.took_ms()),
            probability=found.probability,
            interval=found.interval,
            why=found.why,
            cold=found.cold,
        )

    async def _procedure(
        self, tenant: str, request: procedures.ProcedureAsk, standing: Standing, patience: Patience
    ) -> procedure_replies.ProcedureReply:
        rseq = await self._awaited(tenant, standing, patience)
        asked = procedures_asked.OneAsk(tenant, request)
        kind = Found[procedures.ProcedureDetail]
        found = _known(await self._ask("procedure", tenant, asked, kind, rseq, standing, patience), "id")
        return procedure_replies.ProcedureReply(**standing.common(patience.took_ms()), procedure=found)

    async def _procedures(
        self, tenant: str, request: procedures.Procedures, standing: Standing, patience: Patience
    ) -> procedure_replies.ProceduresReply:
        place = core.place_of(request.cursor, core.digest_of(tenant, "procedures", request), SEQ_MAX)
        rseq = await self._awaited(tenant, standing, patience)
        asked = procedures_asked.ProceduresAsk(tenant, request, place.at)
        kind = Found[list[procedures.ProcedureItem]]
        found = await self._ask("procedures", tenant, asked, kind, rseq, standing, patience)
        page, cursor = _page(found.value or [], found.more, place)
        return procedure_replies.ProceduresReply(
            **standing.common(patience.took_ms()), procedures=page, left_out=found.left_out, cursor=cursor
        )

    async def _related(
        self, tenant: str, request: procedures.Related, standing: Standing, patience: Patience
    ) -> procedure_replies.RelatedReply:
        rseq = await self._awaited(tenant, standing, patience)
        asked = procedures_asked.RelatedAsk(tenant, request)
        kind = Found[list[procedures.RelatedProcedure]]
        found = _known(await self._ask("related", tenant, asked, kind, rseq, standing, patience), "id")
        return procedure_replies.RelatedReply(**standing.common(patience.took_ms()), procedures=_first(found))

    async def _patterns(
        self, tenant: str, request: procedures.Patterns, standing: Standing, patience: Patience
    ) -> procedure_replies.PatternsReply:
        place = core.place_of(request.cursor, core.digest_of(tenant, "patterns", request), SEQ_MAX)
        rseq = await self._awaited(tenant, standing, patience)
        asked = procedures_asked.PatternsAsk(tenant, request, place.at)
        kind = Found[procedures_asked.PatternsFound]
        found = await self._ask("patterns", tenant, asked, kind, rseq, standing, patience)
        value = found.value or procedures_asked.PatternsFound([], [])
        page, cursor = _page(value.patterns, found.more, place)
        return procedure_replies.PatternsReply(
            **standing.common(patience.took_ms()), patterns=page, next=value.next, cursor=cursor
        )

    async def _insights(
        self, tenant: str, request: procedures.Insights, standing: Standing, patience: Patience
    ) -> procedure_replies.InsightsReply:
        rseq = await self._compared(tenant, standing, patience)
        asked = procedures_asked.InsightsAsk(tenant, request)
        kind = Found[list[procedures.InsightItem]]
        found = await self._ask("insights", tenant, asked, kind, rseq, standing, patience)
        return procedure_replies.InsightsReply(
            **standing.common(patience.took_ms()), insights=_first(found.value or [])
        )


def _packable(request: Compared) -> Compared:
    """With whole numbers of its context that no message between stages holds as words, as learn compares them."""
    large = {name: str(value) for name, value in request.context.items() if type(value) is int and not _fits(value)}
    return msgspec.structs.replace(request, context=request.context | large) if large else request


def _fits(number: int) -> bool:
    return -(2**63) <= number < 2**64


def _known(found: Found[T], field: str) -> T:
    if found.value is None:
        raise RequestFailed("not_found", "there is no procedure of this name", field)
    return found.value


def _first(items: list[Item]) -> list[Item]:
    """Those that fit one reply."""
    return items[: core.fitting(items)]


def _page(items: list[Item], more: bool, place: core.Place) -> tuple[list[Item], str | msgspec.UnsetType]:
    """What fits one reply, and the cursor to what follows it."""
    page = _first(items)
    goes_on = bool(page) and (more or len(page) < len(items))
    return page, core.cursor_to(place.digest, place.at + len(page)) if goes_on else msgspec.UNSET
