"""RocksDB through rocksdict: raw bytes, named column families, one synced write at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from rocksdict import (
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    CompactOptions,
    DbClosedError,
    Options,
    Rdict,
    WriteBatch,
)

from jetmem.runtime import metrics
from jetmem.runtime.errors import Broken, WrongFormat
from jetmem.runtime.scraping import at_scrape
from jetmem.runtime.store import WriteSet

#: Memory of unflushed writes per column family; two of them at most before a write waits.
_WRITE_BUFFER_BYTES = 32 * 1024 * 1024
_FORMAT_KEY = b"format"
#: There while rows are converted to the format under `_FORMAT_KEY`.
_CONVERTING_KEY = b"converting"
_TOLD = {
    metrics.write_stopped: "rocksdb.is-write-stopped",
    metrics.delayed_write_rate: "rocksdb.actual-delayed-write-rate",
}
_ROWS = "rocksdb.estimate-num-keys"
_TO_COMPACT = "rocksdb.estimate-pending-compaction-bytes"


class Memory(NamedTuple):
    """What a store may hold in memory, bytes; 0: as RocksDB has it. `writes` are flushed from there on."""

    blocks: int = 0
    writes: int = 0


class Batch:
    """Writes that happen together or not at all."""

    def __init__(self, handles: dict[str, Any]) -> None:
        self.raw: Any = WriteBatch(raw_mode=True)
        self._handles = handles

    def put(self, family: str, key: bytes, value: bytes) -> None:
        """Set one key."""
        self.raw.put(key, value, self._handles[family])

    def delete(self, family: str, key: bytes) -> None:
        """Remove one key, present or not."""
        self.raw.delete(key, self._handles[family])

    def __len__(self) -> int:
        return int(self.raw.len())


class Rocks:
    """One store, opened by one process. Reads from any thread; writes from one.

    Args:
        path: Its folder, made if it is not there.
        families: Its column families.
        format_version: The newest format that is read, and that of a new store.
        oldest: A store of an older format, or one half converted, is refused; 0 to convert it.
        memory: At most so many bytes of blocks that were read, with the indexes of their files, and of unflushed
            writes, over all families; by default 32 MB of blocks of each family, their indexes, and 256 MB of writes.

    Raises:
        Broken: Another process holds it, or it is damaged.
        WrongFormat: Its format is newer, or older.
    """

    def __init__(
        self, path: Path, families: Sequence[str], *, format_version: int, oldest: int = 0, memory: Memory = Memory()
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        cache = Cache(memory.blocks) if memory.blocks else None
        options = _bounded(_options(), cache)
        options.set_db_write_buffer_size(memory.writes)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_keep_log_file_num(2)
        options.set_max_total_wal_size(256 * 1024 * 1024)
        try:
            self._db = Rdict(
                str(path), options, column_families={name: _bounded(_options(), cache) for name in families}
            )
        except Exception as error:
            if "lock" in str(error).lower():
                raise Broken(f"store {path} is in use by another process") from error
            raise Broken(f"store {path} cannot be opened: {error}") from error
        self.path = path
        self._cache = cache  # it must outlive the store
        self._families = {name: self._db.get_column_family(name) for name in families}
        self._handles = {name: self._db.get_column_family_handle(name) for name in families}
        self._check_format(format_version, oldest)
        at_scrape(self)

    def _check_format(self, version: int, oldest: int) -> None:
        found = self.format
        if not found:
            self.set_format(version)
        elif found > version:
            self.close()
            raise WrongFormat(
                f"store {self.path} has format {found}, newer than {version}; use a newer jetmem, or put back the copy "
                "that was made before the upgrade"
            )
        elif oldest and (found < oldest or self.converting):
            has = "is half converted" if self.converting else f"has format {found}, older than {oldest}"
            self.close()
            raise WrongFormat(f"store {self.path} {has}; copy it, then run `jetmem migrate` (README.md, Upgrading)")

    @property
    def format(self) -> int:
        """Only versions that know this format open it; 0 of a new one."""
        return int(cast("bytes", self._db.get(_FORMAT_KEY) or b"0"))

    @property
    def converting(self) -> bool:
        """Whether its rows are of two formats: a conversion has begun and not ended."""
        return self._db.get(_CONVERTING_KEY) is not None

    def begin_format(self, version: int) -> None:
        """Before the first row changes: who knows only the old format must not open it from now on."""
        self._db.put(_CONVERTING_KEY, b"1")
        self.set_format(version)
        self._db.flush_wal(True)

    def end_format(self) -> None:
        """Every row is of the new format; on disk when this returns."""
        self._db.delete(_CONVERTING_KEY)
        self._db.flush_wal(True)

    def set_format(self, version: int) -> None:
        """Let only versions that know this format open it."""
        if self._db.get(_FORMAT_KEY) != (said := str(version).encode()):
            self._db.put(_FORMAT_KEY, said)
            self._db.flush_wal(True)

    def get(self, family: str, key: bytes) -> bytes | None:
        """The value of one key, or None."""
        value: bytes | None = self._families[family].get(key)
        return value

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of many keys, None where absent, in the order asked."""
        if not keys:
            return []
        values: Any = self._families[family].get(list(keys))
        return cast("list[bytes | None]", values)

    def scan(
        self, family: str, prefix: bytes, *, start: bytes | None = None, back: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix`, in order from `start` (inclusive), or backwards from `start`.

        A `start` before the prefix (backwards: behind it) is its first (last) key. The view is the store as of the
        call.
        """
        end = prefix + b"\xff" * 32
        first = min(end if start is None else start, end) if back else max(start or prefix, prefix)
        for key, value in self._families[family].items(backwards=back, from_key=first):
            name = cast(bytes, key)
            if not name.startswith(prefix):
                return
            yield name, value

    def scan_each(self, family: str, prefixes: Sequence[bytes], most: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """For each prefix, in the order asked, the first `most` keys that begin with it, in order.

        One iterator looks for all of them, in a third of the time of as many `scan`s. The view is the store as of the
        first that is taken.
        """
        at = self._families[family].iter()
        for prefix in prefixes:
            found: list[tuple[bytes, bytes]] = []
            at.seek(prefix)
            while len(found) < most and at.valid() and (key := at.key()).startswith(prefix):
                found.append((key, at.value()))
                at.next()
            yield found

    def batch(self) -> WriteSet:
        """A new, empty batch."""
        return Batch(self._handles)

    def write(self, batch: WriteSet, *, sync: bool) -> None:
        """Apply a batch. With `sync` it is on disk on return (the sync itself releases the GIL)."""
        self._db.write(batch.raw)
        if sync:
            self._db.flush_wal(True)

    def sync(self) -> None:
        """Make every write so far durable."""
        self._db.flush_wal(True)

    def compact(self) -> None:
        """Rewrite every file, so that no erased byte stays; takes about a second per 100 MB.

        Forced: RocksDB moves a file down as it is where nothing is below it, together with one that erases its first
        key, and leaves both for ever.
        """
        forced = CompactOptions()
        forced.set_bottommost_level_compaction(BottommostLevelCompaction.force_optimized())
        self._db.flush(True)
        for family in self._families.values():
            family.flush(True)
            family.compact_range(None, None, forced)

    def disk_bytes(self) -> int:
        """Bytes of all files of the store."""
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())

    def observe(self) -> None:
        """Say how it copes with its writes, and about how much it holds; nothing once it is closed."""
        name = self.path.parent.name if self.path.name == "rows" else self.path.name
        try:
            for gauge, told in _TOLD.items():
                gauge.labels(name).set(self._db.property_int_value(told) or 0)
            to_compact = 0  # each family has its own; the two above are of the whole store
            for family, held in tuple(self._families.items()):
                metrics.store_rows.labels(name, family).set(held.property_int_value(_ROWS) or 0)
                to_compact += held.property_int_value(_TO_COMPACT) or 0
            metrics.pending_compaction.labels(name).set(to_compact)
        except DbClosedError:
            return

    def close(self) -> None:
        """Flush the log and let go of the lock. Iterators must be closed before."""
        self._db.flush_wal(True)
        self._families.clear()
        self._handles.clear()
        self._db.close()


def _bounded(options: Options, cache: Cache | None) -> Options:
    if cache is not None:
        table = BlockBasedOptions()
        table.set_block_cache(cache)
        table.set_cache_index_and_filter_blocks(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        options.set_block_based_table_factory(table)
    return options


def _options() -> Options:
    options = Options(raw_mode=True)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(3)
    return options
