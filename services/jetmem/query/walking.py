"""Walk down the table of contents for a question: read nodes level by level while few, then best-first.

The rarity of words comes from the deepest level that was read whole, for which two thirds of the nodes may be used; no
count is kept anywhere. Measured on LoCoMo dev (997 questions, words only, coverage at 1, 3, 5 opened segments): exact
statistics of all segments 0.682, 0.841, 0.896; those of days the same, of weeks 0.686, 0.838, 0.894, of months 0.686,
0.839, 0.888, of the years 0.665, 0.829, 0.877. One conversation with 100,000 IRC messages beside it (609 nodes, 300 to
be read): by weeks 0.645, 0.801, 0.881, by days 0.678, 0.821, 0.894, exact 0.668, 0.820, 0.892.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from jetmem.domain.walk import Card, Question, Statistics, Walk
from jetmem.query.contents import Nodes, end_of, start_of
from jetmem_schemas.toc import LEVELS, Level, Node, level_of

#: Of the nodes to be read, what may be read level by level: days beside weeks are worth it, and leave enough to walk.
_SURVEY_SHARE: Final = 2 / 3
_DAY_MS: Final = 24 * 3_600_000
#: What a node may hold, at most: months and years are whole weeks.
_DAYS: Final[dict[Level, int]] = {"segment": 0, "day": 1, "week": 7, "month": 35, "year": 371}
#: A node may stand for a time that is shorter than it by this: a month of five weeks for a calendar month.
_WIDER: Final = 1.25
#: Of a tenant without a segment in sight.
_NOTHING: Final = Statistics(0, 1.0, {})


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a walk stops.

    Attributes:
        segments: To be opened.
        nodes: To be read.
        over: Says whether the time is up.
        since: Nodes that end before are not looked at, epoch ms.
        until: Nor those that begin then or later.
        agent: Nor those without this agent.
        session: Nor segments of other sessions.
    """

    segments: int
    nodes: int
    over: Callable[[], bool]
    since: int | None = None
    until: int | None = None
    agent: str = ""
    session: str = ""

    def admits(self, node: Node) -> bool:
        """Whether a node may lead to what is asked for."""
        if self.agent and self.agent not in node.agents:
            return False
        if self.session and node.level == "segment" and node.session != self.session:
            return False
        late_enough = self.since is None or end_of(node) >= self.since
        return late_enough and (self.until is None or start_of(node) < self.until)


@dataclass(slots=True)
class Walked:
    """What a walk came to: opened segments, best first, each with its score.

    Attributes:
        read: Nodes read.
        stopped: Why it went no further: `segments`, `nodes`, `ms`, or `done` when nothing was left.
        question: The question as the nodes were compared with; for texts below.
    """

    opened: list[tuple[Node, float]] = field(default_factory=list)
    read: int = 0
    stopped: str = "done"
    question: Question = field(default_factory=lambda: Question([], _NOTHING))


class Walker:
    """One walk of one question."""

    def __init__(self, nodes: Nodes, words: Sequence[str], limits: Limits) -> None:
        """`words` analysed as those of the nodes are."""
        self._nodes = nodes
        self._words = words
        self._limits = limits
        self._known: dict[str, Node] = {}

    async def run(self) -> Walked:
        """Survey, then open the best in sight again and again.

        Raises:
            RequestFailed: persist does not answer.
        """
        years = self._keep(await self._nodes.years())
        walked = Walked(question=Question(self._words, statistics_of(await self._survey(years))))
        # what is bounded here is reading: whatever was read may be opened
        walk = Walk(walked.question, segments=self._limits.segments, nodes_max=sys.maxsize)
        walk.see(map(card_of, years))
        while (step := walk.open()) is not None:
            node = self._known[step.id]
            if step.leaf:
                walked.opened.append((node, step.score))
            elif self._limits.over() or not self._room(node):
                # what lies below is not looked at; segments in sight still are
                walked.stopped = "ms" if self._limits.over() else "nodes"
            else:
                walk.see(map(card_of, await self._children([node])))
        walked.read = len(self._known)
        if len(walked.opened) >= self._limits.segments:
            walked.stopped = "segments"
        return walked

    async def cover(self) -> Walked:
        """The fewest nodes that hold what the time span holds, in order of time: whole ones, else children within it.

        Raises:
            RequestFailed: persist does not answer.
        """
        walked = Walked()
        level = self._keep(await self._nodes.years())
        while level:
            within = [node for node in level if node.level == "segment" or self._within(node)]
            walked.opened += [(node, 0.0) for node in within]
            split = [node for node in level if node.level != "segment" and not self._within(node)]
            if split and (self._limits.over() or not all(map(self._room, split))):
                walked.stopped = "ms" if self._limits.over() else "nodes"
                walked.opened += [(node, 0.0) for node in split]
                break
            level = await self._children(split) if split else []
        walked.opened.sort(key=lambda each: start_of(each[0]))
        walked.read = len(self._known)
        return walked

    def _within(self, node: Node) -> bool:
        since, until = self._limits.since, self._limits.until
        if since is not None and until is not None and _DAYS[node.level] * _DAY_MS > _WIDER * (until - since):
            return False  # who asks for a week is not answered with a year, though it has no more than that week
        return (since is None or start_of(node) >= since) and (until is None or end_of(node) < until)

    async def _survey(self, level: list[Node]) -> list[Node]:
        """The deepest level that can be read whole."""
        most = int(self._limits.nodes * _SURVEY_SHARE)
        while level and not self._limits.over():
            below = sum(len(node.children) for node in level)
            if not below or len(self._known) + below > most:
                break
            level = await self._children(level)
        return level

    async def _children(self, level: Sequence[Node]) -> list[Node]:
        # only what is below: whatever children a node names, a walk comes to its end
        ids = [child for node in level for child in node.children if _depth(child) > _depth(node.id)]
        self._keep(await self._nodes.get([id_ for id_ in ids if id_ not in self._known]))
        return [self._known[id_] for id_ in ids if id_ in self._known and self._limits.admits(self._known[id_])]

    def _keep(self, nodes: Sequence[Node]) -> list[Node]:
        self._known |= {node.id: node for node in nodes}
        return [node for node in nodes if self._limits.admits(node)]

    def _room(self, node: Node) -> bool:
        new = sum(child not in self._known for child in node.children)
        return len(self._known) + new <= self._limits.nodes


def _depth(id_: str) -> int:
    level = level_of(id_)
    return -1 if level is None else LEVELS.index(level)


def statistics_of(level: Sequence[Node]) -> Statistics:
    """Rarity of words among nodes of one level, as if they were the segments."""
    if not level:
        return _NOTHING
    length = sum(sum(node.terms.values()) for node in level) / len(level)
    return Statistics(len(level), length, Counter(word for node in level for word in node.terms))


def card_of(node: Node) -> Card:
    """What a walk sees of a node."""
    return Card(node.id, node.level == "segment", node.terms, end_of(node))
