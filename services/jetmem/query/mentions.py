"""What hits name besides themselves, near-duplicates and corrections: only what persist still holds is named.

index may lag behind a forget. A near-duplicate must not vanish with the hit that it was folded under, and the id of
what was forgotten must not be told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from jetmem_schemas.internal import FetchReply, Found, decode_entry

#: Fetches events by id as the search does, with neighbours or without.
Fetch = Callable[[Sequence[str]], Awaitable[FetchReply]]


async def settle(
    chunk: Sequence[Found], reply: FetchReply, bare: Fetch, whole: Fetch
) -> tuple[list[Found], FetchReply]:
    """Hits that name only what is held; in place of one that is gone, the newest of what was folded under it.

    Args:
        chunk: Hits of index, in order.
        reply: What persist holds of them, as far as it got.
        bare: Fetches what is only named.
        whole: Fetches what is to be shown.

    Returns:
        As many hits in the same order, and the reply with those that came in place of others.
    """
    named = list(dict.fromkeys(id_ for found in chunk for id_ in _named(found)))
    if not named:
        return list(chunk), reply
    held = _ids(reply)
    known = held | await _held(named, bare)
    fetched = _fetched(chunk, held) if reply.cut else len(chunk)
    settled = [_settled(found, known, gone=at < fetched and found.id not in held) for at, found in enumerate(chunk)]
    instead = [new.id for old, new in zip(chunk, settled, strict=True) if new.id != old.id]
    if not instead:
        return settled, reply
    more = await whole(instead)
    return settled, FetchReply([*reply.items, *more.items], reply.checkpoint, reply.cut)


def _named(found: Found) -> list[str]:
    return [*found.folded, found.superseded_by] if found.superseded_by else found.folded


def _fetched(chunk: Sequence[Found], held: set[str]) -> int:
    """How far a reply that was cut got: whatever stands behind it is not known to be gone."""
    return max((at + 1 for at, found in enumerate(chunk) if found.id in held), default=0)


def _settled(found: Found, known: set[str], *, gone: bool) -> Found:
    folded = [each for each in found.folded if each in known]
    by = found.superseded_by if found.superseded_by in known else ""
    if gone and folded:  # what corrects the hit that is gone need not correct this one
        return msgspec.structs.replace(found, id=folded[0], folded=folded[1:], superseded_by="")
    return msgspec.structs.replace(found, folded=folded, superseded_by=by)


async def _held(named: Sequence[str], bare: Fetch) -> set[str]:
    """Which of the ids persist holds; one fetch, unless their texts are very long."""
    held: set[str] = set()
    left = list(named)
    while left:
        reply = await bare(left)
        came = _ids(reply)
        held |= came
        if not reply.cut or not came:
            break
        left = left[max(at for at, each in enumerate(left) if each in came) + 1 :]
    return held


def _ids(reply: FetchReply) -> set[str]:
    return {decode_entry(each.entry).id for each in reply.items}
