"""The latest runs of a tenant, read for what is studied of many runs at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from jetmem.domain import keys
from jetmem.domain.procedures.kernels import TEXT_CHARS_MAX, Floats, Situations, Vectors
from jetmem.domain.procedures.prediction import PROCEDURES_MAX, SITUATIONS_MAX, Sample
from jetmem.domain.procedures.run import Ran
from jetmem.learn import ranks
from jetmem.learn.rows import HASH_BYTES, RUN, Rows, RunRow, prefix, ran
from jetmem.runtime.store import Store
from jetmem.runtime.stored_vectors import VECTOR_MARK, vector_of

_CHUNK: Final = 500
#: Bytes of runs, as they are stored, and of their tasks' texts: 700 of each of 20,000 runs; five times as many in
#: memory, and the vectors beside, 31 MB of so many.
BYTES_MAX: Final = 14_000_000


@dataclass(frozen=True, slots=True)
class Sampled:
    """Runs, the oldest first, each with its procedure's name and its task's text; vectors of tasks that have them.

    A function of the set of a tenant's runs, of which these are the last in the log. Failures and lessons are left out,
    long texts are cut; `keys` has the key of each task by its text.
    """

    runs: list[Ran]
    vectors: Mapping[str, Vectors]
    keys: Mapping[str, bytes]

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
    """Read the last `most` runs of a tenant, or as many as `BYTES_MAX` holds."""
    found: list[tuple[int, bytes, RunRow]] = []
    texts: dict[bytes, str] = {}
    vectors: dict[str, Vectors] = {}
    left = BYTES_MAX
    places = _latest(rows.store, tenant, most)
    while left > 0 and (some := list(islice(places, _CHUNK))):
        chunk, read = rows.runs_of(tenant, some)
        fresh = sorted({row.task for _, _, row in chunk} - texts.keys())
        told = zip(fresh, rows.tasks(tenant, fresh), rows.vectors(tenant, fresh), strict=True)
        for task, held, raw in told:
            texts[task] = text = as_studied(task, held.text if held is not None else "")
            if raw and raw.startswith(VECTOR_MARK) and text:
                vectors[text] = vector_of(raw)
        found += [(rseq, name, replace(row, failure="", lessons=())) for rseq, name, row in chunk]
        left -= read + sum(len(texts[task]) for task in fresh)
    every = ranks.read(rows, tenant, sorted({procedure for _, procedure, _ in found}))
    names = {procedure: each.name for procedure, each in every}
    runs = [ran(rseq, row, names.get(procedure, ""), texts[row.task]) for rseq, procedure, row in reversed(found)]
    return Sampled(runs, vectors, {text: task for task, text in texts.items() if text})


def as_studied(task: bytes, text: str) -> str:
    """A task's text, no longer than any study looks at; what was cut is told apart by its hash."""
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[:TEXT_CHARS_MAX]} {task.hex()}"


def _latest(store: Store, tenant: str, most: int) -> Iterator[tuple[int, bytes]]:
    """(number, procedure) of the last runs, the last first."""
    found = ((key, raw) for key, raw in store.scan("places", prefix(tenant), back=True) if raw[:1] == RUN)
    for key, raw in islice(found, most):
        yield keys.from_u64(key[-8:]), raw[1 : 1 + HASH_BYTES]
