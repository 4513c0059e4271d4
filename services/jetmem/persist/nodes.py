"""Nodes of the table of contents on disk: newest versions, all versions, and what each was made from.

A node is an entry of the log like any other; its rows here let it be found by id, by version and by source.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from jetmem.domain import keys
from jetmem.persist.core import Around
from jetmem.persist.record import NodeRow, Record, Write
from jetmem_schemas import toc
from jetmem_schemas.internal import Entry
from jetmem_schemas.subjects import partition_of

#: Passing a row costs a tenth of seeking one.
_PASSED_MAX: Final = 10
_U64_BYTES: Final = 8
_encode = msgspec.msgpack.Encoder().encode
_row = msgspec.msgpack.Decoder(NodeRow).decode


class _Kept(msgspec.Struct):
    """What of a recorded node its rows were made of."""

    version: int
    sources: list[tuple[int, int]] = []


_kept = msgspec.json.Decoder(_Kept).decode


def node_key(tenant: str, id_: str) -> bytes:
    """Key of a node's newest version."""
    return keys.tenant(partition_of(tenant), tenant) + id_.encode()


def version_key(tenant: str, id_: str, version: int) -> bytes:
    """Key of one version of a node; the newest sorts first."""
    return _versions(tenant, id_) + keys.u64(keys.U64_MAX - version)


def copies_prefix(tenant: str, id_: str) -> bytes:
    """Where further copies of a node in MEMORY are listed; no id of an event is empty, so they are apart."""
    return keys.under(keys.tenant(partition_of(tenant), tenant), "", id_)


def newest(record: Record, tenant: str, ids: Sequence[str]) -> list[NodeRow | None]:
    """The newest version of each node, which may be that it is gone, in the order asked."""
    found = record.store.get_many("nodes", [node_key(tenant, id_) for id_ in ids])
    return [_row(raw) if raw else None for raw in found]


def versions(record: Record, tenant: str, ids: Sequence[str], version: int) -> list[NodeRow | None]:
    """One version of each node, in the order asked."""
    found = record.store.get_many("versions", [version_key(tenant, id_, version) for id_ in ids])
    return [_row(raw) if raw else None for raw in found]


def years(record: Record, tenant: str) -> list[NodeRow]:
    """The newest versions of all year nodes, by id."""
    return [_row(raw) for _, raw in record.store.scan("nodes", node_key(tenant, "toc:year:"))]


def around(write: Write, tenant: str, node: toc.Node) -> Around:
    """What is recorded around a version of a node, this write included."""
    part = partition_of(tenant)
    key = node_key(tenant, node.id)
    latest = write.nodes.get(key) or newest(write.record, tenant, [node.id])[0]
    same = None
    if latest is not None and node.version <= latest.version:
        key = version_key(tenant, node.id, node.version)
        same = write.versions.get(key) or versions(write.record, tenant, [node.id], node.version)[0]
    held = write.entry(part, same.rseq) if same is not None else None
    covered = write.entry(part, node.version) if node.version <= write.head(part).rseq else None
    forgot = write.record.last_forget(tenant)
    return Around(
        latest.version if latest else 0,
        held.body if held else None,
        forgot.rseq if forgot else 0,
        covered.seq if covered else None,
    )


def add(write: Write, entry: Entry, node: toc.Node) -> None:
    """List one version, which is the newest; what ends a node is made from nothing, and stays."""
    tenant = entry.tenant
    key, of_version = node_key(tenant, node.id), version_key(tenant, node.id, node.version)
    row = write.nodes[key] = write.versions[of_version] = NodeRow(node.version, entry.rseq, node.gone)
    write.batch.put("nodes", key, _encode(row))
    write.batch.put("versions", of_version, _encode(row))
    if not node.gone:
        for source in _source_keys(tenant, node.sources, entry.rseq):
            write.batch.put("sources", source, b"")


def remove(write: Write, tenant: str, gone: Iterable[Entry]) -> None:
    """Unlist versions that are being blanked; the newest one left is the node then.

    That an older one is back is right: it was made from nothing that is erased. It cannot be taken for new: what is
    older than this forget is not recorded again.
    """
    lost: dict[str, set[int]] = {}
    for entry in gone:
        kept = _kept(entry.body)
        lost.setdefault(entry.id, set()).add(kept.version)
        write.batch.delete("versions", version_key(tenant, entry.id, kept.version))
        for source in _source_keys(tenant, kept.sources, entry.rseq):
            write.batch.delete("sources", source)
    for (id_, numbers), latest in zip(lost.items(), newest(write.record, tenant, list(lost)), strict=True):
        if latest is None or latest.version not in numbers:
            continue
        left = _newest_but(write.record, tenant, id_, latest.version, numbers)
        if left is None:
            write.batch.delete("nodes", node_key(tenant, id_))
        else:
            write.batch.put("nodes", node_key(tenant, id_), _encode(left))


def _newest_but(record: Record, tenant: str, id_: str, latest: int, numbers: set[int]) -> NodeRow | None:
    # forward, as removing goes: behind lie the marks of what was just deleted, which a search would have to pass over
    start = version_key(tenant, id_, latest)
    for _, raw in record.store.scan("versions", _versions(tenant, id_), start=start):
        row = _row(raw)
        if row.version not in numbers:
            return row
    return None


def entries_of(record: Record, tenant: str) -> list[int]:
    """Numbers of all entries that are versions of a tenant's nodes, by node."""
    prefix = keys.tenant(partition_of(tenant), tenant)
    return [_row(raw).rseq for _, raw in record.store.scan("versions", prefix)]


def made_from(record: Record, tenant: str, rseqs: Iterable[int]) -> list[int]:
    """Numbers of the entries that are versions of nodes made from any of these entries, in order."""
    wanted = sorted(rseqs)
    prefix = keys.tenant(partition_of(tenant), tenant)
    found: set[int] = set()
    for level in _levels(record, prefix) if wanted else ():
        found.update(_met(record, prefix + bytes((level,)), 4**level, wanted))
    return sorted(found)


def _levels(record: Record, prefix: bytes) -> Iterator[int]:
    """Sizes of ranges that a tenant's nodes have."""
    level = 0
    while True:
        row = next(record.store.scan("sources", prefix, start=prefix + bytes((level,))), None)
        if row is None:
            return
        level = row[0][len(prefix)]
        yield level
        level += 1


def _met(record: Record, prefix: bytes, size: int, wanted: list[int]) -> Iterator[int]:
    """Of the ranges of at most `size`, those that hold a wanted number.

    Such a range begins less than `size` before it: what lies between two of these windows is passed over, by seeking
    where it is much. So the rows read grow with what is met, whatever else there is.
    """
    at = 0
    while at < len(wanted):
        passed = 0
        for key, _ in record.store.scan("sources", prefix, start=prefix + keys.u64(max(0, wanted[at] - size + 1))):
            first, last, rseq = (keys.from_u64(key[end - _U64_BYTES : end or None]) for end in (-16, -8, 0))
            at = bisect_left(wanted, first, at)
            if at == len(wanted):
                return
            if wanted[at] <= last:
                yield rseq
                passed = 0
                continue
            passed += 1
            if passed > _PASSED_MAX and first < wanted[at] - size + 1:
                break
        else:
            return


def _source_keys(tenant: str, sources: list[tuple[int, int]], rseq: int) -> Iterator[bytes]:
    """One row a range, by its size and where it begins."""
    prefix = keys.tenant(partition_of(tenant), tenant)
    for first, last in _joined(sources):
        level = ((last - first).bit_length() + 1) // 2
        yield prefix + bytes((level,)) + keys.u64(first) + keys.u64(last) + keys.u64(rseq)


def _joined(sources: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same numbers in as few ranges as there can be."""
    held: tuple[int, int] | None = None
    for first, last in sorted(each for each in sources if each[0] <= each[1]):
        if held is None or first > held[1] + 1:
            if held is not None:
                yield held
            held = (first, last)
        else:
            held = (held[0], max(held[1], last))
    if held is not None:
        yield held


def _versions(tenant: str, id_: str) -> bytes:
    return keys.under(keys.tenant(partition_of(tenant), tenant), id_)
