"""Stores that tell what is done with them."""

from collections import Counter

from jetmem.testing.store import FakeStore


class Counting(FakeStore):
    """Counts rows that scans hand out, and erased ones that RocksDB would have to pass over to reach them."""

    passed = 0

    def __init__(self, families):
        super().__init__(families)
        self.marks: dict[str, set[bytes]] = {name: set() for name in families}

    def write(self, batch, *, sync):
        for family, key, value in batch.raw:
            (self.marks[family].discard if value is not None else self.marks[family].add)(key)
        super().write(batch, sync=sync)

    def scan(self, family, prefix, *, start=None, back=False):
        end = prefix + b"\xff" * 32
        rows = iter(super().scan(family, prefix, start=start, back=back))
        first = next(rows, None)
        found = first[0] if first else (prefix if back else end)
        low, high = (found, start or end) if back else (start or prefix, found)
        self.passed += sum(low <= key < high for key in self.marks[family])
        for row in [first] if first else []:
            self.passed += 1
            yield row
        for row in rows:
            self.passed += 1
            yield row


class Touching(FakeStore):
    """Counts rows that are read by key or written, by family."""

    def __init__(self, families):
        super().__init__(families)
        self.touched = Counter()

    def get(self, family, key):
        self.touched[family] += 1
        return super().get(family, key)

    def get_many(self, family, keys):
        self.touched[family] += len(keys)
        return super().get_many(family, keys)

    def write(self, batch, *, sync):
        self.touched.update(family for family, *_ in batch.raw)
        super().write(batch, sync=sync)
