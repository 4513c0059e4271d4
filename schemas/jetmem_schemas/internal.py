"""What stages say to each other: facts, scans, embedding jobs. MessagePack, never seen by users."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from jetmem_schemas.ranking import Rank

#: What a stage says of itself in numbers and names.
Counts: TypeAlias = dict[str, int | float | str]
#: One slice of a scan.
SCAN_BYTES_MAX: Final = 800_000


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One fact in a partition's log.

    `rseq` numbers the partition without a gap from 1; `seq` is the MEMORY sequence it came from; `at` the
    broker's time and `ts` the event's own, both epoch ms; `body` the payload verbatim (empty when blank).

    `kind` is event, run, procedure, `derived` (a `toc.Node`), `forgot` (with a `Forgotten`) or `blank` (its words were
    erased). A newer persist may know more: who does not know a kind passes the entry over.
    """

    rseq: int
    seq: int
    at: int
    kind: str
    tenant: str
    agent: str
    session: str
    id: str
    ts: int
    body: bytes


class Forgotten(msgspec.Struct, frozen=True, array_like=True):
    """The body of a `forgot` entry: what was erased, resolved by persist. At most 500 entries.

    `ids` are those of what agents said; `rseqs` has the versions of nodes that were made from it too, which go first:
    a node of the id may still be there, or come again.
    """

    ids: list[str]
    rseqs: list[int]
    last: bool


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """One announcement on RECORD: contiguous encoded entries of one partition.

    `before_seq` is the MEMORY sequence of entry `first - 1`, so that a reader of another history notices. `traces` are
    the W3C contexts that messages of some entries carried; a scan has none.
    """

    partition: int
    first: int
    before_seq: int
    entries: list[bytes]
    traces: list[str] = []


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The last entry of a partition: its number and its MEMORY sequence; (0, 0) when empty."""

    rseq: int = 0
    seq: int = 0


class Heads(msgspec.Struct, frozen=True, array_like=True):
    """Heads of all partitions that one persist has, each second: what a reader that hears nothing else goes by."""

    checkpoint: int
    heads: dict[int, Head]


class ScanRequest(msgspec.Struct, frozen=True):
    """Entries after `after`, whose MEMORY sequence the reader believes to be `after_seq`."""

    after: int
    after_seq: int
    bytes_max: int = SCAN_BYTES_MAX


class ScanReply(msgspec.Struct, frozen=True):
    """A slice of the log. `mismatch`: the reader holds another history and must start again from 0."""

    entries: list[bytes]
    head: Head
    checkpoint: int
    mismatch: bool = False


class CoverRequest(msgspec.Struct, frozen=True):
    """Which entry covers MEMORY sequence `after`; waits up to `wait_ms` until it is recorded."""

    after: int
    wait_ms: int


class CoverReply(msgspec.Struct, frozen=True):
    """`rseq` covers the asked sequence if `covered`; `head` and `checkpoint` say where persist is."""

    covered: bool
    rseq: int
    head: Head
    checkpoint: int


class FetchRequest(msgspec.Struct, frozen=True):
    """Records by id, in the order asked, each with `before` and `after` neighbours of its session."""

    tenant: str
    ids: list[str]
    before: int = 0
    after: int = 0
    within_ms: int = 0


class FetchedItem(msgspec.Struct, frozen=True):
    """One record and its neighbours, encoded `Entry`s."""

    entry: bytes
    before: list[bytes] = []
    after: list[bytes] = []


class FetchReply(msgspec.Struct, frozen=True):
    """What of the asked ids is held; ids not held are absent. `cut`: more would not fit one reply."""

    items: list[FetchedItem]
    checkpoint: int
    cut: bool = False


class TimelineRequest(msgspec.Struct, frozen=True):
    """Records of a tenant by time; ms bounds are [since, until)."""

    tenant: str
    limit: int
    descending: bool
    agent: str = ""
    session: str = ""
    author: str = ""
    kinds: list[str] = []
    roles: list[str] = []
    tags: list[str] = []
    since: int | None = None
    until: int | None = None
    cursor: bytes = b""


class TimelineReply(msgspec.Struct, frozen=True):
    """Encoded `Entry`s in order, and where the next page starts (empty: no more)."""

    entries: list[bytes]
    cursor: bytes
    checkpoint: int


class ActivityRequest(msgspec.Struct, frozen=True):
    """Sessions or agents of a tenant, latest first."""

    tenant: str
    limit: int
    agent: str = ""
    since: int | None = None
    until: int | None = None
    cursor: bytes = b""


class Activity(msgspec.Struct, frozen=True, array_like=True):
    """A session (or, with session `""`, an agent): how many events, first and last time, epoch ms."""

    agent: str
    session: str
    events: int
    first: int
    last: int
    sessions: int = 1


class ActivityReply(msgspec.Struct, frozen=True):
    """One page of sessions or agents."""

    items: list[Activity]
    cursor: bytes
    checkpoint: int


class EmbedText(msgspec.Struct, frozen=True, array_like=True):
    """One text to embed; `key` is the asker's own."""

    key: bytes
    text: str


class EmbedJob(msgspec.Struct, frozen=True):
    """Texts of one tenant; `reply` is the subject that stores the vectors and answers when it has.

    `attempts` counts deliveries before this job was split off another.
    """

    tenant: str
    reply: str
    texts: list[EmbedText]
    attempts: int = 0


class Vector(msgspec.Struct, frozen=True, array_like=True):
    """One vector, float32 little-endian bytes of length 4 x dimensions; empty with `reason` if it failed."""

    key: bytes
    data: bytes
    reason: str = ""


class VectorsReady(msgspec.Struct, frozen=True):
    """embed to the asker: vectors of one job. The asker answers when they are stored."""

    tenant: str
    model: str
    vectors: list[Vector]


class Stored(msgspec.Struct, frozen=True):
    """The asker to embed: these vectors are stored, the job can be acknowledged."""

    stored: int


class EncodeRequest(msgspec.Struct, frozen=True):
    """A question to be encoded now, before any job."""

    texts: list[str]


class EncodeReply(msgspec.Struct, frozen=True):
    """Vectors of a question, as in `Vector.data`."""

    model: str
    vectors: list[bytes]


class Filters(msgspec.Struct, frozen=True):
    """What a search is narrowed to; ms bounds are [since, until); lists mean any of, tags mean all of."""

    agent: str = ""
    session: str = ""
    author: str = ""
    kinds: list[str] = []
    roles: list[str] = []
    tags: list[str] = []
    since: int | None = None
    until: int | None = None


class FindRequest(msgspec.Struct, frozen=True):
    """Candidates for a question. `vector` is the encoded question, or empty for the text arm alone.

    `rseq` waits, up to `wait_ms`, until each arm of the mode has applied that entry (0: no wait); of nodes only until
    their words are there.
    """

    tenant: str
    query: str
    mode: Literal["hybrid", "text", "vector"]
    limit: int
    vector: bytes = b""
    model: str = ""
    filters: Filters = Filters()
    rseq: int = 0
    wait_ms: int = 0
    target: Literal["events", "nodes", "both"] = "events"
    rank: Rank = Rank()


class Found(msgspec.Struct, frozen=True, array_like=True):
    """One ranked event or `node`: the arms that found it, and `scores`, the features it was ranked by.

    `superseded_by` and `folded` as in `requests.Hit`; persist may no longer hold what they name.
    """

    id: str
    score: float
    arms: list[str]
    scores: dict[str, float]
    rseq: int = 0
    node: bool = False
    superseded_by: str = ""
    folded: list[str] = []


class FindReply(msgspec.Struct, frozen=True):
    """Ranked events and nodes, best first. `text` and `vector` are where each arm is; `late` arms missed the wait."""

    hits: list[Found]
    text: Head
    vector: Head
    late: list[str]
    missing: list[str]
    took_ms: float


class EntryVectorsRequest(msgspec.Struct, frozen=True):
    """The stored vectors of a tenant's entries, at most `limits.VECTORS_AT_ONCE` of them."""

    tenant: str
    rseqs: list[int]


class EntryVectorsReply(msgspec.Struct, frozen=True):
    """A vector for each entry asked for, float32 of unit length, b"" where there is none.

    Of an entry in several passages it is their mean. An entry up to `at` that has none gets none: it holds no text, or
    none that can be embedded. `model` is "" before the first vector of all.
    """

    model: str
    vectors: list[bytes]
    at: Head


class StageStatus(msgspec.Struct, frozen=True):
    """How one process of a stage is doing."""

    stage: str
    instance: str
    healthy: bool
    detail: str
    lag: int
    last_error: str
    counts: Counts


encode = msgspec.msgpack.Encoder().encode
decode_entry = msgspec.msgpack.Decoder(Entry).decode


class AppliedRequest(msgspec.Struct, frozen=True):
    """Has a projection applied entry `rseq`, in every arm? Waits up to `wait_ms`.

    What the entry erased is gone then; what an arm still lacks of a backlog is not waited for, `AppliedReply.at` tells.
    """

    tenant: str
    rseq: int
    wait_ms: int


class AppliedReply(msgspec.Struct, frozen=True):
    """Up to where each arm of the stage answers, nothing pending; `late` names those that missed the wait."""

    at: dict[str, Head]
    late: list[str]


class ForgetState(msgspec.Struct, frozen=True):
    """What persist knows of a forget of one tenant; `purged` when no file of persist or MEMORY holds what it erased."""

    known: bool = False
    erased: int = 0
    purged: bool = False


class DropLetter(msgspec.Struct, frozen=True):
    """Erase the dead letter that DEAD has under `seq`, and the refused message in MEMORY."""

    seq: int


class LetterDropped(msgspec.Struct, frozen=True):
    """`dropped` is false if there was no such letter."""

    dropped: bool


class NodesRequest(msgspec.Struct, frozen=True, array_like=True):
    """Nodes of the table of contents; no `ids` asks for the newest version of every year.

    `brief`: without `terms` and `sources`, nine tenths of a large one, which only walks read.
    """

    tenant: str
    ids: list[str] = []
    version: int = 0
    brief: bool = False


class NodesReply(msgspec.Struct, frozen=True, array_like=True):
    """JSON of `toc.Node` as recorded, in the order asked, without those that are not there.

    `cut`: the reply is full, ask again for the rest. `at`: MEMORY sequence up to which persist has read.
    """

    nodes: list[bytes]
    at: int
    cut: bool = False
