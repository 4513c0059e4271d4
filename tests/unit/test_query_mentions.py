"""Hits that name others: only what persist holds is named, and nothing vanishes with what is gone."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from harness.fake_stages import FakeStages
from jetmem.query import core
from jetmem.query.discovery import Tally
from jetmem.query.handler import Query
from jetmem.query.settings import QuerySettings
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.internal import FindReply, FindRequest
from jetmem_schemas.ranking import Rank


class Folding(FakeStages):
    """An index whose hits fold others and are corrected, by id."""

    folds: dict[str, list[str]]
    by: dict[str, str]

    def find(self, stage: str, tenant: str, request: FindRequest) -> FindReply:
        found = super().find(stage, tenant, msgspec.structs.replace(request, limit=10_000))
        under = {each for ids in self.folds.values() for each in ids}
        hits = [
            msgspec.structs.replace(hit, folded=self.folds.get(hit.id, []), superseded_by=self.by.get(hit.id, ""))
            for hit in found.hits
            if hit.id not in under
        ]
        return msgspec.structs.replace(found, hits=hits[: request.limit])


def search(stages: FakeStages, **request: Any) -> dict[str, Any]:
    query = Query(stages, QuerySettings(), stages.clock, Tally())
    payload = json.dumps({"query": "q", **request}).encode()
    _, _, body, _ = asyncio.run(query.answer("mem.acme.query.search", payload))
    return dict(json.loads(body))


def refused(stages: FakeStages, **request: Any) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        search(stages, **request)
    return caught.value


def called(stages: FakeStages, verb: str) -> list[Any]:
    return [request for name, request in stages.calls if name == verb]


def pages(stages: FakeStages, **request: Any) -> list[str]:
    """Ids of all pages."""
    found: list[str] = []
    more: dict[str, Any] = {}
    for _ in range(50):
        reply = search(stages, **request, **more)
        found += folded(reply)
        if "cursor" not in reply:
            return found
        more = {"cursor": reply["cursor"]}
    raise AssertionError("the cursor never ends")


def folding(count: int = 6, folds: Any = None, by: Any = None, **state: Any) -> Folding:
    stages = Folding(**state)
    stages.folds, stages.by = folds or {}, by or {}
    for number in range(count):
        stages.add("acme", f"e{number}", f"pizza {number}")
    return stages


def folded(reply: dict[str, Any]) -> dict[str, list[str]]:
    return {hit["id"]: hit.get("folded", []) for hit in reply["hits"]}


def test_hits_name_what_they_fold_and_what_corrects_them() -> None:
    stages = folding(folds={"e1": ["e3", "e0"]}, by={"e2": "e5"})
    reply = search(stages)
    assert folded(reply) == {"e1": ["e3", "e0"], "e2": [], "e4": [], "e5": []}
    assert [hit.get("superseded_by") for hit in reply["hits"]] == [None, "e5", None, None]
    assert len(called(stages, "fetch")) == 2
    plain = folding()
    search(plain)
    assert len(called(plain, "fetch")) == 1, "no hit names another, none is looked for"


def test_what_is_forgotten_is_not_named() -> None:
    stages = folding(folds={"e1": ["e3", "e0"]}, by={"e2": "e5"}, erased_ids={"e3", "e5"})
    reply = search(stages)
    assert folded(reply) == {"e1": ["e0"], "e2": [], "e4": []}
    assert "superseded_by" not in reply["hits"][1]


def test_a_near_duplicate_stands_in_for_the_hit_that_is_gone() -> None:
    stages = folding(folds={"e1": ["e4", "e3", "e0"]}, by={"e1": "e5"}, erased_ids={"e1", "e4"})
    reply = search(stages, around=1)
    assert folded(reply) == {"e3": ["e0"], "e2": [], "e5": []}
    assert "superseded_by" not in reply["hits"][0]
    assert [each["id"] for each in reply["hits"][0]["before"]] == ["e2"], "with its neighbours"


def test_nothing_stands_in_where_all_are_gone() -> None:
    stages = folding(folds={"e1": ["e0"]}, erased_ids={"e1", "e0"})
    assert folded(search(stages)) == {"e2": [], "e3": [], "e4": [], "e5": []}


@pytest.mark.parametrize("cut_at", [0, 1, 2])
@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_pages_name_everything_once(limit: int, cut_at: int) -> None:
    folds = {"e1": ["e3", "e0"], "e9": ["e8"], "e15": ["e14", "e16"]}
    stages = folding(20, folds=folds, erased_ids={"e9", "e16"}, cut_at=cut_at)
    found = pages(stages, limit=limit)
    assert len(found) == len(set(found))
    assert set(found) == {f"e{n}" for n in range(20)} - {"e0", "e3", "e9", "e14", "e16"}


def test_texts_that_do_not_fit_one_fetch_are_asked_for_until_all_is_known() -> None:
    stages = folding(10, folds={"e9": [f"e{n}" for n in range(9)]}, cut_at=2)
    assert folded(search(stages)) == {"e9": [f"e{n}" for n in range(9)]}


# --- what is asked


def test_options_reach_the_index_and_bind_the_cursor() -> None:
    stages = folding()
    reply = search(stages, limit=2, rank={"fold": True, "salience": 0.25})
    assert called(stages, "find")[0].rank == Rank(fold=True, salience=0.25)
    error = refused(stages, limit=2, cursor=reply["cursor"])
    assert error.code == "bad_cursor", "another ranking has other pages"


def test_without_options_those_of_the_service_apply() -> None:
    settings = QuerySettings(rank_fold=True, rank_age_half_life_days=14, rank_fold_cosine=0.99)
    assert core.rank_of(None, settings) == Rank(fold=True, age_half_life_days=14, fold_cosine=0.99)
    assert core.rank_of(Rank(), settings) == Rank(), "what is asked for says all"
    assert core.rank_of(None, QuerySettings()) == Rank(), "and a service that is told nothing has all off"


@pytest.mark.parametrize(
    ("rank", "field", "words"),
    [
        ({"salience": 2}, "rank.salience", "a number, 0 to 1"),
        ({"fold_cosine": 0.2}, "rank.fold_cosine", "a number, 0.5 to 1"),
        ({"fold": "yes"}, "rank.fold", "true or false"),
        ({"decay": 1}, "decay", "those known are salience"),
        (7, "rank", "an object"),
    ],
)
def test_refusals_say_what_is_accepted(rank: Any, field: str, words: str) -> None:
    error = refused(folding(), rank=rank)
    assert (error.code, error.field) == ("bad_field", field)
    assert words in error.message
