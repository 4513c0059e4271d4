"""The rows of learn's own store: runs, what is counted of them, definitions, tasks and their vectors.

All keys begin with partition and tenant. Names and texts stand in keys as hashes only: RocksDB's manifest keeps keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from struct import Struct
from typing import Final, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.domain import keys
from jetmem.domain.procedures.crystals import Crystal, State
from jetmem.domain.procedures.decay import Decayed
from jetmem.domain.procedures.run import Ran
from jetmem.domain.procedures.statistics import Statistics
from jetmem.learn.core import Defined, Grown, Latest, Tally
from jetmem.runtime.meta_rows import ModelRows
from jetmem_schemas.subjects import partition_of

C = TypeVar("C")
FORMAT: Final = 2
#: runs: RunRow by (procedure, rseq) · places: what an entry was, and of which procedure, by rseq · procedures:
#: ProcedureRow · definitions: Defined by (procedure, rseq) · shares: ShareRow by (procedure, agent or context value) ·
#: tried: TriedRow by (task, context, procedure) · tasks: TaskRow · vectors: by task, with a mark · pending: task by the
#: run it came with: lacks its vector · arrivals: task by the run it came with · ranks: procedures by how much they are
#: used, and what all of them come to (`ranks`) · recounts: what a forget left to be counted anew (`recounting`) · meta:
#: checkpoints, model, what is half done.
FAMILIES: Final = (
    "runs", "places", "procedures", "definitions", "shares", "tried", "tasks", "vectors", "pending", "arrivals",
    "ranks", "recounts", "meta",
)  # fmt: skip
HASH_BYTES: Final = 16
_CONTEXT_BYTES: Final = 8
#: First byte of a place.
RUN: Final = b"r"
DEFINITION: Final = b"d"
#: Byte between procedure and what a share is of.
AGENT: Final = b"a"
CONTEXT: Final = b"c"

#: What a `TriedRow` begins with: as of `sums_of`.
_SUMS: Final = Struct("<4d")

encode = msgspec.msgpack.Encoder().encode


class RunRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One run without its task's text and its procedure's name."""

    id: str
    at_ms: int
    success: bool
    agent: str
    session: str
    task: bytes
    context: dict[str, str]
    steps: tuple[str, ...]
    reward: float | None
    duration_ms: float | None
    cost: float | None
    failure: str
    lessons: tuple[str, ...]


class ProcedureRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A procedure that was run or defined; as of `core.Grown`."""

    name: str
    counts: Statistics = Statistics()
    crystal: Crystal = Crystal()
    before: Crystal = Crystal()
    step: int = 0

    @property
    def grown(self) -> Grown:
        """Without its name."""
        return Grown(self.counts, self.crystal, self.before, self.step)


class BriefCounts(msgspec.Struct, frozen=True, gc=False):
    """Of all runs of a procedure, plain and with a half-life of 30 days; last use in epoch milliseconds."""

    runs: int = 0
    successes: int = 0
    decayed_runs: Decayed = Decayed()
    decayed_successes: Decayed = Decayed()
    last_ms: int = 0


class _BriefCrystal(msgspec.Struct, frozen=True, gc=False):
    state: State = "fluid"


class Brief(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a board holds of a `ProcedureRow`: read from the same bytes in a fifth of the time."""

    name: str
    counts: BriefCounts = BriefCounts()
    crystal: _BriefCrystal = _BriefCrystal()


class Totals(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What all procedures of a tenant come to."""

    procedures: int = 0
    runs: int = 0
    successes: int = 0


class ShareRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A procedure's runs by one agent, or in one context value."""

    of: str
    tally: Tally = Tally()


class TriedRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A procedure's runs at one task in one context; `encode_tried` says how it is stored."""

    context: dict[str, str]
    tally: Tally = Tally()
    latest: tuple[Latest, ...] = ()


class _Tried(msgspec.Struct, Generic[C], frozen=True, array_like=True, gc=False):
    """What is stored of a `TriedRow` after its `_SUMS`; who looks only at the latest runs leaves the context raw."""

    context: C
    seq: int
    runs: int
    successes: int
    first_ms: int
    last_ms: int
    latest: tuple[Latest, ...]


class TaskRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A task: how many runs have it, and the entry that it came with."""

    text: str
    runs: int
    place: int


_run = msgspec.msgpack.Decoder(RunRow).decode
decode_procedure = msgspec.msgpack.Decoder(ProcedureRow).decode
decode_share = msgspec.msgpack.Decoder(ShareRow).decode
_tried = msgspec.msgpack.Decoder(_Tried[dict[str, str]]).decode
_shown = msgspec.msgpack.Decoder(_Tried[msgspec.Raw]).decode
decode_task = msgspec.msgpack.Decoder(TaskRow).decode
decode_brief = msgspec.msgpack.Decoder(Brief).decode
_defined = msgspec.msgpack.Decoder(Defined).decode


@lru_cache(4_096)
def prefix(tenant: str) -> bytes:
    """Where a tenant's keys begin."""
    return keys.tenant(partition_of(tenant), tenant)


def hashed(text: str) -> bytes:
    """What stands for a name or a task in keys."""
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()


@lru_cache(16_384)
def named(text: str) -> bytes:
    """The same for what comes again and again: names, agents, context values."""
    return hashed(text)


def context_hash(context: dict[str, str]) -> bytes:
    """What stands for a context; its names are in order."""
    return hashlib.blake2b(encode(context), digest_size=_CONTEXT_BYTES).digest()


def run_key(tenant: str, procedure: bytes, rseq: int) -> bytes:
    """Key of a run."""
    return prefix(tenant) + procedure + keys.u64(rseq)


def place_key(tenant: str, rseq: int) -> bytes:
    """Key of an entry's place."""
    return prefix(tenant) + keys.u64(rseq)


def share_key(tenant: str, procedure: bytes, kind: bytes, of: str) -> bytes:
    """Key of a share, of `AGENT` or `CONTEXT`."""
    return prefix(tenant) + procedure + kind + named(of)


def tried_key(tenant: str, task: bytes, context: dict[str, str], procedure: bytes) -> bytes:
    """Key of a procedure at a task."""
    return prefix(tenant) + task + context_hash(context) + procedure


def run_row(run: Ran) -> bytes:
    """A run as it is stored."""
    row = RunRow(
        run.id, run.at_ms, run.success, run.agent, run.session, hashed(run.task), run.context, run.steps,
        run.reward, run.duration_ms, run.cost, run.failure, run.lessons,
    )  # fmt: skip
    return encode(row)


def ran(rseq: int, row: RunRow, procedure: str = "", task: str = "") -> Ran:
    """A stored run; its procedure's name and its task's text are elsewhere."""
    return Ran(
        id=row.id, seq=rseq, at_ms=row.at_ms, procedure=procedure, success=row.success, agent=row.agent,
        session=row.session, task=task, context=row.context, steps=row.steps, reward=row.reward,
        duration_ms=row.duration_ms, cost=row.cost, failure=row.failure, lessons=row.lessons,
    )  # fmt: skip


def encode_tried(row: TriedRow) -> bytes:
    """As it is stored: decayed sums first, which a question reads of hundreds of rows, then what it reads of few."""
    tally, won, runs = row.tally, row.tally.decayed_successes, row.tally.decayed_runs
    rest = (row.context, tally.seq, tally.runs, tally.successes, tally.first_ms, tally.last_ms, row.latest)
    return _SUMS.pack(won.value, won.at_ms, runs.value, runs.at_ms) + encode(rest)


def decode_tried(raw: bytes) -> TriedRow:
    """The same back."""
    won, won_at, runs, runs_at = _SUMS.unpack_from(raw)
    held = _tried(raw[_SUMS.size :])
    sums = Decayed(runs, int(runs_at)), Decayed(won, int(won_at))
    tally = Tally(held.seq, held.runs, held.successes, *sums, held.first_ms, held.last_ms)
    return TriedRow(held.context, tally, held.latest)


def sums_of(tried: Sequence[bytes]) -> NDArray[np.float64]:
    """Of rows as they are stored: decayed successes and as of when, runs and as of when; (rows, 4)."""
    size = _SUMS.size
    return np.frombuffer(b"".join([raw[:size] for raw in tried]), dtype="<f8").reshape(-1, 4)


def latest_of(tried: bytes) -> tuple[Latest, ...]:
    """Of a row as it is stored."""
    return _shown(tried[_SUMS.size :]).latest


class Rows(ModelRows):
    """Reads of the store, from any thread."""

    def runs(
        self, tenant: str, procedure: bytes, after: int = 0, most: int | None = None
    ) -> Iterator[tuple[int, RunRow]]:
        """Runs of a procedure with their numbers, in the order of the log: at most so many that come after one."""
        start = run_key(tenant, procedure, after + 1)
        for key, raw in islice(self.store.scan("runs", prefix(tenant) + procedure, start=start), most):
            yield keys.from_u64(key[-8:]), _run(raw)

    def latest(self, tenant: str, procedure: bytes, most: int) -> list[Ran]:
        """The last runs of a procedure in the log, the latest first; without its name and their tasks' texts."""
        found = islice(self.store.scan("runs", prefix(tenant) + procedure, back=True), most)
        return [ran(keys.from_u64(key[-8:]), _run(raw)) for key, raw in found]

    def runs_at(self, tenant: str, procedure: bytes, rseqs: Sequence[int]) -> list[tuple[int, RunRow]]:
        """Those runs of a procedure that are there."""
        found = self.store.get_many("runs", [run_key(tenant, procedure, rseq) for rseq in rseqs])
        return [(rseq, _run(raw)) for rseq, raw in zip(rseqs, found, strict=True) if raw]

    def runs_of(self, tenant: str, places: Sequence[tuple[int, bytes]]) -> tuple[list[tuple[int, bytes, RunRow]], int]:
        """Those of (number, procedure) that are there, with both; and how many bytes they are stored in."""
        found = self.store.get_many("runs", [run_key(tenant, procedure, rseq) for rseq, procedure in places])
        held = [(rseq, name, _run(raw)) for (rseq, name), raw in zip(places, found, strict=True) if raw]
        return held, sum(len(raw) for raw in found if raw)

    def procedure(self, tenant: str, procedure: bytes) -> ProcedureRow | None:
        """A procedure."""
        raw = self.store.get("procedures", prefix(tenant) + procedure)
        return decode_procedure(raw) if raw else None

    def procedures(self, tenant: str) -> Iterator[tuple[bytes, Brief]]:
        """Every procedure of a tenant, in brief."""
        for key, raw in self.store.scan("procedures", prefix(tenant)):
            yield key[-HASH_BYTES:], decode_brief(raw)

    def definition(self, tenant: str, procedure: bytes, upto: int | None = None) -> Defined | None:
        """The newest definition of a procedure, or the newest up to a number in the log."""
        start = None if upto is None else run_key(tenant, procedure, upto)
        for _, raw in self.store.scan("definitions", prefix(tenant) + procedure, start=start, back=True):
            return _defined(raw)
        return None

    def shares(self, tenant: str, procedure: bytes, kind: bytes) -> Iterator[ShareRow]:
        """Shares of a procedure's runs, of `AGENT` or `CONTEXT`."""
        for _, raw in self.store.scan("shares", prefix(tenant) + procedure + kind):
            yield decode_share(raw)

    def shared(self, tenant: str, share: bytes, procedures: Sequence[bytes]) -> list[Tally | None]:
        """Shares of procedures by one agent or in one context value (`share_of`), in the order asked."""
        start = prefix(tenant)
        found = self.store.get_many("shares", [start + each + share for each in procedures])
        return [decode_share(raw).tally if raw else None for raw in found]

    def shares_of(self, tenant: str, procedure: bytes, kind: bytes, names: Sequence[str]) -> list[ShareRow]:
        """Those of these names that are there."""
        found = self.store.get_many("shares", [share_key(tenant, procedure, kind, name) for name in names])
        return [decode_share(raw) for raw in found if raw]

    def tried(self, tenant: str, tasks: Sequence[bytes], most: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """(procedure, row as it is stored) of what was tried at each task, in the order asked; at most so many of each.

        `sums_of` and `latest_of` tell what is in them.
        """
        start = prefix(tenant)
        for found in self.store.scan_each("tried", [start + task for task in tasks], most):
            yield [(key[-HASH_BYTES:], raw) for key, raw in found]

    def tasks(self, tenant: str, tasks: Sequence[bytes]) -> list[TaskRow | None]:
        """Tasks, in the order asked."""
        found = self.store.get_many("tasks", [prefix(tenant) + task for task in tasks])
        return [decode_task(raw) if raw else None for raw in found]

    def arrivals(self, tenant: str) -> Iterator[bytes]:
        """Every task of a tenant, the last that came first."""
        for _, task in self.store.scan("arrivals", prefix(tenant), back=True):
            yield task

    def varied(self, tenant: str, least: int) -> bool:
        """Whether a tenant's runs are of so many tasks."""
        return sum(1 for _ in islice(self.arrivals(tenant), least)) == least

    def vectors(self, tenant: str, tasks: Sequence[bytes]) -> list[bytes | None]:
        """Stored vectors with their marks, in the order asked."""
        return self.store.get_many("vectors", [prefix(tenant) + task for task in tasks])

    def all_vectors(self, tenant: str) -> Iterator[tuple[bytes, bytes]]:
        """(task, stored vector with its mark) of every task that has one."""
        for key, raw in self.store.scan("vectors", prefix(tenant)):
            yield key[-HASH_BYTES:], raw

    def pending(self, tenant: str, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(place, task) of the tasks that lack their vector, in order from a place."""
        start = prefix(tenant)
        for key, raw in self.store.scan("pending", start, start=start + after):
            yield key.removeprefix(start), raw
