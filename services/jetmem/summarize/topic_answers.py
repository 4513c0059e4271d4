"""What summarize answers about topics, from its rows. On the read pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jetmem.domain import topics as rules
from jetmem.runtime.clock import Clock
from jetmem.summarize.rows import node_of
from jetmem.summarize.topic_rows import MemberRow, TopicRow, TopicRows, vector_of
from jetmem_schemas.internal import Head
from jetmem_schemas.topics import (
    RelatedFacts,
    SegmentFacts,
    TopicFacts,
    TopicFound,
    TopicRequest,
    TopicsFound,
    TopicsRequest,
)


class Answers:
    """Answers from the rows as they are now."""

    def __init__(self, rows: TopicRows, clock: Clock) -> None:
        self._rows = rows
        self._clock = clock

    def topics(self, request: TopicsRequest, at: Head, still: bool) -> TopicsFound:
        """A page of topics by importance, then id; with filters, those with a segment that fits all of them."""
        now = self._clock.now_ms()
        every = [
            (-rules.importance(row.weight, row.last, now), name, row)
            for name, row in self._rows.topics(request.tenant)
            if self._fits(request, name, row)
        ]
        order = [(name, row) for _, name, row in sorted(every, key=lambda each: each[:2])]
        start = _after([name for name, _ in order], request)
        page = order[start : start + request.limit]
        facts = [self._facts(name, row, now) for name, row in page]
        return TopicsFound(facts, start + len(page) < len(order), at, still)

    def topic(self, request: TopicRequest, at: Head, still: bool) -> TopicFound:
        """One topic, or the one that it was merged into; its segments, the latest first."""
        name, row = request.id, self._rows.topic(request.tenant, request.id)
        if row is not None and row.merged_into:
            name, row = row.merged_into, self._rows.topic(request.tenant, row.merged_into)
        if row is None or not self._held(request.tenant, name):
            return TopicFound(None, [], [], b"", at, still)
        segments, cursor = self._segments(request, name)
        facts = self._facts(name, row, self._clock.now_ms())
        return TopicFound(facts, segments, self._related(request.tenant, name), cursor, at, still)

    def _fits(self, request: TopicsRequest, name: str, row: TopicRow) -> bool:
        """Whether it is a topic that has a segment as asked for."""
        since, until, agent = request.since, request.until, request.agent
        if row.merged_into or (since is not None and row.last < since) or (until is not None and row.first >= until):
            return False
        return any(
            (since is None or member.end >= since)
            and (until is None or start < until)
            and (not agent or agent in member.agents)
            for _, start, member in self._rows.members(request.tenant, name, back=True)
        )

    def _held(self, tenant: str, name: str) -> bool:
        """Whether it has a segment: one that lost all of them is about to go."""
        return next(self._rows.members(tenant, name), None) is not None

    def _facts(self, name: str, row: TopicRow, now: int) -> TopicFacts:
        weight = round(rules.importance(row.weight, row.last, now), 4)
        return TopicFacts(
            name, row.title, row.keywords, weight, row.segments, row.events, row.first, row.last, row.agents
        )

    def _segments(self, request: TopicRequest, name: str) -> tuple[list[SegmentFacts], bytes]:
        """A page of segments whose nodes are made, and where the next one begins."""
        page: list[tuple[bytes, int, MemberRow]] = []
        more = False
        for each in self._rows.members(request.tenant, name, before=request.last, back=True):
            more = len(page) == request.limit
            if more:
                break
            page.append(each)
        facts = []
        for (key, start, member), node in zip(page, self._rows.nodes([key for key, *_ in page]), strict=True):
            if node is not None and node.summary is not None:
                session = self._rows.session(node.place)
                title = node.summary.title
                id_ = str(node_of(key)[1])
                facts.append(
                    SegmentFacts(id_, title, start, member.end, member.events, member.agents, session, member.salience)
                )
        return facts, self._rows.place(page[-1][0], page[-1][1]) if more else b""

    def _related(self, tenant: str, name: str) -> list[RelatedFacts]:
        held = [(each, row) for each, row in self._rows.topics(tenant) if row.centroid]
        names = [each for each, _ in held]
        if name not in names:
            return []  # blank until it is made again
        centroids = np.stack([vector_of(row.centroid) for _, row in held])
        found = rules.related(names.index(name), centroids)
        return [RelatedFacts(names[number], held[number][1].title, strength) for number, strength in found]


def _after(names: Sequence[str], request: TopicsRequest) -> int:
    """Where the page begins; topics may have come or gone since, then `start` must do."""
    if not request.last:
        return 0
    return names.index(request.last) + 1 if request.last in names else min(request.start, len(names))
