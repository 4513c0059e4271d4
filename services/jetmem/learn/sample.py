"""The latest runs of a tenant, read for what is studied of many runs at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetmem.domain import keys
from jetmem.domain.procedures.kernels import Floats, Situations, Vectors
from jetmem.domain.procedures.prediction import PROCEDURES_MAX, SITUATIONS_MAX, Sample
from jetmem.domain.procedures.run import Ran
from jetmem.learn.rows import HASH_BYTES, RUN, Rows, prefix, ran
from jetmem.runtime.store import Store
from jetmem.runtime.stored_vectors import VECTOR_MARK, vector_of

_CHUNK: Final = 1_000


@dataclass(frozen=True, slots=True)
class Sampled:
    """Runs, the oldest first, each with its procedure's name and its task's text; vectors of tasks that have them.

    A function of the set of a tenant's runs, of which these are the last in the log.
    """

    runs: list[Ran]
    vectors: Mapping[str, Vectors]

    @property
    def dimensions(self) -> int:
        """Of the vectors; 1 while there is none."""
        return next((len(each) for each in self.vectors.values()), 1)

    def situations(self) -> tuple[Sample, list[str]]:
        """Outcomes by situation and procedure: the latest situations, the procedures that were run most, by name."""
        counted = Counter(run.procedure for run in self.runs if run.procedure)
        most = sorted(counted, key=lambda name: (-counted[name], name))[:PROCEDURES_MAX]
        names = {name: at for at, name in enumerate(sorted(most))}
        rows: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        cells: list[tuple[int, int, bool]] = []
        for run in reversed(self.runs):
            at = names.get(run.procedure)
            situation = (run.task, tuple(run.context.items()))
            if at is None or (situation not in rows and len(rows) == SITUATIONS_MAX):
                continue
            cells.append((rows.setdefault(situation, len(rows)), at, run.success))
        order = {row: at for at, (_, row) in enumerate(sorted(rows.items()))}
        won, had = np.zeros((len(rows), len(names))), np.zeros((len(rows), len(names)))
        for row, at, success in cells:
            had[order[row], at] += 1
            won[order[row], at] += success
        found = sorted(rows)
        texts = [task for task, _ in found]
        known = Situations(texts, self.matrix(texts), [dict(context) for _, context in found])
        return Sample(known, won, had), list(names)

    def matrix(self, tasks: list[str]) -> Vectors:
        """A row for each task, zeros where it has no vector."""
        made = np.zeros((len(tasks), self.dimensions), dtype=np.float32)
        for at, task in enumerate(tasks):
            if task in self.vectors:
                made[at] = self.vectors[task]
        return made

    def means(self, names: list[str]) -> NDArray[np.float32]:
        """Mean vector of each procedure's tasks, of unit length; zeros where there is none."""
        sums: dict[str, Floats] = {}
        for run in self.runs:
            vector = self.vectors.get(run.task)
            if vector is not None:
                sums[run.procedure] = sums.get(run.procedure, np.zeros(self.dimensions)) + vector
        made = np.array([sums.get(name, np.zeros(self.dimensions)) for name in names])
        made = made.reshape(len(names), self.dimensions)  # also of none
        return np.asarray(made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9), dtype=np.float32)


def sampled(rows: Rows, tenant: str, most: int) -> Sampled:
    """Read the last `most` runs of a tenant."""
    places = _last(rows.store, tenant, most)
    names: dict[bytes, str] = {}
    for procedure in {procedure for _, procedure in places}:
        row = rows.procedure(tenant, procedure)
        names[procedure] = row.name if row is not None else ""
    found = []
    for start in range(0, len(places), _CHUNK):
        found += rows.runs_of(tenant, places[start : start + _CHUNK])
    tasks = sorted({row.task for _, _, row in found})
    texts: dict[bytes, str] = {}
    vectors: dict[str, Vectors] = {}
    for start in range(0, len(tasks), _CHUNK):
        some = tasks[start : start + _CHUNK]
        for task, held, raw in zip(some, rows.tasks(tenant, some), rows.vectors(tenant, some), strict=True):
            if held is not None:
                texts[task] = held.text
                if raw and raw.startswith(VECTOR_MARK):
                    vectors[held.text] = vector_of(raw)
    runs = [ran(rseq, row, names[procedure], texts.get(row.task, "")) for rseq, procedure, row in found]
    return Sampled(runs, vectors)


def _last(store: Store, tenant: str, most: int) -> list[tuple[int, bytes]]:
    """(number, procedure) of the last runs, in order."""
    found: list[tuple[int, bytes]] = []
    start = prefix(tenant)
    for key, raw in store.scan("places", start, back=True):
        if raw[:1] == RUN:
            found.append((keys.from_u64(key[-8:]), raw[1 : 1 + HASH_BYTES]))
            if len(found) == most:
                break
    return found[::-1]
