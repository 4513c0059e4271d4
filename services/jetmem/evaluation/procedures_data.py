"""Runs of real agents with their tasks, in the form of InterCode's data, and the vectors of the tasks.

InterCode (Yang and others, 2023; github.com/princeton-nlp/intercode, MIT).
"""

from __future__ import annotations

import gzip
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.encoder import open_encoder
from jetmem.console.temporary import model_cache
from jetmem.domain.procedures.kernels import Floats, Situations, Vectors
from jetmem.domain.procedures.prediction import Sample
from jetmem.domain.procedures.run import Ran
from jetmem.evaluation.locomo import Missing

TASKS_FILE: Final = "tasks.jsonl"
RUNS_FILE: Final = "runs.jsonl.gz"
#: Beside the project: where its evaluation data lies.
FOLDERS: Final = (Path("../shared/data/intercode-sql-dev"), Path("../shared/data/intercode-bash-dev"))
FOLDS: Final = 5
#: Procedures that were tried on less of the tasks are not scored.
COVERED: Final = 0.8
CONTEXT: Final = "group"


class Task(msgspec.Struct, frozen=True):
    """A line of `tasks.jsonl`; equal `same_as` marks paraphrases."""

    task_id: str
    task: str
    group: str = ""
    same_as: str | None = None


class Line(msgspec.Struct, frozen=True):
    """A line of `runs.jsonl.gz`."""

    task_id: str
    agent: str
    procedure: str
    success: bool
    reward: float | None = None
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Data:
    """Tasks in the order of the file; `runs` of scored procedures only; `group` numbers paraphrases alike."""

    name: str
    tasks: Sequence[Task]
    situations: Situations
    procedures: Sequence[str]
    agents: Sequence[str]
    runs: Sequence[Ran]
    row: Sequence[int]
    fold: NDArray[np.intp]
    group: NDArray[np.intp]

    def sample(self, picked: Sequence[int], rows: NDArray[np.intp]) -> Sample:
        """Count some runs, by their numbers, over some tasks."""
        of, which = {int(row): i for i, row in enumerate(rows)}, {name: i for i, name in enumerate(self.procedures)}
        successes, runs = np.zeros((len(rows), len(which))), np.zeros((len(rows), len(which)))
        for number in picked:
            at, run = of.get(self.row[number]), self.runs[number]
            if at is not None:
                successes[at, which[run.procedure]] += run.success
                runs[at, which[run.procedure]] += 1
        return Sample(self.situations.take(rows), successes, runs)

    def outcomes(self) -> tuple[Floats, Floats]:
        """Successes and runs of everything, (tasks, procedures)."""
        every = self.sample(range(len(self.runs)), np.arange(len(self.tasks)))
        return every.successes, every.runs


def load(folder: Path) -> Data:
    """Read a data set and embed its tasks, from a cache where they were before.

    Raises:
        Missing: It is not there.
    """
    if not (folder / TASKS_FILE).is_file() or not (folder / RUNS_FILE).is_file():
        raise Missing(f"{folder} has no {TASKS_FILE} and {RUNS_FILE}; name the folder that has them with --data")
    decoder = msgspec.json.Decoder(Task)
    tasks = [decoder.decode(line) for line in (folder / TASKS_FILE).read_bytes().splitlines() if line]
    with gzip.open(folder / RUNS_FILE) as file:
        runs = msgspec.json.Decoder(Line)
        lines = [runs.decode(line) for line in file if line.strip()]
    texts = [each.task for each in tasks]
    contexts = [{CONTEXT: each.group} if each.group else {} for each in tasks]
    return _data(folder.name, tasks, lines, Situations(texts, vectors(texts), contexts))


def _data(name: str, tasks: Sequence[Task], lines: Sequence[Line], situations: Situations) -> Data:
    tried: dict[str, set[str]] = defaultdict(set)
    agent: dict[str, str] = {}
    for each in lines:
        tried[each.procedure].add(each.task_id)
        agent[each.procedure] = each.agent
    scored = sorted(which for which, ids in tried.items() if len(ids) >= COVERED * len(tasks))
    row = {each.task_id: number for number, each in enumerate(tasks)}
    kept = [each for each in lines if each.procedure in set(scored)]
    same = [each.same_as or each.task_id for each in tasks]
    numbers = {each: number for number, each in enumerate(dict.fromkeys(same))}
    return Data(
        name, tasks, situations, scored, [agent[each] for each in scored],
        [_ran(number, each, tasks[row[each.task_id]]) for number, each in enumerate(kept)],
        [row[each.task_id] for each in kept],
        np.array([int(hashlib.md5(each.encode(), usedforsecurity=False).hexdigest(), 16) % FOLDS for each in same]),
        np.array([numbers[each] for each in same]),
    )  # fmt: skip


def _ran(number: int, line: Line, task: Task) -> Ran:
    context = {CONTEXT: task.group} if task.group else {}
    return Ran(
        id=f"{line.procedure}:{line.task_id}:{number}", seq=number + 1, at_ms=0, procedure=line.procedure,
        success=line.success, agent=line.agent, task=task.task, context=context, steps=line.steps, reward=line.reward,
    )  # fmt: skip


def vectors(texts: Sequence[str]) -> Vectors:
    """Unit vectors of the project's own encoder, kept in the cache of models."""
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    path = model_cache() / "evaluation-vectors" / f"{digest}.npy"
    if path.is_file():
        return np.asarray(np.load(path), dtype=np.float32)
    encoder = open_encoder(cache_dir=model_cache())
    try:
        made = encoder.encode(texts)
    finally:
        encoder.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, made)
    return made
