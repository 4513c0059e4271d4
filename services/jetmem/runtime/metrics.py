"""Every metric, with unit and meaning. Emitting one that is not listed here is not possible."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

#: Latencies from 1 ms to 10 s.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.25, 2.5, 5.0, 10.0)
_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
#: From words within a second to what waited an hour for a stage that was down.
_FRESH_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)

disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped; they are a second series for each

REGISTRY: Final = CollectorRegistry(auto_describe=True)

received = Counter("jetmem_received_total", "messages taken from a stream", ["stage"], registry=REGISTRY)
emitted = Counter("jetmem_emitted_total", "messages published as a consequence", ["stage"], registry=REGISTRY)
persisted = Counter("jetmem_persisted_total", "entries written to the record", ["kind"], registry=REGISTRY)
duplicates = Counter("jetmem_duplicates_total", "messages recorded before, or forgotten", registry=REGISTRY)
expired = Counter(
    "jetmem_expired_total", "events forgotten because the time that they were to be kept is over", registry=REGISTRY
)
dead_letters = Counter("jetmem_dead_letters_total", "messages that cannot be recorded", ["code"], registry=REGISTRY)
retried = Counter("jetmem_retried_total", "attempts after a failure", ["stage"], registry=REGISTRY)
indexed = Counter("jetmem_indexed_total", "events searchable, by arm", ["arm"], registry=REGISTRY)
summarized = Counter("jetmem_summarized_total", "nodes made, by level", ["level"], registry=REGISTRY)
toc_waiting = Gauge("jetmem_toc_waiting", "nodes to be made, published or still to come back", registry=REGISTRY)
toc_without_vectors = Gauge(
    "jetmem_toc_without_vectors", "segments made without vectors, in the last look", registry=REGISTRY
)
told = Counter(
    "jetmem_told_total", "questions to the summary endpoint, by what came of them", ["code"], registry=REGISTRY
)
told_dropped = Counter(
    "jetmem_told_dropped_total", "bullets of the summary endpoint whose quotes are not in the events", registry=REGISTRY
)
told_tokens = Counter("jetmem_told_tokens_total", "tokens that the summary endpoint says it took", registry=REGISTRY)
topics_placed = Counter("jetmem_topics_placed_total", "segments placed among topics", registry=REGISTRY)
topics_grouped = Counter("jetmem_topics_grouped_total", "times that a tenant's topics were grouped", registry=REGISTRY)
learnt = Counter("jetmem_learnt_total", "runs learnt from", registry=REGISTRY)
success_propagation = Histogram(
    "jetmem_success_propagation_duration_seconds",
    "from a run's arrival at the broker until recommendations know it",
    buckets=_SECONDS,
    registry=REGISTRY,
)
waves = Counter("jetmem_waves_total", "waves told to agents, by topic", ["topic"], registry=REGISTRY)
waves_dropped = Counter("jetmem_waves_dropped_total", "waves not told: more than a tenant's rate", registry=REGISTRY)
study_seconds = Histogram(
    "jetmem_study_seconds",
    "one study of a tenant's runs: related, patterns, insights, or a model fitted",
    ["kind"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
procedures_left_out = Gauge(
    "jetmem_procedures_left_out", "procedures that lists and recommendations leave out, of tenants that ask",
    registry=REGISTRY,
)  # fmt: skip
models = Gauge(
    "jetmem_models", "tenants whose probabilities a model makes, by the richest that stood the test", ["model"],
    registry=REGISTRY,
)  # fmt: skip
model_gain = Gauge(
    "jetmem_model_gain_nats", "log-loss a held-out run that they spare against plain rates, the mean over tenants",
    registry=REGISTRY,
)  # fmt: skip
embedded = Counter("jetmem_embedded_total", "texts encoded", ["kind"], registry=REGISTRY)
partitions = Gauge(
    "jetmem_partitions",
    "partitions by what a shard does with them: served; of persist also parked, copying, wanted here but elsewhere",
    ["stage", "shard", "state"],
    registry=REGISTRY,
)
partitions_come = Counter(
    "jetmem_partitions_come_total", "partitions of the record that this shard took over", registry=REGISTRY
)
rows_copied = Counter(
    "jetmem_rows_copied_total", "rows copied from other shards, of partitions that move here", registry=REGISTRY
)
scanned = Counter("jetmem_scanned_total", "entries read by scan instead of live", ["stage"], registry=REGISTRY)
resets = Counter("jetmem_projection_resets_total", "partitions begun again from 0", ["stage"], registry=REGISTRY)
batch_size = Histogram("jetmem_batch_size", "messages in one write", ["stage"], buckets=_SIZES, registry=REGISTRY)
write_seconds = Histogram(
    "jetmem_write_seconds", "one write with its sync or commit", ["stage"], buckets=_SECONDS, registry=REGISTRY
)
lag = Gauge("jetmem_lag_messages", "entries not yet applied", ["stage"], registry=REGISTRY)
lag_seconds = Gauge(
    "jetmem_lag_seconds", "age of the oldest entry not yet applied, or a little more", ["stage"], registry=REGISTRY
)
freshness = Histogram(
    "jetmem_freshness_seconds",
    "from the broker's time of a message until an arm covers it",
    ["arm"],
    buckets=_FRESH_S,
    registry=REGISTRY,
)
pending_vectors = Gauge("jetmem_pending_vectors", "texts that lack their vector", registry=REGISTRY)
outbox_rows = Gauge("jetmem_outbox_rows", "consequences not yet acknowledged by the broker", registry=REGISTRY)
healthy = Gauge("jetmem_healthy", "1 while the stage makes progress or has nothing to do", ["stage"], registry=REGISTRY)
last_error = Gauge(
    "jetmem_last_error_timestamp_seconds", "when an error of this code came last", ["stage", "code"], registry=REGISTRY
)
expires = Gauge(
    "jetmem_expires_timestamp_seconds",
    "when what the connection to the broker rests on expires: its certificate, our authority, our credentials",
    ["stage", "of"],
    registry=REGISTRY,
)
dead_letters_held = Gauge("jetmem_dead_letters_held", "dead letters that wait in DEAD", registry=REGISTRY)
requests = Counter("jetmem_requests_total", "requests answered", ["stage", "verb", "code"], registry=REGISTRY)
request_seconds = Histogram(
    "jetmem_request_seconds", "from request to reply", ["stage", "verb"], buckets=_SECONDS, registry=REGISTRY
)
degraded = Counter("jetmem_degraded_total", "answers without an arm", ["arm"], registry=REGISTRY)
stale = Counter("jetmem_stale_total", "answers that lack what was to be covered", ["verb"], registry=REGISTRY)
operations = Counter(
    "memory_operations_total",
    "what agents asked for: publish, learn from a run, forget or a verb, and what came of it",
    ["operation", "outcome"],
    registry=REGISTRY,
)
arm_seconds = Histogram(
    "jetmem_arm_seconds", "one arm's candidates for a search", ["arm"], buckets=_SECONDS, registry=REGISTRY
)
ask_seconds = Histogram(
    "jetmem_ask_seconds",
    "from asking another stage to its reply",
    ["stage", "asked", "verb"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
encode_seconds = Histogram(
    "jetmem_encode_seconds", "one micro-batch or question", ["kind"], buckets=_SECONDS, registry=REGISTRY
)
trimmed = Gauge("jetmem_memory_first_seq", "first sequence that MEMORY keeps", registry=REGISTRY)
stream_bytes = Gauge("jetmem_stream_bytes", "bytes that a stream of the broker holds", ["stream"], registry=REGISTRY)
stream_bytes_max = Gauge("jetmem_stream_max_bytes", "bytes that it may hold", ["stream"], registry=REGISTRY)
store_bytes = Gauge(
    "jetmem_store_bytes", "bytes on disk of a folder below a stage's own", ["stage", "store"], registry=REGISTRY
)
disk_free_bytes = Gauge("jetmem_disk_free_bytes", "free where a stage's store is", ["stage"], registry=REGISTRY)
disk_bytes = Gauge("jetmem_disk_bytes", "size of the disk where a stage's store is", ["stage"], registry=REGISTRY)
store_rows = Gauge(
    "jetmem_store_rows", "rows of a column family, as RocksDB estimates them", ["store", "family"], registry=REGISTRY
)
write_stopped = Gauge(
    "jetmem_rocksdb_write_stopped", "1 while RocksDB takes no writes until it has compacted", ["store"],
    registry=REGISTRY,
)  # fmt: skip
delayed_write_rate = Gauge(
    "jetmem_rocksdb_delayed_write_bytes_per_second", "what RocksDB slows writes to; 0 for not at all", ["store"],
    registry=REGISTRY,
)  # fmt: skip
pending_compaction = Gauge(
    "jetmem_rocksdb_pending_compaction_bytes", "bytes that RocksDB has to rewrite", ["store"], registry=REGISTRY
)
graph_rows = Gauge(
    "jetmem_graph_rows",
    "rows of vectors in memory: linked into a graph, of those removed since (tombstones), still to be linked",
    ["state"],
    registry=REGISTRY,
)
model = Gauge(
    "jetmem_model_info", "1; the model that embed serves, and how", ["model", "precision", "device"], registry=REGISTRY
)
build = Gauge("jetmem_build_info", "1; the version of a stage's code", ["stage", "version"], registry=REGISTRY)


def series(metric: Counter | Gauge | Histogram) -> str:
    """The name under which a scrape has its values; of a histogram, what `_bucket` and `_count` follow."""
    name: str = metric._name  # the library has no public one
    return f"{name}_total" if isinstance(metric, Counter) else name
