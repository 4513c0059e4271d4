"""What a stage keeps on disk: its format, and how a store of an older one becomes that.

Nothing is converted unasked: a stage refuses a store of another format and says what to do, `jetmem migrate` converts.
Going back is putting back the copy that was made before (README.md, Upgrading).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from jetmem.adapters.rocks import Memory, Rocks
from jetmem.runtime.store import Store

_REBUILD: Final = "rebuild"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """How a store of any older format becomes one of format `to`.

    Attributes:
        to: Above every format before it.
        convert: Changes rows, in writes of its own. Killed half-way it is run again, so on rows that it has changed it
            must end the same. None: the store is emptied and filled from the record; for projections only.
    """

    to: int
    convert: Callable[[Store], None] | None = None


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """One stage's store.

    Attributes:
        stage: Whose.
        families: Of the store.
        format: The newest that this version writes.
        steps: In the order of their `to`; a store below the last one's is refused until they are taken.
        below: The store's folder within the stage's.
        memory: What the store may hold of it.
    """

    stage: str
    families: tuple[str, ...]
    format: int
    steps: tuple[Step, ...] = ()
    below: str = "rows"
    memory: Memory = Memory()

    @property
    def oldest(self) -> int:
        """The oldest format that is read as it is."""
        return self.steps[-1].to if self.steps else 0

    def path(self, data: Path) -> Path:
        """Where the store is, below a data folder."""
        return data / self.stage / self.below

    def open(self, data: Path) -> Rocks:
        """Open it, or make it; a projection calls `own_folder` before.

        Raises:
            WrongFormat: It is of a newer format, or of one that must be converted first.
            Broken: It is in use or damaged.
        """
        return Rocks(self.path(data), self.families, format_version=self.format, oldest=self.oldest, memory=self.memory)

    def migrate(self, data: Path) -> str:
        """Convert it if its format asks for it; a sentence of what was done. What runs the stage must not.

        Raises:
            WrongFormat: It is of a newer format.
            Broken: It is in use or damaged.
        """
        if not self.path(data).is_dir() or rebuild_asked(data / self.stage):
            return f"nothing is kept in {data}"
        store = Rocks(self.path(data), self.families, format_version=self.format)
        try:
            before, half = store.format, store.converting
            due = [step for step in self.steps if step.to > before or (step.to == before and half)]
            for step in due:
                if step.convert is None:
                    ask_rebuild(data / self.stage)
                    return f"the store in {data} had format {before}; it is made anew from the record at the next start"
                store.begin_format(step.to)
                step.convert(store)
                store.end_format()
            if due:
                if half:
                    return f"the rest of the store in {data} was converted to format {store.format}"
                return f"the store in {data} was converted from format {before} to {store.format}"
            return f"the store in {data} has this version's format"
        finally:
            store.close()


def ask_rebuild(folder: Path) -> None:
    """From its next start on the stage has an empty store."""
    (folder / _REBUILD).touch()


def rebuild_asked(folder: Path) -> bool:
    """Whether it has, from its next start on."""
    return (folder / _REBUILD).exists()


def own_folder(data: Path, stage: str) -> Path:
    """Where a stage keeps its stores; emptied if `rebuild` was asked. Call it before they are opened.

    An empty store is filled by `scan`, like any other that is behind.
    """
    folder = data / stage
    old = folder.with_name(folder.name + ".old")
    if rebuild_asked(folder):
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)  # all at once: a half removed store is damaged
    shutil.rmtree(old, ignore_errors=True)
    return folder
