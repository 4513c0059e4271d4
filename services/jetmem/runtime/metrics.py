"""Every metric, with unit and meaning. Emitting one that is not listed here is not possible."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Latencies from 1 ms to 10 s.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.25, 2.5, 5.0, 10.0)
_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)

REGISTRY: Final = CollectorRegistry(auto_describe=True)

received = Counter("jetmem_received_total", "messages taken from a stream", ["stage"], registry=REGISTRY)
emitted = Counter("jetmem_emitted_total", "messages published as a consequence", ["stage"], registry=REGISTRY)
persisted = Counter("jetmem_persisted_total", "entries written to the record", ["kind"], registry=REGISTRY)
duplicates = Counter("jetmem_duplicates_total", "messages recorded before, or forgotten", registry=REGISTRY)
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
embedded = Counter("jetmem_embedded_total", "texts encoded", ["kind"], registry=REGISTRY)
scanned = Counter("jetmem_scanned_total", "entries read by scan instead of live", ["stage"], registry=REGISTRY)
resets = Counter("jetmem_projection_resets_total", "partitions begun again from 0", ["stage"], registry=REGISTRY)
batch_size = Histogram("jetmem_batch_size", "messages in one write", ["stage"], buckets=_SIZES, registry=REGISTRY)
write_seconds = Histogram(
    "jetmem_write_seconds", "one write with its sync or commit", ["stage"], buckets=_SECONDS, registry=REGISTRY
)
lag = Gauge("jetmem_lag_messages", "entries not yet applied", ["stage"], registry=REGISTRY)
pending_vectors = Gauge("jetmem_pending_vectors", "texts that lack their vector", registry=REGISTRY)
outbox_rows = Gauge("jetmem_outbox_rows", "consequences not yet acknowledged by the broker", registry=REGISTRY)
healthy = Gauge("jetmem_healthy", "1 while the stage makes progress or has nothing to do", ["stage"], registry=REGISTRY)
last_error = Gauge(
    "jetmem_last_error_timestamp_seconds", "when an error of this code came last", ["stage", "code"], registry=REGISTRY
)
dead_letters_held = Gauge("jetmem_dead_letters_held", "dead letters that wait in DEAD", registry=REGISTRY)
requests = Counter("jetmem_requests_total", "requests answered", ["stage", "verb", "code"], registry=REGISTRY)
request_seconds = Histogram(
    "jetmem_request_seconds", "from request to reply", ["stage", "verb"], buckets=_SECONDS, registry=REGISTRY
)
degraded = Counter("jetmem_degraded_total", "answers without an arm", ["arm"], registry=REGISTRY)
encode_seconds = Histogram(
    "jetmem_encode_seconds", "one micro-batch or question", ["kind"], buckets=_SECONDS, registry=REGISTRY
)
trimmed = Gauge("jetmem_memory_first_seq", "first sequence that MEMORY keeps", registry=REGISTRY)
