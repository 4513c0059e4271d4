"""What a topic says, and its numbers: made of its segments' rows and nodes alone. Writer thread only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from jetmem.domain import topics as rules
from jetmem.domain.topics import Told
from jetmem.summarize.ports import Analyzer
from jetmem.summarize.topic_rows import MemberRow, TopicRow, TopicRows, stored

#: Segments that a label is made of, the most salient: 5 ms of the writer.
LABELLED_MAX: Final = 64
#: Segments that a centroid is made of, the latest.
CENTRED_MAX: Final = 4_096
#: Segments whose words stand for all of the tenant's, evenly over all time: 40 ms, again when so much came or went.
WORDS_OF: Final = 512
_WORDS_SHARE: Final = 0.1
#: Agents that a topic names, the most active.
AGENTS_MAX: Final = 32
#: Tenants whose words are remembered; some MB each at most.
_TENANTS_MAX: Final = 32


class TopicWriter:
    """Remembers words of tenants in memory only, so that no file holds them beside the nodes."""

    def __init__(self, rows: TopicRows, analyze: Analyzer) -> None:
        self._rows = rows
        self._analyze = analyze
        #: By tenant: counts of words, and the segments that there were.
        self._words: dict[str, tuple[Counter[str], int]] = {}

    def forget(self, tenant: str = "") -> None:
        """Remember nothing of a tenant, or of all."""
        if tenant:
            self._words.pop(tenant, None)
        else:
            self._words.clear()

    def row(self, tenant: str, members: Sequence[tuple[bytes, int, MemberRow]], segments: int) -> TopicRow:
        """A topic's row.

        Args:
            tenant: Whose.
            members: Its segments in order of time, at least one: the node's key, the start, the row.
            segments: Of the tenant, all of them.
        """
        weight, last = rules.weighed((row.salience, row.end) for _, _, row in members)
        held = [each for each in self._rows.vectors([key for key, *_ in members[-CENTRED_MAX:]]) if each is not None]
        centre = rules.centre(np.stack(held)) if held else None
        active: dict[str, int] = {}
        for agent in (agent for _, _, row in members for agent in row.agents):
            active[agent] = active.get(agent, 0) + 1
        phrases = self._phrases(tenant, members, segments)
        return TopicRow(
            title=rules.title_of(phrases),
            keywords=phrases,
            centroid=b"" if centre is None else stored(centre.centroid),
            reach=1.0 if centre is None else centre.reach,
            segments=len(members),
            events=sum(row.events for _, _, row in members),
            first=members[0][1],
            last=last,
            agents=sorted(active, key=lambda agent: (-active[agent], agent))[:AGENTS_MAX],
            weight=weight,
        )

    def _phrases(self, tenant: str, members: Sequence[tuple[bytes, int, MemberRow]], segments: int) -> list[str]:
        best = sorted(members, key=lambda each: (-each[2].salience, -each[2].end, each[0]))[:LABELLED_MAX]
        rows = self._rows.nodes([key for key, *_ in best])
        said = [row.summary for row in rows if row is not None and row.summary is not None]
        told = [Told(each.keywords, each.sketch) for each in said]
        authors = sorted({author for each in said for author in each.authors})
        return rules.labelled(told, self._everywhere(tenant, segments), self._analyze, authors)

    def _everywhere(self, tenant: str, now: int) -> Counter[str]:
        """How often the tenant's words are said, by some of its segments."""
        held, then = self._words.get(tenant, (None, 0))
        if held is not None and abs(now - then) <= _WORDS_SHARE * then:
            return held
        keys = [key for key, _ in self._rows.every_placed(tenant)]
        step = -(-len(keys) // WORDS_OF) or 1
        rows = self._rows.nodes(keys[::step])
        counts: Counter[str] = Counter()
        for row in rows:
            counts.update(row.summary.sketch if row is not None and row.summary is not None else {})
        for word in counts if step > 1 else ():
            counts[word] *= step
        if len(self._words) >= _TENANTS_MAX:
            self._words.clear()
        self._words[tenant] = counts, now
        return counts
