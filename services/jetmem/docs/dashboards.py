"""Grafana dashboards, from panels listed here: the same files for compose and Kubernetes.

The library is a development dependency (decision 0024): who only runs jetmem has the written files.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

#: The data source that compose provisions; on a cluster the variable `source` chooses another.
_SOURCE: Final = "${source}"
#: How often Prometheus scrapes, as compose and the PodMonitor say.
_REFRESH: Final = "30s"
#: Panels in a row of Grafana's 24 columns, and their height in its rows.
_WIDTH, _HEIGHT = 8, 8


class Query(NamedTuple):
    """One PromQL expression and what its series are called."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One picture: what it shows, in Grafana's unit, and how to read it."""

    title: str
    unit: str
    about: str
    queries: tuple[Query, ...]


class Board(NamedTuple):
    """One dashboard: its name in addresses and files, its title, its rows of panels."""

    name: str
    title: str
    rows: dict[str, tuple[Panel, ...]]


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


def _quantile(q: float, metric: str, by: str) -> str:
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket[$__rate_interval])))"


def _quantiles(metric: str, by: str) -> tuple[Query, ...]:
    name = "{{" + "}} {{".join(by.split(", ")) + "}}"
    return tuple(Query(_quantile(q, metric, by), f"{name} p{round(q * 100)}") for q in (0.5, 0.99))


def _per(metric: str, by: str, how: str = "sum") -> tuple[Query, ...]:
    return (Query(f"{how} by ({by}) ({metric})", "{{" + "}} {{".join(by.split(", ")) + "}}"),)


def _rates(metric: str, by: str) -> tuple[Query, ...]:
    return (Query(_rate(metric, by), "{{" + "}} {{".join(by.split(", ")) + "}}"),)


_PIPELINE: Final = Board(
    "jetmem-pipeline",
    "jetmem: pipeline",
    {
        "Does everything arrive?": (
            Panel("Healthy", "bool_yes_no", "0 is a stage that has work and makes no progress.",
                  _per("jetmem_healthy", "stage", "min")),
            Panel("Freshness", "s", "From the broker's time of a message until words find it.",
                  _quantiles("jetmem_freshness_seconds", "arm")),
            Panel("Late", "percentunit", "Share that was later than the objective; the budget is 1 %.",
                  (Query("jetmem:freshness_late:ratio5m", "{{arm}}"),)),
        ),
        "Rates": (
            Panel("Received", "cps", "What a stage took.", _rates("jetmem_received_total", "stage")),
            Panel("Recorded", "cps", "Entries that persist wrote, by kind.", _rates("jetmem_persisted_total", "kind")),
            Panel("Searchable", "cps", "Events by words, passages by meaning.", _rates("jetmem_indexed_total", "arm")),
            Panel("Encoded", "cps", "Texts of jobs and of questions.", _rates("jetmem_embedded_total", "kind")),
            Panel("Nodes made", "cps", "Nodes of the table of contents.", _rates("jetmem_summarized_total", "level")),
            Panel("Published", "cps", "What stages say as a consequence.", _rates("jetmem_emitted_total", "stage")),
        ),
        "Lag": (
            Panel("Entries behind", "short", "Not yet applied, by the process that has most.",
                  _per("jetmem_lag_messages", "stage", "max")),
            Panel("Seconds behind", "s", "Age of the oldest not yet applied.",
                  _per("jetmem_lag_seconds", "stage", "max")),
            Panel("Waits", "short", "Texts without a vector, nodes not yet back, outbox rows not yet acknowledged.", (
                Query("sum(jetmem_pending_vectors)", "vectors"),
                Query("sum(jetmem_toc_waiting)", "nodes"),
                Query("sum(jetmem_outbox_rows)", "outbox"),
            )),
        ),
        "Shards": (
            Panel("Partitions", "short", "Who serves how many of the 64, by stage and shard.", (
                Query('sum by (stage, shard) (jetmem_partitions{state="served"})', "{{stage}}-{{shard}}"),)),
            Panel("Not at their place", "short", "Partitions of persist that are parked, copied, or still to come.", (
                Query('sum by (shard, state) (jetmem_partitions{state!="served"})', "persist-{{shard}} {{state}}"),)),
            Panel("Moves", "cps", "Rows that are copied, partitions that came.", (
                Query("sum(rate(jetmem_rows_copied_total[$__rate_interval]))", "rows"),
                Query("sum(rate(jetmem_partitions_come_total[$__rate_interval]))", "partitions"))),
        ),
        "Trouble": (
            Panel("Dead letters", "cps", "Messages that cannot be recorded.",
                  _rates("jetmem_dead_letters_total", "code")),
            Panel("Dead letters held", "short", "They wait for somebody to drop or redrive them.",
                  (Query("max(jetmem_dead_letters_held)", "in DEAD"),)),
            Panel("Retries", "cps", "Attempts after a failure.", _rates("jetmem_retried_total", "stage")),
            Panel("Last error", "dateTimeFromNow", "When an error of a code came last.",
                  (Query("max by (stage, code) (jetmem_last_error_timestamp_seconds) * 1000", "{{stage}} {{code}}"),)),
            Panel("Read again", "cps", "Entries by scan instead of live: a gap, a start, a rebuild.",
                  _rates("jetmem_scanned_total", "stage")),
            Panel("Batches", "short", "Messages in one write; the mean.",
                  (Query(f"{_rate('jetmem_batch_size_sum', 'stage')} / {_rate('jetmem_batch_size_count', 'stage')}",
                         "{{stage}}"),)),
        ),
    },
)  # fmt: skip

_SEARCH: Final = Board(
    "jetmem-search",
    "jetmem: search",
    {
        "What agents get": (
            Panel("Answers", "reqps", "By verb.", (Query(_rate('jetmem_requests_total{stage="query"}', "verb"),
                                                         "{{verb}}"),)),
            Panel("Outcomes", "reqps", "ok, degraded, stale, or the code of a refusal.",
                  _rates("memory_operations_total", "operation, outcome")),
            Panel("Latency", "s", "From request to reply.", tuple(
                Query(f'histogram_quantile({q}, sum by (le, verb) (rate(jetmem_request_seconds_bucket{{stage="query"}}'
                      "[$__rate_interval])))", f"{{{{verb}}}} p{round(q * 100)}") for q in (0.5, 0.99))),
        ),
        "Arms": (
            Panel("Candidates", "s", "What words and vectors take in index.", _quantiles("jetmem_arm_seconds", "arm")),
            Panel("Asks", "s", "From query to the reply of another stage, p99.", (
                Query(_quantile(0.99, "jetmem_ask_seconds", "asked, verb"), "{{asked}} {{verb}}"),)),
            Panel("Encoding", "s", "One micro-batch of a job, one question.",
                  _quantiles("jetmem_encode_seconds", "kind")),
        ),
        "Honesty": (
            Panel("Degraded", "percentunit", "Share of answers without an arm.", (
                Query("sum by (arm) (rate(jetmem_degraded_total[$__rate_interval])) / on () group_left () "
                      'sum(rate(jetmem_requests_total{stage="query"}[$__rate_interval]))', "{{arm}}"),)),
            Panel("Stale", "reqps", "Answers that lack what `after` asked for.", _rates("jetmem_stale_total", "verb")),
            Panel("Refused or failed", "reqps", "By code.", (
                Query('sum by (code) (rate(jetmem_requests_total{stage="query",code!="ok"}[$__rate_interval]))',
                      "{{code}}"),)),
        ),
    },
)  # fmt: skip

_MEMORY: Final = Board(
    "jetmem-memory",
    "jetmem: memory",
    {
        "How much": (
            Panel("Events", "short", "Entries of the record, about.", (
                Query('sum(jetmem_store_rows{store="persist",family="log"})', "entries"),)),
            Panel("Tenants", "short", "That index knows, about; nodes of a tenant count as one more.", (
                Query('sum(jetmem_store_rows{store="index",family="tenants"})', "tenants"),)),
            Panel("Growth", "cps", "Entries recorded, by kind.", _rates("jetmem_persisted_total", "kind")),
        ),
        "Of what": (
            Panel("Record", "short", "Rows of persist by family, about.", (
                Query('sum by (family) (jetmem_store_rows{store="persist"})', "{{family}}"),)),
            Panel("Index", "short", "Rows of index by family, about.", (
                Query('sum by (family) (jetmem_store_rows{store="index"})', "{{family}}"),)),
            Panel("Table of contents", "short", "Rows of summarize by family, about.", (
                Query('sum by (family) (jetmem_store_rows{store="summarize"})', "{{family}}"),)),
        ),
        "What is learnt": (
            Panel("Runs", "cps", "Runs learnt from.", (
                Query("sum(rate(jetmem_learnt_total[$__rate_interval]))", "runs"),)),
            Panel("Success spreads", "s", "From a run's arrival until recommendations know it.", tuple(
                Query(f"histogram_quantile({q}, sum by (le) "
                      "(rate(jetmem_success_propagation_duration_seconds_bucket[$__rate_interval])))",
                      f"p{round(q * 100)}") for q in (0.5, 0.99))),
            Panel("Waves", "cps", "Told to agents: success, failure, procedures crystallised and dissolved; dropped "
                  "ones were more than a tenant's rate.", (
                *_rates("jetmem_waves_total", "topic"),
                Query("sum(rate(jetmem_waves_dropped_total[$__rate_interval]))", "dropped"))),
            Panel("Crystallised", "short", "Procedures that were proved, and that failed since, in the last day.", (
                Query('sum by (topic) (increase(jetmem_waves_total{topic=~"crystallized|dissolved"}[1d]))',
                      "{{topic}}"),)),
            Panel("Learnt", "short", "Rows of learn by family, about: runs, procedures, tasks.", (
                Query('sum by (family) (jetmem_store_rows{store="learn"})', "{{family}}"),)),
            Panel("Asked of it", "reqps", "Recommendations and what else is asked of learn, by outcome.", (
                Query('sum by (operation, outcome) (rate(memory_operations_total{operation=~"recommend|predict|'
                      'procedures?|related|patterns|insights"}[$__rate_interval]))', "{{operation}} {{outcome}}"),)),
            Panel("Models", "short", "Tenants by the model behind their probabilities; rate is the plainest.",
                  _per("jetmem_models", "model")),
            Panel("Gain", "short", "Log-loss a held-out run that models spare against plain rates.", (
                Query("max(jetmem_model_gain_nats)", "nats a run"),)),
            Panel("Studies", "s", "Relations, patterns, insights, models: how long one takes.",
                  _quantiles("jetmem_study_seconds", "kind")),
        ),
        "Said again": (
            Panel("Duplicates", "cps", "Messages recorded before, or forgotten.", (
                Query("sum(rate(jetmem_duplicates_total[$__rate_interval]))", "duplicates"),)),
            Panel("Bytes an entry", "bytes", "All stores, for one entry of the record.", (
                Query('sum(jetmem_store_bytes) / sum(jetmem_store_rows{store="persist",family="log"})', "bytes"),)),
            Panel("Topics", "cps", "Segments placed among topics, and groupings.", (
                Query("sum(rate(jetmem_topics_placed_total[$__rate_interval]))", "placed"),
                Query("sum(rate(jetmem_topics_grouped_total[$__rate_interval]))", "grouped"))),
        ),
    },
)  # fmt: skip

_STORES: Final = Board(
    "jetmem-stores",
    "jetmem: stores and broker",
    {
        "Stores": (
            Panel("Size on disk", "bytes", "By folder.", _per("jetmem_store_bytes", "stage, store")),
            Panel("Free", "percentunit", "Of the disk that a stage's store is on.",
                  (Query("min by (stage) (jetmem_disk_free_bytes / jetmem_disk_bytes)", "{{stage}}"),)),
            Panel("Writes", "s", "One write with its sync or commit.", _quantiles("jetmem_write_seconds", "stage")),
            Panel("Stalls", "short", "RocksDB takes no writes.", _per("jetmem_rocksdb_write_stopped", "store", "max")),
            Panel("Slowed to", "Bps", "0 for not at all.",
                  _per("jetmem_rocksdb_delayed_write_bytes_per_second", "store", "max")),
            Panel("To compact", "bytes", "Bytes that RocksDB has to rewrite.",
                  _per("jetmem_rocksdb_pending_compaction_bytes", "store", "max")),
            Panel("Graphs", "short", "Rows of vectors in memory; removed ones are tombstones.",
                  _per("jetmem_graph_rows", "state")),
            Panel("Model", "short", "What embed serves, and how.",
                  _per("jetmem_model_info", "model, precision, device", "count")),
            Panel("Versions", "short", "Processes by version of the code.",
                  _per("jetmem_build_info", "stage, version", "count")),
        ),
        "Broker": (
            Panel("Streams, share of their bound", "percentunit", "MEMORY refuses when it is full.",
                  (Query("max by (stream) (jetmem_stream_bytes / jetmem_stream_max_bytes)", "{{stream}}"),)),
            Panel("Streams, messages", "short", "What each stream holds.",
                  _per("nats_stream_total_messages", "stream_name", "max")),
            Panel("Storage, share of the bound", "percentunit", "Bytes of all streams, of max_file_store.",
                  (Query("max by (server_id) (nats_server_total_message_bytes / nats_server_max_storage)",
                         "{{server_id}}"),)),
            Panel("Consumers, pending", "short", "Messages not yet delivered.",
                  _per("nats_consumer_num_pending", "stream_name, consumer_name", "max")),
            Panel("Unhealthy", "short", "1 where /healthz is not ok: a full disk shows here.",
                  _per("nats_healthz_status", "server_id", "max")),
            Panel("Slow consumers", "short", "Connections that the broker dropped for being slow.",
                  _per("nats_varz_slow_consumers", "server_id", "max")),
            Panel("Connections", "short", "", _per("nats_varz_connections", "server_id", "max")),
            Panel("Messages in and out", "cps", "", (
                Query("sum by (server_id) (rate(nats_varz_in_msgs[$__rate_interval]))", "in {{server_id}}"),
                Query("sum by (server_id) (rate(nats_varz_out_msgs[$__rate_interval]))", "out {{server_id}}"))),
            Panel("Memory", "bytes", "Of the broker.", _per("nats_varz_mem", "server_id", "max")),
            Panel("Expires", "dateTimeFromNow", "A broker's certificate, its authority, credentials; keys never do.",
                  (Query("min by (stage, of) (jetmem_expires_timestamp_seconds) * 1000", "{{stage}} {{of}}"),)),
        ),
    },
)  # fmt: skip

BOARDS: Final = (_PIPELINE, _SEARCH, _MEMORY, _STORES)


def expressions() -> dict[str, str]:
    """Every PromQL expression of every panel, by where it stands; Grafana fills in `$__rate_interval`."""
    return {
        f"{board.title} / {panel.title} / {number}": query.expr
        for board in BOARDS
        for panels in board.rows.values()
        for panel in panels
        for number, query in enumerate(panel.queries, 1)
    }


def files() -> dict[str, str]:
    """Every dashboard as Grafana reads it, by file name."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {f"{board.name}.json": encoder.encode(_built(board)) + "\n" for board in BOARDS}


def _built(board: Board) -> Any:
    from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, Row
    from grafana_foundation_sdk.models.dashboard import DashboardCursorSync

    made = (
        Dashboard(board.title)
        .uid(board.name)
        .tags(["jetmem"])
        .timezone("browser")
        .refresh(_REFRESH)
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(DatasourceVariable("source").label("Prometheus").type("prometheus"))
    )
    for title, panels in board.rows.items():
        made = made.with_row(Row(title))
        for panel in panels:
            made = made.with_panel(_panel(panel))
    return made.build()


def _panel(panel: Panel) -> Any:
    from grafana_foundation_sdk.builders.prometheus import Dataquery
    from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
    from grafana_foundation_sdk.models.common import DataSourceRef

    source = DataSourceRef(type_val="prometheus", uid=_SOURCE)
    made = (
        Timeseries().title(panel.title).unit(panel.unit).datasource(source).span(_WIDTH).height(_HEIGHT)
        .fill_opacity(10).min(0)
    )  # fmt: skip
    if panel.about:
        made = made.description(panel.about)
    for letter, query in zip("ABCD", panel.queries, strict=False):
        made = made.with_target(
            Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).datasource(source).exemplar(True)
        )
    return made
