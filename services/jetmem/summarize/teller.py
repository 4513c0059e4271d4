"""Has nodes told by an endpoint: those at rest, one question each, within a budget of tokens per hour.

A node stands in its own words until then, and for good if the endpoint fails. What is untold are rows, written with the
node; this loop keeps nothing but when it may ask again.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from jetmem.adapters.chat_endpoint import BadReply, EndpointBusy, EndpointRefused, Reply
from jetmem.adapters.nats_shell import Shell
from jetmem.domain import keys
from jetmem.runtime import limits, metrics
from jetmem.runtime.store import Work
from jetmem.summarize import better, telling
from jetmem.summarize.better import Better, Told
from jetmem.summarize.budget import Budget
from jetmem.summarize.handler import Summarizer
from jetmem.summarize.ports import Chat
from jetmem.summarize.rows import Untold, decode_untold, node_of, prefix, session_of
from jetmem.summarize.settings import SummarizeSettings
from jetmem.summarize.telling import Source

_SLICE: Final = 512
#: Behind every key of a tenant: below its prefix they go on with a level.
_BEHIND: Final = b"\xff"
#: From lap to lap, if there was nothing to ask.
_REST_S: Final = 1.0
#: After a failure of the endpoint as a whole nothing is asked for so long, or as long as it says.
_PAUSE_S: Final = 30.0
_PAUSE_MAX_S: Final = 3_600.0
#: A better version needs a higher number than the last, which comes when that one is recorded.
_LATER_S: Final = 0.25
_LATER_TIMES: Final = 120


class _Question(NamedTuple):
    """What is asked of a node, of which content, and what was taken of which hour's budget for it."""

    content: bytes
    sources: list[Source]
    messages: list[dict[str, str]]
    tokens: int
    hour: int


class _Paused(Exception):
    """Nothing more is asked for `for_s`; `why` is for people."""

    def __init__(self, why: str, for_s: float) -> None:
        super().__init__(why)
        self.for_s = min(_PAUSE_MAX_S, for_s)


class Teller:
    """Asks; the words that come are made a node by the Maker, if it is still of the same events."""

    def __init__(
        self,
        shell: Shell,
        summarizer: Summarizer,
        settings: SummarizeSettings,
        endpoint: Chat,
        in_reader: Work,
        in_writer: Work,
    ) -> None:
        self._shell = shell
        self._it = summarizer
        self._rows = summarizer.rows
        self._settings = settings
        self._endpoint = endpoint
        self._in_reader = in_reader
        self._in_writer = in_writer
        self._budget = Budget(summarizer.rows.store, shell.clock, settings.endpoint_tokens_hour)
        self._random = random.Random()
        #: Prefix of the tenant whose node was asked about last.
        self._served = b""

    async def run(self) -> None:
        """Lap after lap, for ever; health says why if none is asked."""
        while True:
            try:
                asked = await self.lap()
            except _Paused as paused:
                self._shell.health.note = f"{paused}; nodes are extractive for {paused.for_s:.0f} s"
                self._shell.log.warning("endpoint not asked", why=str(paused), seconds=round(paused.for_s))
                await asyncio.sleep(paused.for_s)
                continue
            self._shell.health.note = ""
            if not asked:
                await asyncio.sleep(_REST_S)

    async def lap(self) -> int:
        """Ask of all that may be told now, tenants in turn; how many were asked.

        Raises:
            _Paused: Not now. The next lap goes on with the tenant whose turn it was.
        """
        asked = 0
        turns = self._turns()
        while some := await self._some(turns):
            results = await asyncio.gather(*(self._tell(key) for key in some), return_exceptions=True)
            failed = [each for each in results if isinstance(each, BaseException)]
            served = next((n for n, each in enumerate(results) if isinstance(each, BaseException)), len(some))
            self._served = prefix(keys.tenant_of(some[served - 1])) if served else self._served
            asked += len(some)
            # what is no pause is a fault of ours, and comes first
            for error in sorted(failed, key=lambda each: isinstance(each, _Paused)):
                raise error
        return asked

    async def _some(self, turns: Iterator[bytes]) -> list[bytes]:
        """The next nodes, as many as are asked about at once; fewer at the end."""
        some: list[bytes] = []
        while len(some) < self._settings.endpoint_at_once:
            key = await self._in_reader(partial(next, turns, None))
            if key is None:
                break
            some += [key] if key else []
        return some

    def _turns(self) -> Iterator[bytes]:
        """Nodes that may be told, one of each tenant in turn; b"" for a slice of which none may."""
        tenants = self._tenants()
        first = next((n for n, tenant in enumerate(tenants) if prefix(tenant) > self._served), 0)
        waiting = deque((tenant, prefix(tenant)) for tenant in (*tenants[first:], *tenants[:first]))
        while waiting:
            tenant, after = waiting.popleft()
            key, after = self._next(tenant, after)
            if after:
                waiting.append((tenant, after))
            yield key

    def _next(self, tenant: str, after: bytes) -> tuple[bytes, bytes]:
        """A tenant's next node that may be told, b"" if a slice holds none; and where to go on, b"" at the end."""
        for seen, (key, raw) in enumerate(self._rows.store.scan("untold", prefix(tenant), start=after), 1):
            if self._may_be_told(key, decode_untold(raw)):
                return key, key + b"\0"
            if seen == _SLICE:
                return b"", key + b"\0"
        return b"", b""

    def _tenants(self) -> list[str]:
        """Those of whom something is untold, in order of their keys."""
        found: list[str] = []
        start = b""
        while (row := next(self._rows.store.scan("untold", b"", start=start), None)) is not None:
            found.append(keys.tenant_of(row[0]))
            start = prefix(found[-1]) + _BEHIND
        return found

    def _may_be_told(self, key: bytes, untold: Untold) -> bool:
        """A segment once it is recorded, or its words could not be used and would be asked for again and again.

        What is above it when nothing below is to be told, too, and it did not change for a while.
        """
        tenant, node = node_of(key)
        if key in self._it.waiting.wanted or self._it.tenants.paused(tenant):
            return False
        if not self._rows.is_settled(key):
            return False
        if node.level == "segment":
            return True
        rested_ms = self._shell.clock.now_ms() - self._settings.endpoint_rest_s * 1000
        return untold.since_ms <= rested_ms and not self._rows.untold_below(tenant, node)

    async def _tell(self, key: bytes) -> None:
        """Ask of one node, a few times if need be.

        Raises:
            _Paused: The endpoint or the budget does not let us; the node is asked about later.
        """
        busy: EndpointBusy | None = None
        for number in range(self._settings.endpoint_tries):
            if number:
                metrics.retried.labels("summarize").inc()
                await self._wait(number, busy)
            question = await self._in_writer(partial(self._prepare, key))
            if question is None:
                return
            try:
                reply = await self._endpoint.ask(
                    question.messages, telling.SCHEMA, self._settings.endpoint_reply_tokens
                )
            except EndpointBusy as error:
                busy = error
                self._count("busy", error)
                continue
            except BadReply as error:
                busy = None
                self._count("bad_reply", error)
                continue
            except EndpointRefused as error:
                self._count("refused", error)
                raise _Paused(str(error), _PAUSE_S) from error
            busy = None
            told = await self._checked(question, reply)
            if told is not None:
                await self._improve(key, Better(question.content, told=told))
                return
        if busy is not None:
            raise _Paused(str(busy), max(_PAUSE_S, busy.after_s)) from busy
        await self._in_writer(partial(self._give_up, key))

    async def _wait(self, number: int, busy: EndpointBusy | None) -> None:
        """Longer from try to try, not all at the same time, and not before the endpoint says.

        Raises:
            _Paused: It says: much later.
        """
        if busy is not None and busy.after_s > _PAUSE_S:
            raise _Paused(str(busy), busy.after_s)
        longest = min(limits.RETRY_LAST_S, limits.RETRY_FIRST_S * 2**number)
        await asyncio.sleep((busy.after_s if busy else 0.0) + self._random.uniform(limits.RETRY_FIRST_S, longest))

    def _prepare(self, key: bytes) -> _Question | None:
        """Read what is to be asked and take its tokens; None if there is nothing to be asked, any more or just now.

        On the writer thread, and anew for each try: between it and the question no forget was applied.

        Raises:
            _Paused: The budget of this hour is spent.
        """
        if not self._rows.is_settled(key):
            return None
        found = self._sources(key)
        if found is None:
            self._done(key)
            return None
        content, sources = found[0], telling.chosen(found[1])
        asked = telling.messages(sources)
        tokens = telling.tokens_of(asked) + self._settings.endpoint_reply_tokens
        if tokens > self._budget.most:
            self._give_up(key)
            return None
        if not self._budget.take(tokens):
            metrics.told.labels("over_budget").inc()
            why = f"the endpoint's {self._budget.most} tokens of this hour are spent"
            raise _Paused(why, self._budget.renewed_in_s())
        return _Question(content, sources, asked, tokens, self._budget.hour)

    def _sources(self, key: bytes) -> tuple[bytes, list[Source]] | None:
        """What the node is made of now, and what may be quoted."""
        tenant, node = node_of(key)
        row = self._rows.node(key)
        if row is None or row.summary is None or row.open or row.by == "endpoint":
            return None
        if node.level != "segment":
            children = self._rows.children(tenant, node)
            below = [child.summary for _, child in children if child.summary is not None]
            sources = telling.sources_below(below)
            return (better.rollup_content(below), sources) if sources else None
        segment = self._rows.segment(row.place)
        if segment is None or session_of(row.place)[0] != tenant:
            return None
        held = self._rows.events(tenant, [item.seq for item in segment.items])
        content, corrected = self._it.maker.segment_content(tenant, segment)
        right = (event.said for event in held if event is not None and event.said.id not in corrected)
        sources = telling.sources_of(right)
        return (content, sources) if sources else None

    async def _checked(self, question: _Question, reply: Reply) -> Told | None:
        """What of a reply is believed; what it took more or less than was reserved is settled."""
        if reply.tokens is not None:
            used = max(0, reply.tokens)
            metrics.told_tokens.inc(used)
            await self._in_writer(partial(self._budget.give_back, question.tokens - used, question.hour))
        checked = telling.check(reply.text, question.sources)
        metrics.told_dropped.inc(checked.dropped)
        if checked.told is None:
            metrics.told.labels("not_believed").inc()
        return checked.told

    async def _improve(self, key: bytes, came: Better) -> None:
        for _ in range(_LATER_TIMES):
            if await self._in_writer(partial(self._it.maker.improve, key, came)):
                row = await self._in_reader(partial(self._rows.node, key))
                used = row is not None and row.by == "endpoint" and row.content == came.content
                metrics.told.labels("told" if used else "outdated").inc()
                return
            await asyncio.sleep(_LATER_S)
        metrics.told.labels("outdated").inc()

    def _give_up(self, key: bytes) -> None:
        """It stays extractive until it changes."""
        metrics.told.labels("given_up").inc()
        self._done(key)

    def _done(self, key: bytes) -> None:
        batch = self._rows.store.batch()
        batch.delete("untold", key)
        self._rows.store.write(batch, sync=False)

    def _count(self, outcome: str, error: Exception) -> None:
        metrics.told.labels(outcome).inc()
        self._shell.health.failed(error)
