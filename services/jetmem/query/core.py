"""What query decides, without I/O: what a request means, what an answer may claim, where a page ends."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import msgspec

from jetmem import flow
from jetmem.query.highlights import Marker
from jetmem.query.settings import QuerySettings
from jetmem.runtime import limits
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas import subjects
from jetmem_schemas.asking import REQUEST_BYTES_MAX, Moment, Request
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import TS_MAX_MS, TS_MIN_MS, Event, Role, decode_json, epoch_ms, rfc3339
from jetmem_schemas.internal import AppliedReply, CoverReply, Filters, Found, Head, decode_entry
from jetmem_schemas.procedures import Predict, Recommend
from jetmem_schemas.ranking import Rank
from jetmem_schemas.requests import (
    VERBS,
    Expand,
    Hit,
    Item,
    Route,
    Search,
    Timeline,
    Toc,
)

#: Ranked hits up to which a cursor leads; beyond, a narrower question serves better than the next page.
OFFSET_MAX: Final = 10_000
#: The index is asked for whole windows, so that the pages of one question are cut from the same ranking.
FIND_WINDOW: Final = 100
#: Hits asked for beyond the page, for those that persist no longer holds.
FIND_SLACK: Final = 10
#: An error's message and field: one short line, whatever the request held.
_MESSAGE_CHARS_MAX: Final = 300
_FIELD_CHARS_MAX: Final = 100
_DIGEST_BYTES: Final = 8
_UNHEARD: Final = ("cursor", "limit", "after", "wait_ms")
_KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_ROLES: Final = frozenset(get_args(Role))
_event = msgspec.json.Decoder(Event).decode
_canonical = msgspec.json.Encoder(order="deterministic").encode
_encode_json = msgspec.json.Encoder().encode

#: Filters that no node passes or fails.
_OF_EVENTS: Final = ("author", "role", "tags")
#: The arms of a search.
ARMS: Final = ("text", "vector")


class Place(msgspec.Struct, frozen=True, array_like=True):
    """What a cursor says: whose it is, and where the next page starts.

    `at` is a place in a ranking (search) or a list (get); `key` another stage's own cursor.
    """

    digest: bytes
    at: int = 0
    key: bytes = b""


_DECODERS: Final = {verb: msgspec.json.Decoder(kind).decode for verb, (kind, _) in VERBS.items()}
_place = msgspec.msgpack.Decoder(Place).decode


def parse(subject: str, payload: bytes) -> tuple[str, str, Request]:
    """Tenant, verb and request of one question; an empty payload is `{}`.

    Raises:
        SchemaError: `bad_subject`, `unknown_verb`, `too_large`, `bad_utf8`, `too_deep`, `bad_json`, `bad_field`,
            `missing_field`, `bad_time`.
    """
    tenant, verb = subjects.parse_query(subject)
    if verb not in VERBS:
        raise SchemaError("unknown_verb", f"no such query verb, must be one of {', '.join(VERBS)}", "verb")
    if len(payload) > REQUEST_BYTES_MAX:
        raise SchemaError("too_large", f"a request has at most {REQUEST_BYTES_MAX} bytes")
    request: Request = decode_json(payload or b"{}", _DECODERS[verb])
    _check(request)
    return tenant, verb, request


def _check(request: Request) -> None:
    """What one field alone cannot say."""
    if isinstance(request, Search | Route) and not request.query.strip():
        raise SchemaError("bad_field", "query must hold more than white space", "query")
    if isinstance(request, Recommend | Predict) and not request.task.strip():
        raise SchemaError("bad_field", "task must hold more than white space", "task")
    if isinstance(request, Search) and request.target != "events":
        for field in _OF_EVENTS:
            if getattr(request, field):
                raise SchemaError("bad_field", f"{field} is of events, nodes have none", field)
    if isinstance(request, Expand):
        if request.id is not None and request.grip is not None:
            raise SchemaError("bad_field", "one of id, grip is asked for, not both", "grip")
        if request.id is None and request.grip is None:
            raise SchemaError("missing_field", "one of id, grip is needed", "id")
    if isinstance(request, Toc) and request.node is None and request.version is not None:
        raise SchemaError("bad_field", "version goes with node", "version")


def verb_label(subject: str) -> str:
    """The metric label of a refused request: a verb we have, or `unknown`."""
    parts = subject.split(".")
    return parts[3] if len(parts) == 4 and parts[3] in VERBS else "unknown"


def one_line(error: SchemaError | RequestFailed) -> RequestFailed:
    """The same refusal with texts that fit a header line, whatever field names the request came with."""
    return RequestFailed(error.code, _plain(error.message, _MESSAGE_CHARS_MAX), _plain(error.field, _FIELD_CHARS_MAX))


def _plain(text: str, chars: int) -> str:
    shown = text[:chars].encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() else " " for c in shown)[:chars]


def filters_of(request: Search | Timeline) -> Filters:
    """What a request is narrowed to.

    Raises:
        SchemaError: A filter that no event can match, which is a mistake and not a question.
    """
    since, until = span_of(request.since, request.until)
    if request.author == "":
        raise SchemaError("bad_field", "author must not be empty", "author")
    kinds, roles = _several(request.kind), _several(request.role)
    for kind in kinds:
        if not _KIND.fullmatch(kind):
            raise SchemaError("bad_field", "kind must match [a-z][a-z0-9_]{0,31}", "kind")
    for role in roles:
        if role not in _ROLES:
            raise SchemaError("bad_field", f"role must be one of {', '.join(sorted(_ROLES))}", "role")
    if "" in request.tags:
        raise SchemaError("bad_field", "a tag must not be empty", "tags")
    return Filters(
        request.agent or "", request.session or "", request.author or "", kinds, roles, request.tags, since, until
    )


def rank_of(asked: Rank | None, settings: QuerySettings) -> Rank:
    """The ranking options of a search: those it names, and where it names none at all, the service's."""
    if asked is not None:
        return asked
    return Rank(**{name: getattr(settings, f"rank_{name}") for name in Rank.__struct_fields__})


def span_of(since: Moment | None, until: Moment | None) -> tuple[int | None, int | None]:
    """[since, until) in epoch ms.

    Raises:
        SchemaError: `bad_time` out of range; `bad_field` if nothing can lie between.
    """
    first = None if since is None else epoch_ms(since, "since")
    last = None if until is None else epoch_ms(until, "until")
    if first is not None and last is not None and first >= last:
        raise SchemaError("bad_field", "since must be before until", "since")
    return first, last


def _several(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def digest_of(tenant: str, verb: str, request: Request) -> bytes:
    """What makes two requests the same question, whichever page they ask for."""
    fields = {k: v for k, v in msgspec.structs.asdict(request).items() if k not in _UNHEARD}
    return hashlib.blake2b(_canonical([tenant, verb, fields]), digest_size=_DIGEST_BYTES).digest()


def cursor_to(digest: bytes, at: int = 0, key: bytes = b"") -> str:
    """An opaque cursor."""
    packed = msgspec.msgpack.encode(Place(digest, at, key))
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def place_of(cursor: str | None, digest: bytes, at_max: int = OFFSET_MAX) -> Place:
    """Where a page starts; the first one without a cursor.

    Raises:
        RequestFailed: `bad_cursor`: not ours, or of another question.
    """
    if cursor is None:
        return Place(digest)
    try:
        place = _place(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise RequestFailed("bad_cursor", "the cursor is not one that this verb gave out", "cursor") from error
    if place.digest != digest:
        raise RequestFailed("bad_cursor", "the cursor belongs to another question; filters must stay", "cursor")
    if not 0 <= place.at <= at_max:
        raise RequestFailed("bad_cursor", "the cursor is not one that this verb gave out", "cursor")
    return place


def find_limit(start: int, limit: int) -> int:
    """How many ranked hits to ask for: the page, some slack, rounded up to whole windows."""
    return -(-(start + limit + FIND_SLACK) // FIND_WINDOW) * FIND_WINDOW


@dataclass(slots=True)
class Standing:
    """What an answer may claim: how fresh each arm is, which are missing, which came too late.

    Attributes:
        after: The MEMORY sequence that the asker wants covered; 0 for none.
        timezone: Where the answer is read.
    """

    after: int
    timezone: str = "UTC"
    fresh: dict[str, int] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)
    stale: bool = False

    def covered(self, cover: CoverReply) -> None:
        """Take in what persist says of `after`."""
        self.seen("record", cover.checkpoint)
        if not cover.covered:
            self.late(["record"])

    def seen(self, arm: str, seq: int) -> None:
        """An arm is at least this fresh."""
        self.fresh[arm] = max(seq, self.fresh.get(arm, 0))

    def without(self, arms: Iterable[str], *, covered: bool = False) -> None:
        """Arms that this answer should have had; `covered`: what they would cover is in it all the same."""
        lacking = list(arms)
        self.degraded = list(dict.fromkeys([*self.degraded, *lacking]))
        # else an arm that did not run does not cover `after` either
        self.stale = self.stale or bool(self.after and lacking and not covered)

    def late(self, arms: Sequence[str]) -> None:
        """Arms that did not reach `after` in time."""
        self.without(arms)

    def arm_at(self, arm: str, seq: int, *, late: bool) -> None:
        """A projection's arm applied up to `seq`.

        The partition's last entry may be older than `after` (a repeat, a dead letter); an arm that was waited
        for and is not late is fresh up to `after` all the same.
        """
        reached = self.after if self.after and not late and "record" not in self.degraded else 0
        self.seen(arm, max(seq, reached))

    def answered(self, arm: str, at: Head, rseq: int) -> None:
        """An arm answered as of `at`; `rseq` is the entry that covers `after`, 0 where none is to be covered."""
        late = at.rseq < rseq
        self.arm_at(arm, at.seq, late=late)
        if late:
            self.late([arm])

    def common(self, took_ms: float) -> dict[str, Any]:
        """The fields of every reply."""
        place = {arm: number for number, arm in enumerate(flow.arms())}
        self.degraded.sort(key=lambda arm: (place.get(arm, len(place)), arm))
        told = {"fresh": self.fresh, "degraded": self.degraded, "stale": self.stale, "took_ms": round(took_ms, 3)}
        return told | {"timezone": self.timezone}


def wholly_late(reply: AppliedReply, rseq: int) -> list[str]:
    """Arms of a projection that do not answer up to an entry yet: not applied, or something of it pending."""
    return [arm for arm, head in reply.at.items() if arm in reply.late or head.rseq < rseq]


def wanted_arms(mode: str) -> list[str]:
    """The arms that an answer of this mode should rest on."""
    return list(ARMS) if mode == "hybrid" else [mode]


def mode_of(wanted: str, missing: Iterable[str]) -> str:
    """What is left of a mode when arms are missing; `none` if nothing is."""
    left = [arm for arm in wanted_arms(wanted) if arm not in set(missing)]
    return wanted if len(left) == len(wanted_arms(wanted)) else (left[0] if left else "none")


def item_fields(encoded: bytes) -> dict[str, Any]:
    """One record as replies show it."""
    entry = decode_entry(encoded)
    event = _event(entry.body)
    return {
        "id": entry.id,
        "agent": entry.agent,
        "session": entry.session,
        "ts": _time(entry.ts),
        "at": _time(entry.at),
        "seq": entry.seq,
        "kind": event.kind,
        "role": event.role,
        "author": event.author,
        "text": event.text,
        "tags": event.tags,
        "meta": event.meta,
        "importance": event.importance,
        "supersedes": event.supersedes,
    }


def item(encoded: bytes) -> Item:
    """One record as replies show it."""
    return Item(**item_fields(encoded))


def hit(
    found: Found, encoded: bytes, before: Sequence[bytes], after: Sequence[bytes], marks: Marker, *, explain: bool
) -> Hit:
    """One ranked record."""
    fields = item_fields(encoded)
    return Hit(
        **fields,
        score=found.score,
        arms=found.arms,
        highlights=marks.ranges(fields["text"]),
        before=[item(e) for e in before],
        after=[item(e) for e in after],
        explain=found.scores if explain else {},
        superseded_by=found.superseded_by or None,
        folded=found.folded,
    )


def time_text(ms: int) -> str:
    """A time as replies write it."""
    return _time(ms)


def _time(ms: int) -> str:
    # A zone of +14:00 carries the first hours of year 1 below what a datetime can say.
    return rfc3339(min(max(ms, TS_MIN_MS), TS_MAX_MS))


def fitting(items: Sequence[msgspec.Struct], bytes_max: int = limits.REPLY_BYTES_MAX) -> int:
    """How many of the items, from the first, fit one reply; at least one."""
    size = 0
    for number, each in enumerate(items):
        size += len(_encode_json(each)) + 1
        if size > bytes_max and number:
            return number
    return len(items)


def around(event: Item, before: Sequence[Item], after: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """The nearest neighbours that fit a reply which shows each of them twice."""
    left = limits.REPLY_BYTES_MAX - 2 * len(_encode_json(event))
    kept: tuple[list[Item], list[Item]] = ([], [])
    sides = (list(reversed(before)), list(after))
    for distance in range(max(len(before), len(after))):
        for side, mine in zip(sides, kept, strict=True):
            if distance < len(side) and len(mine) == distance:
                left -= 2 * (len(_encode_json(side[distance])) + 1)
                if left >= 0:
                    mine.append(side[distance])
    return kept[0][::-1], kept[1]
