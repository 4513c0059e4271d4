"""Alerts and the rules under them: one list, written for Prometheus, for its operator, and as a page for people."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from jetmem import flow

#: What share may be late: 1 % of what is said. Seconds are bounds of buckets of the freshness histogram.
_BUDGET: Final = 0.01
_FRESH_WITHIN: Final = {"record": "1.0", "text": "5.0", "vector": "60.0"}
#: Burn rates of a 30-day budget: 2 % of it gone within an hour wakes somebody, 5 % within six hours can wait till
#: morning (the multi-window rule of the Site Reliability Workbook, chapter 5).
_FAST, _SLOW = 14.4, 6.0
_WINDOWS: Final = ("5m", "30m", "1h", "6h")
PAGE: Final = "services/ALERTS.md"
_LEFT_S: Final = "min by (of) (jetmem_expires_timestamp_seconds) - time()"


class Alert(NamedTuple):
    """One alert.

    Attributes:
        name: What it is called.
        expr: PromQL; it fires for each series for which this has a value.
        hold: For how long before it fires, as Prometheus writes durations.
        severity: `page`: users notice or soon will; `ticket`: look within days.
        summary: One sentence, with values of the series.
        means: What is wrong, for who has just been woken.
        do: What to look at and what to do, in order.
    """

    name: str
    expr: str
    hold: str
    severity: str
    summary: str
    means: str
    do: tuple[str, ...]


def _missing() -> str:
    return " or ".join(f'absent(jetmem_build_info{{stage="{name}"}})' for name in flow.NAMES)


def _burns(factor: float, short: str, long: str) -> str:
    bound = f"{factor * _BUDGET:.3f}"
    return f"jetmem:freshness_late:ratio{short} > {bound} and jetmem:freshness_late:ratio{long} > {bound}"


def _late(window: str) -> str:
    """Share of what came later than its arm's objective."""
    return " or ".join(
        f'1 - sum by (arm) (rate(jetmem_freshness_seconds_bucket{{arm="{arm}",le="{bound}"}}[{window}])) / '
        f'sum by (arm) (rate(jetmem_freshness_seconds_count{{arm="{arm}"}}[{window}]))'
        for arm, bound in _FRESH_WITHIN.items()
    )


RECORDED: Final = {f"jetmem:freshness_late:ratio{window}": _late(window) for window in _WINDOWS}

ALERTS: Final = (
    Alert(
        "JetmemStageDown", f'up{{job=~"(.+/)?jetmem"}} == 0 or {_missing()}', "2m", "page",
        "{{ $labels.stage }}{{ $labels.instance }} does not answer /metrics",
        "A process of jetmem is not there, or so busy or stuck that it does not answer. What agents say is kept by the "
        "broker meanwhile; ARCHITECTURE.md, \"When a part dies\", says what works without it.",
        ("`jetmem status`, `docker compose ps` or `kubectl get pods`: is it started again and again? The last line of "
         "its log says why it ended; exit code 2 is a setting.",
         "A store that cannot be opened names its folder. Those of index, summarize and learn can be made anew "
         "(`jetmem rebuild`); persist's cannot: put a backup back.",
         "Is memory short? services/SIZING.md says for how much the limits in compose.yaml and k8s/base are enough."),
    ),
    Alert(
        "JetmemNoProgress", "min by (stage) (jetmem_healthy) == 0", "2m", "page",
        "{{ $labels.stage }} has work and makes no progress",
        "The process runs, and nothing was handled for half a minute although something waits.",
        ("`/healthz` of the stage, or `jetmem status`, says what it waits for and its last error.",
         "`retryable`, `broker`, `timeout`: look at the broker first (JetmemBrokerUnhealthy).",
         "A disk that is full or a store that stalls shows on the dashboard \"stores and broker\"."),
    ),
    Alert(
        "JetmemLag", "max by (stage) (jetmem_lag_seconds) > 5 * 60", "5m", "ticket",
        "{{ $labels.stage }} is {{ $value | humanizeDuration }} behind",
        "A stage works, and has not caught up for five minutes: what is newer is not found by that arm.",
        ("Is it a rebuild or a bulk load? Then \"Entries behind\" falls on the dashboard \"pipeline\", and it ends by "
         "itself.",
         "embed: more replicas (they share the queue), or a GPU. The others: a faster disk, or more shards."),
    ),
    Alert(
        "JetmemPartitionsUnserved",
        'sum by (stage) (jetmem_partitions{state=~"served|parked"}) < 64', "5m", "page",
        "{{ $labels.stage }} serves {{ $value }} of 64 partitions",
        "A shard is not there: what tenants of its partitions say waits at the broker, and what they ask is refused "
        "(persist) or answered without that arm.",
        ("`jetmem shards` says how many partitions each shard of persist owns, `jetmem top` and \"Partitions\" on the "
         "dashboard \"pipeline\" how many each process serves; start the shard that is missing.",
         "Was the number of shards made smaller together with the replicas? The number first, then wait for `jetmem "
         "shards --wait-for`, then the replicas."),
    ),
    Alert(
        "JetmemMoveStuck",
        'sum by (stage, shard, state) (jetmem_partitions{state!="served"}) > 0 '
        "unless on () sum(increase(jetmem_rows_copied_total[15m])) > 0",
        "15m", "ticket", "{{ $value }} partitions are {{ $labels.state }} at {{ $labels.stage }}-{{ $labels.shard }}",
        "Partitions are to move between shards of persist, and nothing was copied for a quarter of an hour. A parked "
        "one answers, and what is said to it waits at the broker.",
        ("`/healthz` of that shard says what it waits for: an owner that is not there, or one that was started with "
         "another number of shards. `jetmem shards` says who owns how many.",
         "Start every shard of persist with the same number. A move goes on where it was."),
    ),
    Alert(
        "JetmemDeadLetters", "sum by (code) (increase(jetmem_dead_letters_total[15m])) > 0", "0m", "ticket",
        "messages cannot be recorded: {{ $labels.code }}",
        "Somebody published what cannot become a memory. It is kept with its bytes and the reason.",
        ("`jetmem dead-letters list` has them with code, tenant and reason; README.md explains the codes.",
         "Have the agent corrected; `jetmem dead-letters redrive` then records them under their own id and time."),
    ),
    Alert(
        "JetmemPoisonFlood",
        "sum(rate(jetmem_dead_letters_total[5m])) / sum(rate(jetmem_received_total{stage=\"persist\"}[5m])) > 0.05",
        "5m", "page", "{{ $value | humanizePercentage }} of what is published cannot be recorded",
        "An agent, or a new version of one, publishes nothing usable. DEAD takes two GiB; then its letters wait in "
        "persist's outbox.",
        ("`jetmem dead-letters list` shows whose they are. Stop or correct that agent, or take its user's rights.",),
    ),
    Alert(
        "JetmemFreshnessBurnsFast", _burns(_FAST, "5m", "1h"), "2m", "page",
        "{{ $value | humanizePercentage }} of {{ $labels.arm }} comes late",
        "The objective is that 99 % of what is said is recorded within 1 s, found by words within 5 s and by meaning "
        "within 60 s. At this rate a month's budget is gone in two days.",
        ("Which arm? `record`: persist or the broker's disk; `text`: index; `vector`: embed, then index.",
         "\"Seconds behind\" and \"Writes\" on the dashboards show which stage is slow; its last error may say why.",
         "A bulk load makes vectors late for as long as it lasts; loads are slowest in embed."),
    ),
    Alert(
        "JetmemFreshnessBurnsSlowly", _burns(_SLOW, "30m", "6h"), "15m", "ticket",
        "{{ $value | humanizePercentage }} of {{ $labels.arm }} came late for hours",
        "As JetmemFreshnessBurnsFast, more slowly: a month's budget is gone in five days.",
        ("As there. Growth shows on the dashboard \"memory\": is it time for another shard or replica?",),
    ),
    Alert(
        "JetmemDiskFull", "min by (stage) (jetmem_disk_free_bytes / jetmem_disk_bytes) < 0.1", "5m", "page",
        "{{ $value | humanizePercentage }} of the disk of {{ $labels.stage }} are free",
        "A store that cannot write stops its stage; on one machine the broker's disk is the same, and a broker with a "
        "full disk answers nobody: publishes time out, and it heals only after a restart.",
        ("Make room or a larger volume before it is full. A purge after a forget needs room for a second index.",
         "After it was full: free room first, then restart the broker, then the stages."),
    ),
    Alert(
        "JetmemDiskFillsUp",
        "min by (stage) (predict_linear(jetmem_disk_free_bytes[6h], 24 * 3600)) < 0", "1h", "ticket",
        "the disk of {{ $labels.stage }} is full within a day",
        "At the rate of the last six hours nothing is left tomorrow.",
        ("As JetmemDiskFull, with time left. services/SIZING.md tells how much a million events take.",),
    ),
    Alert(
        "JetmemStreamFull", "max by (stream) (jetmem_stream_bytes / jetmem_stream_max_bytes) > 0.9", "5m", "page",
        "stream {{ $labels.stream }} is {{ $value | humanizePercentage }} full",
        "MEMORY refuses what is published when it is full; persist trims it below its checkpoint, and above "
        "`persist.full_share` sooner. DEAD keeps letters until somebody drops or redrives them.",
        ("MEMORY: is persist behind (JetmemLag, JetmemNoProgress)? Else make `JETMEM_MEMORY_BYTES_MAX` larger.",
         "DEAD: `jetmem dead-letters list`, then `jetmem dead-letters drop` or `jetmem dead-letters redrive`."),
    ),
    Alert(
        "JetmemBrokerUnhealthy", "nats_healthz_status != 0 or absent(nats_healthz_status)", "2m", "page",
        "the broker {{ $labels.server_id }} is not healthy or not watched",
        "`/healthz` of a nats-server is not ok: JetStream is off, a stream is not current, or its disk is full; or "
        "the exporter does not reach it. Its readiness probe `?js-server-only=true` stays green on a full disk.",
        ("The broker's `/healthz` says what; its log says `no space left` for a disk.",
         "A full disk: free room, then restart it. It does not recover by itself.",
         "One of three members: the others serve; look whether it catches up (`nats server report jetstream`)."),
    ),
    Alert(
        "JetmemBrokerStorage", "max by (server_id) (nats_server_total_message_bytes / nats_server_max_storage) > 0.85",
        "15m", "ticket", "the broker's streams take {{ $value | humanizePercentage }} of max_file_store",
        "When the reserved storage is used up, streams refuse messages although each is below its own bound.",
        ("Which stream grows: \"Streams, messages\". Streams of your own share this bound with jetmem's.",),
    ),
    Alert(
        "JetmemBrokerDropsConnections", "sum by (server_id) (increase(nats_varz_slow_consumers[15m])) > 0", "0m",
        "ticket", "the broker {{ $labels.server_id }} dropped connections that did not read fast enough",
        "Somebody subscribed and does not keep up. A stage that is dropped connects again and scans what it missed.",
        ("`/connz?state=closed` of the broker names who. A stage that is named often is short of processor.",),
    ),
    Alert(
        "JetmemDegraded",
        "sum by (arm) (rate(jetmem_degraded_total[10m])) / on () group_left () "
        'sum(rate(jetmem_requests_total{stage="query"}[10m])) > 0.05',
        "10m", "ticket", "{{ $value | humanizePercentage }} of answers lack the arm {{ $labels.arm }}",
        "Questions are answered, and worse: without meaning, without words, or by a walk.",
        ("`vector`: is embed there, has index its vectors (\"Waits\" on the dashboard \"pipeline\")? `text`: index. "
         "`toc`: summarize. `model`, `words`: learn makes those of tenants for the first time, one after the other.",
         "\"Asks\" on the dashboard \"search\" shows who answers too late."),
    ),
    Alert(
        "JetmemQueriesFail",
        'sum(rate(jetmem_requests_total{stage="query",code=~"internal|unavailable|timeout|busy"}[5m])) / '
        'sum(rate(jetmem_requests_total{stage="query"}[5m])) > 0.05',
        "5m", "page", "{{ $value | humanizePercentage }} of questions fail",
        "Agents get errors that are not theirs.",
        ("`unavailable`, `timeout`: persist does not answer, which every verb but `status` needs, or learn does "
         "not, which those about procedures need.",
         "`busy`: a tenant asks more than is worked on; more replicas of query, or fewer questions.",
         "`internal`: a fault of ours; the log of query has it."),
    ),
    Alert(
        "JetmemExpires", f"{_LEFT_S} < 14 * 86400", "1h", "ticket",
        "the {{ $labels.of }} of the connection to the broker expires in {{ $value | humanizeDuration }}",
        "Two weeks are left. `certificate` is a broker's own, `authority` the one in `tls_ca` that signed it, "
        "`credentials` the JWT that a stage is given by `creds`. Keys of users (nkeys) never expire.",
        ("Renew it. A broker takes a new certificate with a reload (SIGHUP); credentials are read again with each "
         "connection; a new authority needs a restart of the stages, and its file may hold both for a time.",
         "\"Expires\" on the dashboard \"stores and broker\" shows which stage says so; it looks every few seconds."),
    ),
    Alert(
        "JetmemExpiresSoon", f"{_LEFT_S} < 2 * 86400", "5m", "page",
        "the {{ $labels.of }} of the connection to the broker expires in {{ $value | humanizeDuration }}",
        "Two days are left, or none. Whoever is connected stays so; nobody connects again, so that the next restart of "
        "a broker or a stage ends it all.",
        ("As JetmemExpires, now.",),
    ),
    Alert(
        "JetmemWritesStall",
        "max by (store) (jetmem_rocksdb_write_stopped) > 0 or "
        "max by (store) (jetmem_rocksdb_delayed_write_bytes_per_second) > 0", "5m", "page",
        "RocksDB of {{ $labels.store }} slows writes down, or takes none",
        "Compaction does not keep up with what is written, or its disk is very slow. A write that is held up holds "
        "up the whole process, so that a stage whose writes are stopped mostly shows as JetmemStageDown.",
        ("\"To compact\" and \"Writes\" on the dashboard \"stores and broker\". Is another process using the disk?",),
    ),
)  # fmt: skip


def groups() -> list[dict[str, Any]]:
    """Groups of rules, as files of Prometheus and the resource `PrometheusRule` have them."""
    recorded = [{"record": name, "expr": expr} for name, expr in RECORDED.items()]
    return [{"name": "jetmem-recorded", "rules": recorded}, {"name": "jetmem", "rules": [_rule(a) for a in ALERTS]}]


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.hold,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "runbook": f"{PAGE}#{alert.name.lower()}"},
    }


def rules() -> str:
    """The file of rules for Prometheus."""
    return _HEAD + _yaml({"groups": groups()})


def resource() -> str:
    """The same for the Prometheus operator."""
    meta = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "jetmem"}}
    return _HEAD + _yaml({**meta, "spec": {"groups": groups()}})


_HEAD: Final = "# Generated from services/jetmem/docs/alerts.py by `make docs`; do not edit.\n"


def _yaml(document: dict[str, Any]) -> str:
    import yaml

    written: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    return written


def page() -> str:
    """What to do when one fires."""
    parts = [
        "# Alerts\n\nGenerated from `services/jetmem/docs/alerts.py` by `make docs`; do not edit.\n\n"
        "Severity `page`: users notice, or soon will. `ticket`: look within days. The objective of freshness is that "
        "99 % of what is said is recorded within 1 s, found by words within 5 s and by meaning within 60 s."
    ]
    for alert in ALERTS:
        told = "\n".join(f"{number}. {step}" for number, step in enumerate(alert.do, 1))
        held = f"after {alert.hold} of" if alert.hold != "0m" else "at once with"
        parts.append(
            f"## {alert.name}\n\n{alert.means}\n\n- Severity: {alert.severity}\n- Fires {held}\n\n"
            f"```promql\n{alert.expr}\n```\n\n{told}"
        )
    return "\n\n".join(parts) + "\n"
