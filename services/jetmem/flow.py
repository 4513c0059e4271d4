"""THE topology: every stage once, in the order a memory passes them.

A new stage is one new folder with `app.build` and `settings`, and one line here. The README table, streams,
the supervisor, the CLI and the generated AsyncAPI all read this; tests compare them with it.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

import msgspec

from jetmem.runtime.settings import Common, Sections
from jetmem_schemas import subjects


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One process type.

    Attributes:
        name: The one name: folder, metric label, compose service, Kubernetes workload, CLI argument.
        reads: Stream it consumes, or "".
        emits: Streams it publishes to.
        store: What it owns on disk, or "".
        ack_point: When what it read counts as done.
        does: One line for people.
        arms: Arms of an answer that are gone when this stage is. A projection's are those of its `applied`.
        replicas: Any process answers for any tenant; otherwise the one that owns the tenant's partition.
        settings: Name of the Struct in `jetmem.<name>.settings`.
        tenants: It knows what tenants set (`adapters.tenant_settings`).
        says: Kinds of message that it publishes under tenants.
        asks: What it asks of other stages, or other processes of its own, `<stage>.<verb>`, beside what all of its sort
            ask (`rights.of_stage`).
        nice: How far it gives way on a machine that it shares, 0..19: what is said is stored first, then found by
            words and by meaning, then summarised. Not more for embed: questions wait for it, too.
    """

    name: str
    reads: str
    emits: tuple[str, ...]
    store: str
    ack_point: str
    does: str
    settings: str
    arms: tuple[str, ...] = ()
    replicas: bool = False
    nice: int = 0
    tenants: bool = False
    says: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()

    @property
    def shares(self) -> bool:
        """Whether it is the record: its partitions have owners, and move (decision 0025)."""
        return bool(self.store) and self.reads == subjects.MEMORY

    @property
    def projects(self) -> bool:
        """Whether it is a projection of the record: a forget is done when all of these have applied it."""
        return self.reads == subjects.RECORD


STAGES: Final = (
    Stage(
        name="persist",
        reads=subjects.MEMORY,
        emits=(subjects.RECORD, subjects.DEAD, subjects.MEMORY),
        store="RocksDB",
        ack_point="checkpoint in the same synced write as the record",
        does="validates, deduplicates, numbers and stores; erases; answers what is recorded",
        settings="PersistSettings",
        arms=("record",),
        says=("notify", "forget"),
        asks=("persist.copy", "persist.release", "persist.safe", "persist.status"),
    ),
    Stage(
        name="embed",
        reads=subjects.EMBED,
        emits=(),
        store="",
        ack_point="when the asker has stored the vectors",
        does="turns texts into vectors, questions before jobs",
        settings="EmbedSettings",
        nice=5,
        arms=("vector",),
        replicas=True,
    ),
    Stage(
        name="index",
        reads=subjects.RECORD,
        emits=(subjects.EMBED,),
        store="tantivy, hnswlib, RocksDB",
        ack_point="checkpoint in the same commit as the data",
        does="makes events and nodes findable by words at once and by meaning as vectors come",
        settings="IndexSettings",
        nice=5,
        arms=("text", "vector"),
        tenants=True,
    ),
    Stage(
        name="summarize",
        reads=subjects.RECORD,
        emits=(subjects.MEMORY,),
        store="RocksDB",
        ack_point="checkpoint in the same write as the data",
        does="cuts sessions into segments and makes the table of contents over time",
        settings="SummarizeSettings",
        nice=10,
        arms=("toc",),
        tenants=True,
        says=("derived",),
        asks=("index.entry_vectors",),
    ),
    Stage(
        name="learn",
        reads=subjects.RECORD,
        emits=(subjects.EMBED,),
        store="RocksDB",
        ack_point="checkpoint in the same write as the data",
        does="learns from runs which procedure works for which task",
        settings="LearnSettings",
        nice=7,
        arms=("procedures", "tasks"),
        says=("notify",),
        asks=("embed.encode",),
    ),
    Stage(
        name="query",
        reads="",
        emits=(subjects.MEMORY,),
        store="",
        ack_point="none: request and reply",
        does="asks the others, fuses, answers, says what was degraded",
        settings="QuerySettings",
        replicas=True,
        tenants=True,
        says=("forget",),
        asks=(
            "*.status",
            "*.applied",
            "persist.cover",
            "persist.fetch",
            "persist.timeline",
            "persist.sessions",
            "persist.agents",
            "persist.nodes",
            "persist.forgotten",
            "embed.encode",
            "index.find",
            "summarize.segments_of",
            "summarize.topics",
            "summarize.topic",
            "learn.recommend",
            "learn.predict",
            "learn.procedure",
            "learn.procedures",
            "learn.related",
            "learn.patterns",
            "learn.insights",
        ),
    ),
)
NAMES: Final = tuple(stage.name for stage in STAGES)


def stage(name: str) -> Stage:
    """The stage of this name.

    Raises:
        KeyError: There is none.
    """
    return {s.name: s for s in STAGES}[name]


def readers(stream: str) -> list[str]:
    """The stages that read a stream or a bucket."""
    return [
        s.name
        for s in STAGES
        if s.reads == stream or (s.tenants and stream == subjects.TENANTS) or (s.shares and stream == subjects.OWNERS)
    ]


def projections() -> tuple[Stage, ...]:
    """Whoever an answer waits for and a forget must reach."""
    return tuple(each for each in STAGES if each.projects)


def arms() -> list[str]:
    """Every arm once, as replies list them: the record's, those of projections, then of who only helps."""
    order = (subjects.MEMORY, subjects.RECORD)
    listed = sorted(STAGES, key=lambda each: order.index(each.reads) if each.reads in order else len(order))
    return list(dict.fromkeys(arm for each in listed for arm in each.arms))


def sections() -> Sections:
    """Every settings section; the key "" is what all processes share. Imports settings modules only."""
    found: dict[str, type[msgspec.Struct]] = {"": Common}
    for each in STAGES:
        found[each.name] = getattr(importlib.import_module(f"jetmem.{each.name}.settings"), each.settings)
    return found


def layout(name: str) -> Any:
    """What a stage with a store keeps on disk: `jetmem.<name>.app.LAYOUT` (`adapters.layouts.Layout`)."""
    return importlib.import_module(f"jetmem.{stage(name).name}.app").LAYOUT


def build(name: str, settings: dict[str, Any], **parts: Any) -> Any:
    """Build one stage's process from all settings: `jetmem.<name>.app.build(common, own, **parts)`."""
    app = importlib.import_module(f"jetmem.{stage(name).name}.app")
    return app.build(settings[""], settings[name], **parts)
