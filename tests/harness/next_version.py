"""The version after this one: `python next_version.py <what jetmem takes>`. Two of its stores have another format.

persist keeps its log compressed, which `migrate` converts; to the version before such entries are nonsense. index is
made anew. `NEXT_DIES_AFTER=<rows>` kills a conversion half-way.
"""

import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jetmem.persist.record as record
from jetmem import cli, supervisor
from jetmem.adapters.layouts import Layout, Step
from jetmem.adapters.rocks import Batch, Rocks

#: A byte that msgpack never uses.
MARK: Final = b"\xc1"
FORMAT: Final = record.FORMAT + 1
_ROWS: Final = 20


def pack(value: bytes) -> bytes:
    return MARK + zlib.compress(value)


def unpack(value: bytes) -> bytes:
    assert value.startswith(MARK), "every row of the log was converted"
    return zlib.decompress(value[1:])


class PackedBatch(Batch):
    def put(self, family: str, key: bytes, value: bytes) -> None:
        super().put(family, key, pack(value) if family == "log" else value)


class Packed(Rocks):
    """What persist of the next version opens."""

    def get(self, family: str, key: bytes) -> bytes | None:
        found = super().get(family, key)
        return unpack(found) if found and family == "log" else found

    def get_many(self, family: str, keys: Any) -> list[bytes | None]:
        found = super().get_many(family, keys)
        return [unpack(each) if each else each for each in found] if family == "log" else found

    def scan(
        self, family: str, prefix: bytes, *, start: bytes | None = None, back: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for key, value in super().scan(family, prefix, start=start, back=back):
            yield key, unpack(value) if family == "log" else value

    def batch(self) -> PackedBatch:
        return PackedBatch(self._handles)


class PackedLayout(Layout, frozen=True, kw_only=True):
    def open(self, data: Path) -> Rocks:
        return Packed(self.path(data), self.families, format_version=self.format, oldest=self.oldest)


def compress_log(store: Any) -> None:
    """Run again on rows that it has changed it leaves them alone."""
    dies_after = int(os.environ.get("NEXT_DIES_AFTER", "0"))
    batch = store.batch()
    for done, (key, value) in enumerate(store.scan("log", b""), 1):
        if not value.startswith(MARK):
            batch.put("log", key, pack(value))
        if len(batch) >= _ROWS:
            store.write(batch, sync=True)
            batch = store.batch()
        if done == dies_after:
            os._exit(9)
    store.write(batch, sync=True)


def become_next() -> None:
    """Whoever is imported from now on is of the next version."""
    record.WHOLE = record.SHARED = record.FORMAT = FORMAT
    record.COPIED += 1
    import jetmem.index.app
    import jetmem.persist.app

    jetmem.persist.app.LAYOUT = PackedLayout(
        stage="persist",
        families=record.FAMILIES,
        format=FORMAT,
        steps=(Step(to=FORMAT, convert=compress_log),),
        below="",
    )
    old = jetmem.index.app.LAYOUT
    jetmem.index.app.LAYOUT = Layout(
        stage="index", families=old.families, format=old.format + 1, steps=(Step(to=old.format + 1),)
    )


if __name__ == "__main__":
    myself = [sys.executable, "-P", str(Path(__file__).resolve())]
    supervisor.stage_command = lambda stage: [*myself, "run", stage]
    supervisor.up_command = lambda: [*myself, "up"]
    become_next()
    cli.main()
