"""Who owns a partition, decided without I/O: the table of owners against what a store says of itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from jetmem.runtime.errors import Broken
from jetmem_schemas import subjects
from jetmem_schemas.owning import NOBODY, Owned, Owners


@dataclass(frozen=True, slots=True)
class Me:
    """One process: ordinal `shard` of `shards`, and the identity of its store.

    An ordinal beyond the last wants nothing: it gives away what it has.
    """

    shard: int
    shards: int
    store: str

    def wants(self, part: int) -> bool:
        """Whether a partition should be here."""
        return part % self.shards == self.shard


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a table is ours.

    Attributes:
        mine: Partitions that we own, with how often they had moved.
        lost: What the store has and others own since.
    """

    mine: Mapping[int, int] = field(default_factory=dict)
    lost: Collection[int] = ()


def first_table(me: Me, owned: Mapping[int, int], *, recorded: bool) -> Owners:
    """The table where there is none, made by shard 0 alone.

    Args:
        me: This process.
        owned: What its store has, should the table be lost.
        recorded: Its store has read of MEMORY, before there was a table: it has everything.
    """
    parts = range(subjects.PARTITIONS)
    if owned:
        return [Owned(me.shard, me.store, owned[part]) if part in owned else Owned() for part in parts]
    if recorded:
        return [Owned(me.shard, me.store) for _ in parts]
    return [Owned(part % me.shards, me.store if me.wants(part) else "") for part in parts]


def claimed(me: Me, table: Owners, owned: Mapping[int, int], silent: Collection[int] = ()) -> Owners:
    """The table with our store in each line that is for us.

    Args:
        me: This process.
        table: As it is; empty stays empty.
        owned: What the store has.
        silent: Partitions of our ordinal that another store has and nobody answers for: that store is taken for lost.
    """
    made: Owners = []
    for part, line in enumerate(table):
        if line.owner == NOBODY and part in owned:
            made.append(msgspec.structs.replace(line, owner=me.shard, store=me.store, moves=owned[part]))
        elif line.owner == me.shard and (not line.store or part in silent):
            made.append(msgspec.structs.replace(line, store=me.store))
        else:
            made.append(line)
    return made


def others(me: Me, table: Owners) -> list[int]:
    """Partitions of our ordinal that another store has."""
    return [part for part, line in enumerate(table) if line.owner == me.shard and line.store not in ("", me.store)]


def standing(me: Me, table: Owners, owned: Mapping[int, int]) -> Standing:
    """What is ours by a table in which we have claimed.

    Raises:
        Broken: Table and store contradict each other: one of them is an older copy, or two stores are alike.
    """
    mine: dict[int, int] = {}
    lost: list[int] = []
    for part, line in enumerate(table):
        known = owned.get(part)
        if known is not None and line.moves < known:
            raise Broken(
                f"partition {part} moved {known} times, but only {line.moves} times by the table of owners: an older "
                f"copy of it was restored; restore the one of the same time as the stores"
            )
        if line.store == me.store:
            mine[part] = line.moves
        elif known is not None and line.moves > known:
            lost.append(part)
        elif known is not None or line.owner == me.shard:
            raise Broken(
                f"partition {part} belongs to another store of persist-{line.owner}; this one serves nothing, so that "
                f"no two answer for a tenant: end one of the two processes; if the other's store is lost, restore it, "
                f"or start with JETMEM_PERSIST_ACCEPT_GAP=true if what MEMORY no longer holds may be lost"
            )
    return Standing(mine, lost)


def released(me: Me, table: Owners, part: int, to: int, store: str) -> Owners:
    """The table in which a partition of ours is another's, whose files alone may not be all that hold it."""
    made = list(table)
    line = table[part]
    if line.store == me.store:
        left = sorted({*line.left, me.store} - {store})
        made[part] = Owned(to, store, line.moves + 1, left)
    return made


def holding(table: Owners, part: int, store: str) -> Owners:
    """The table in which a store may hold some of a partition."""
    made = list(table)
    line = table[part]
    if store not in (line.store, *line.left):
        made[part] = msgspec.structs.replace(line, left=sorted({*line.left, store}))
    return made


def rid(table: Owners, parts: Collection[int], store: str) -> Owners:
    """The table in which a store holds nothing more of some partitions."""
    return [
        msgspec.structs.replace(line, left=[each for each in line.left if each != store]) if part in parts else line
        for part, line in enumerate(table)
    ]
