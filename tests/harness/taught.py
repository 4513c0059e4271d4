"""A stage `learn` that knows three procedures, for fake stages."""

from collections.abc import Sequence
from typing import Any

from harness.fake_stages import FakeStages
from jetmem_schemas import procedures as p
from jetmem_schemas import procedures_asked as ask
from jetmem_schemas.internal import AppliedReply, AppliedRequest, EncodeReply, EncodeRequest, Head

VECTOR = b"\1\0\0\0" * 2
NAMES = ["alpha", "beta", "gamma"]
STEPS = ["search", "edit", "test"]


COUNTS = {"decayed_runs": 2.0, "decayed_successes": 1.5, "posterior": p.Interval(low=0.2, high=0.9)}


def item(place: int) -> dict[str, Any]:
    return {
        "id": NAMES[place],
        "runs": 10 - place,
        "successes": 8 - place,
        "rate": 0.8,
        "interval": p.Interval(low=0.5, high=0.9),
        "lift": 1.14,
        "state": "fluid",
        "agents": 2,
        "first": "2026-01-05T10:00:00.000Z",
        "last": "2026-01-06T10:00:00.000Z",
        "recent": [False, True, True],
    }


def why(**fields: Any) -> p.Why:
    near = p.Neighbour(run="r1", task="fix the tests", agent="alice", success=True, similarity=0.91)
    return p.Why(how="neighbours", runs=10, successes=8, in_context=4, by_agent=2, neighbours=[near], **fields)


class Taught(FakeStages):
    """learn beside the others.

    Attributes:
        at: Up to where it has learnt.
        blind: The tasks it knows lack their vectors.
        lacks: What it has not yet made of the runs.
        sees_after: Times it is asked whether it is as far, until they have them; 0: that does not change.
        padding: Words that make each item long.
    """

    at = Head(3, 3)
    blind = False
    lacks: Sequence[str] = ()
    sees_after = 0
    padding = ""

    def encode(self, stage: str, tenant: str, request: EncodeRequest) -> EncodeReply:
        return EncodeReply("model", [VECTOR])

    def applied(self, stage: str, tenant: str, request: AppliedRequest) -> AppliedReply:
        if stage != "learn":
            return super().applied(stage, tenant, request)
        if self.at.rseq < request.rseq:
            self.clock.now += request.wait_ms / 1000
        if self.sees_after:
            self.sees_after -= 1
            self.blind = self.sees_after > 0
        return AppliedReply({"procedures": self.at, "tasks": Head() if self.blind else self.at}, [])

    def _found(self, value: Any, *, more: bool = False) -> ask.Found[Any]:
        return ask.Found(value, self.at, more, self.blind, lacks=self.lacks)

    def recommend(self, stage: str, tenant: str, asked: ask.RecommendAsk) -> ask.Found[ask.RecommendFound]:
        assert (asked.vector == VECTOR) == (asked.model == "model") == (asked.vector != b"")
        known = NAMES if tenant == "acme" else []
        found = [
            p.Recommended(
                id=name,
                probability=0.8 - 0.1 * place,
                interval=p.Interval(low=0.5, high=0.9),
                why=why(boost=0.02, crystal=2 if place == 0 else 0),
                state="crystalline" if place == 0 else "fluid",
                steps=[*STEPS, *([self.padding] if self.padding else [])],
                duration_ms=p.Spread(p50=1200.0, p90=90_000.0),
                cost=p.Spread(p50=0.02, p90=0.5),
                failures=[p.Said(text="timed out", runs=2)],
                lessons=[p.Said(text="read the log first", runs=1)],
                drawn=0.5 if asked.ask.explore == "thompson" else None,
            )
            for place, name in enumerate(known)
        ]
        return self._found(ask.RecommendFound(found[: asked.ask.k], not known))

    def predict(self, stage: str, tenant: str, asked: ask.PredictAsk) -> ask.Found[ask.PredictFound]:
        cold = asked.ask.procedure not in NAMES
        told = p.Why(how="none", runs=0, successes=0) if cold else why()
        return self._found(ask.PredictFound(0.5 if cold else 0.8, p.Interval(low=0.5, high=0.9), told, cold))

    def procedure(self, stage: str, tenant: str, asked: ask.OneAsk) -> ask.Found[p.ProcedureDetail]:
        if asked.ask.id not in NAMES:
            return self._found(None)
        share = p.Share(
            of="lang=python", runs=4, successes=3, interval=p.Interval(low=0.3, high=0.95), recent=[True, False],
            duration_ms=p.Spread(p50=1500.0, p90=2000.0), failures=[p.Said(text="no such file", runs=1)], **COUNTS,
        )  # fmt: skip
        detail = p.ProcedureDetail(
            **item(NAMES.index(asked.ask.id)),
            steps=STEPS,
            by_context=[share],
            by_agent=[p.Share(of="alice", runs=6, successes=6, interval=p.Interval(low=0.6, high=1.0), **COUNTS)],
            failures=[p.Said(text="timed out", runs=2)],
            description="look before you leap",
            consistency=0.9,
            duration_ms=p.Spread(p50=1200.0, p90=90_000.0),
        )
        return self._found(detail)

    def procedures(self, stage: str, tenant: str, asked: ask.ProceduresAsk) -> ask.Found[list[p.ProcedureItem]]:
        end = asked.start + asked.ask.limit
        more = {"description": self.padding} if self.padding else {}
        page = [p.ProcedureItem(**item(n), **more) for n in range(asked.start, min(end, len(NAMES)))]
        return self._found(page, more=end < len(NAMES))

    def related(self, stage: str, tenant: str, asked: ask.RelatedAsk) -> ask.Found[list[p.RelatedProcedure]]:
        if asked.ask.id not in NAMES:
            return self._found(None)
        near = p.RelatedProcedure(id="beta", kind="similar_to", strength=0.8, path=["alpha", "beta"])
        far = p.RelatedProcedure(id="gamma", kind="follows", strength=0.4, path=["alpha", "beta", "gamma"])
        return self._found([near, far] if asked.ask.hops > 1 else [near])

    def patterns(self, stage: str, tenant: str, asked: ask.PatternsAsk) -> ask.Found[ask.PatternsFound]:
        pattern = p.PatternItem(
            id="search > edit", steps=STEPS[:2], successes=5, failures=1, rate=0.8, lift=1.5, low=0.6, shared=True
        )
        page = [pattern] * 3
        end = asked.start + asked.ask.limit
        follows = [p.Next(step="test", rate=0.8)] if asked.ask.done else []
        return self._found(ask.PatternsFound(page[asked.start : end], follows), more=end < len(page))

    def insights(self, stage: str, tenant: str, asked: ask.InsightsAsk) -> ask.Found[list[p.InsightItem]]:
        works = p.Works(id="alpha", rate=0.9, low=0.7, lift=1.5, runs=8)
        fails = p.Works(id="gamma", rate=0.2, low=0.1, lift=0.33, runs=6)
        found = p.InsightItem(
            id="0", tasks=7, runs=20, rate=0.6, examples=["fix the tests"], contexts=["lang=python"],
            works=[works], fails=[fails],
        )  # fmt: skip
        return self._found([found])


def taught() -> Taught:
    stages = Taught()
    for n in range(3):
        stages.add("acme", f"e{n}", "hello")
    return stages
