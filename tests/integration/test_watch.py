"""Dashboards and alerts: Prometheus takes every expression, all name what exists, each alert fires and only then."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from harness.deployment import COMPOSE, K8S, ROOT, composed, kustomized, of_kind
from harness.exporter import METRICS
from harness.promql import named
from harness.tools import tool
from jetmem import flow
from jetmem.docs import alerts, dashboards, pages
from jetmem.runtime import metrics

RULES = COMPOSE / "prometheus/rules/jetmem.yml"
BOARDS = COMPOSE / "grafana/dashboards"
ALERTS = {alert.name: alert for alert in alerts.ALERTS}
#: Grafana fills it in; four scrapes.
RATE = "1m"


def expressions() -> dict[str, str]:
    """Every expression of panels and rules, by where it stands."""
    found = {where: expr.replace("$__rate_interval", RATE) for where, expr in dashboards.expressions().items()}
    return found | alerts.RECORDED | {alert.name: alert.expr for alert in alerts.ALERTS}


def labels_of() -> dict[str, set[str]]:
    """Labels by the name of every series that there can be."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in METRICS.items()}
    for each in vars(metrics).values():
        if hasattr(each, "_labelnames"):
            labels = set(each._labelnames)
            ends = {"counter": ("_total",), "histogram": ("_sum", "_count", "_bucket")}.get(each._type, ("",))
            found |= {each._name + end: labels | ({"le"} if end == "_bucket" else set()) for end in ends}
    found |= {name: {"arm"} for name in alerts.RECORDED}
    found["up"] = set()
    return {name: labels | {"job", "instance"} for name, labels in found.items()}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)


def parses(tmp_path: Path, expressions: list[str]) -> subprocess.CompletedProcess[str]:
    rules = [{"record": f"r:{number}", "expr": expr} for number, expr in enumerate(expressions)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}), encoding="utf-8")
    return promtool("check", "rules", str(path))


def test_prometheus_takes_every_expression(tmp_path: Path) -> None:
    every = list(expressions().values())
    done = parses(tmp_path, every)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(every)} rules found" in done.stdout
    assert parses(tmp_path, ["sum(rate(jetmem_received_total)"]).returncode != 0


def test_prometheus_takes_what_compose_gives_it(tmp_path: Path) -> None:
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stderr
    config = (COMPOSE / "prometheus/prometheus.yml").read_text(encoding="utf-8")
    path = tmp_path / "prometheus.yml"
    path.write_text(config.replace("/etc/prometheus/rules", str(RULES.parent)), encoding="utf-8")
    done = promtool("check", "config", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


def unknown(expr: str) -> set[str]:
    """What an expression names that no process of ours, and not the exporter, ever says."""
    known = labels_of()
    said = named(expr)
    there = set().union(*(known.get(name, set()) for name in said.metrics))
    wrong = set(said.metrics) - set(known)
    wrong |= {label for name, labels in said.metrics.items() for label in labels - known.get(name, labels)}
    return wrong | (said.grouped - there)


def test_what_is_named_exists() -> None:
    assert {where: unknown(expr) for where, expr in expressions().items() if unknown(expr)} == {}


@pytest.mark.parametrize(
    ("expr", "wrong"),
    [
        ("sum by (stage) (rate(jetmem_recieved_total[5m]))", {"jetmem_recieved_total", "stage"}),
        ('sum(jetmem_healthy{satge="index"})', {"satge"}),
        ("sum by (tenant) (jetmem_healthy)", {"tenant"}),
        ("jetmem_freshness_seconds", {"jetmem_freshness_seconds"}),
        ("histogram_quantile(0.5, sum by (le) (rate(jetmem_freshness_seconds_bucket[5m]))) > 0.5 or vector(1)", set()),
    ],
)
def test_a_wrong_name_is_found(expr: str, wrong: set[str]) -> None:
    assert unknown(expr) == wrong


def test_values_of_labels_are_those_of_the_code() -> None:
    text = "\n".join(expressions().values())
    for label, value in re.findall(r'\b(stage|arm)="([^"]*)"', text):
        known = flow.NAMES if label == "stage" else ("record", *(arm for stage in flow.STAGES for arm in stage.arms))
        assert value in known, f'{label}="{value}"'
    bounds = {str(bound) for bound in metrics.freshness._upper_bounds}
    assert set(re.findall(r'le="([^"]*)"', text)) <= bounds
    assert set(re.findall(r'"(\d+\.\d)"', text)) <= bounds


def test_dashboards_are_those_of_the_code_everywhere() -> None:
    made = {name: json.loads(text) for name, text in dashboards.files().items()}
    (maps,) = [m for m in of_kind(kustomized("overlays/cluster"), "ConfigMap") if "grafana_dashboard" in str(m)]
    assert maps["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text) for name, text in maps["data"].items()} == made
    assert {path.name: json.loads(path.read_text(encoding="utf-8")) for path in BOARDS.glob("*.json")} == made
    assert len({each["uid"] for each in made.values()}) == len(made) == 4
    shown = [
        target["expr"]
        for each in made.values()
        for panel in each["panels"]
        for inner in (panel, *panel.get("panels", ()))
        for target in inner.get("targets", ())
    ]
    assert sorted(shown) == sorted(dashboards.expressions().values())
    provider = yaml.safe_load((COMPOSE / "grafana/provisioning/dashboards/jetmem.yaml").read_text(encoding="utf-8"))
    mounts = composed("monitoring")["grafana"]["volumes"]
    assert any(provider["providers"][0]["options"]["path"] in str(mount) for mount in mounts)


def test_grafanas_own_types_take_the_files() -> None:
    register_default_plugins()
    for path in BOARDS.glob("*.json"):
        read = Dashboard.from_json(json.loads(path.read_text(encoding="utf-8")))
        assert JSONEncoder(sort_keys=True, indent=2).encode(read) + "\n" == path.read_text(encoding="utf-8")


def test_panels_lie_beside_each_other() -> None:
    for text in dashboards.files().values():
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(text)["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24, panel["title"]
            taken |= cells


def test_compose_and_kubernetes_have_the_same_rules() -> None:
    (resource,) = of_kind(kustomized("overlays/cluster"), "PrometheusRule")
    held = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    assert resource["spec"] == held == {"groups": alerts.groups()}


def test_the_exporters_names_are_those_that_it_is_started_with() -> None:
    """The chart gives its exporter the prefix; compose must as well, and both must ask for health."""
    command = str(composed("monitoring")["nats-exporter"]["command"])
    values = yaml.safe_load((K8S / "nats/values.yaml").read_text(encoding="utf-8"))
    assert {"-prefix=nats", "-varz", "-jsz=all", "-healthz"} <= set(re.findall(r"-[\w=]+", command))
    assert {"op": "add", "path": "/args/0", "value": "-healthz"} in values["promExporter"]["patch"]


def test_the_runbook_says_what_to_do_with_commands_that_exist() -> None:
    page = (ROOT / alerts.PAGE).read_text(encoding="utf-8")
    commands = (ROOT / "services/CLI.md").read_text(encoding="utf-8")
    for rule in alerts.groups()[1]["rules"]:
        file, anchor = rule["annotations"]["runbook"].split("#")
        assert file == alerts.PAGE
        assert re.search(rf"^## {anchor}$", page, re.MULTILINE | re.IGNORECASE)
    for alert in alerts.ALERTS:
        assert alert.means.endswith(".") and alert.do and all(step[-1] in ".?" for step in alert.do), alert.name
    told = set(re.findall(r"`(jetmem [a-z-]+(?: [a-z]+)?)`", page))
    assert len(told) > 4
    assert {command for command in told if f"## {command}\n" not in commands} == set()
    settings = {key for _, key, *_ in pages.setting_rows(_sections())}
    assert {key for key in re.findall(r"`((?:persist\.)?[a-z]+_[a-z_]+)`", page) if key not in settings} == set()


def _sections() -> Any:
    from jetmem.console import configuration

    return configuration.sections()


# --- each alert fires when its cause is there, and not without it

#: One series and its values, a minute apart, as promtool writes them.
Series = dict[str, str]


class Case(NamedTuple):
    """`causes` make the alert fire at minute `at` for `count` series; it does not before `not_yet`, nor `calm`."""

    alert: str
    causes: Series
    at: int
    calm: Series
    not_yet: int = 0
    count: int = 1
    over: int = 0


def fresh(arm: str, late: int) -> Series:
    """A thousand messages a minute for eight hours, so many late."""
    bound = {"record": "1.0", "text": "5.0", "vector": "60.0"}[arm]
    return {
        f'jetmem_freshness_seconds_count{{arm="{arm}"}}': "0+1000x480",
        f'jetmem_freshness_seconds_bucket{{arm="{arm}",le="{bound}"}}': f"0+{1000 - late}x480",
    }


THERE = {f'jetmem_build_info{{stage="{name}"}}': "1x600" for name in flow.NAMES}
ANSWERS = {'jetmem_requests_total{stage="query",verb="search",code="ok"}': "0+1000x60"}
CASES = (
    Case("JetmemStageDown", {**THERE, 'up{job="jetmem",instance="a"}': "1x10 0x20"}, 15,
         {**THERE, 'up{job="jetmem/jetmem",instance="a"}': "1x60", 'up{job="nats"}': "0x60"}, 11),
    Case("JetmemStageDown", {**THERE, 'jetmem_build_info{stage="persist"}': "1x10 stale _x30"}, 15, THERE, 11),
    Case("JetmemNoProgress", {'jetmem_healthy{stage="index"}': "1x10 0x10 1x10"}, 14,
         {'jetmem_healthy{stage="index"}': "1x60"}, 11, over=24),
    Case("JetmemLag", {'jetmem_lag_seconds{stage="embed"}': "0x5 400x20"}, 15,
         {'jetmem_lag_seconds{stage="embed"}': "0x5 299x20"}, 9),
    Case("JetmemDeadLetters", {'jetmem_dead_letters_total{code="bad_json"}': "0x10 1x40"}, 13,
         {'jetmem_dead_letters_total{code="bad_json"}': "7x40"}, 10, over=35),
    Case("JetmemPoisonFlood", {'jetmem_dead_letters_total{code="conflict"}': "0+10x40",
                               'jetmem_received_total{stage="persist"}': "0+100x40"}, 15,
         {'jetmem_dead_letters_total{code="conflict"}': "0+4x40",
          'jetmem_received_total{stage="persist"}': "0+100x40"}, 3),
    Case("JetmemFreshnessBurnsFast", {**fresh("text", 200), **fresh("vector", 150)}, 75, fresh("text", 130), 0, 2),
    Case("JetmemFreshnessBurnsSlowly", fresh("record", 100), 420, fresh("record", 50), 5),
    Case("JetmemDiskFull", {'jetmem_disk_free_bytes{stage="index"}': "50x10 9x20",
                            'jetmem_disk_bytes{stage="index"}': "100x30"}, 20,
         {'jetmem_disk_free_bytes{stage="index"}': "11x60", 'jetmem_disk_bytes{stage="index"}': "100x60"}, 12),
    Case("JetmemDiskFillsUp", {'jetmem_disk_free_bytes{stage="index"}': "10000-10x600"}, 480,
         {'jetmem_disk_free_bytes{stage="index"}': "100000-10x600"}, 30),
    Case("JetmemStreamFull", {'jetmem_stream_bytes{stream="MEMORY"}': "10x5 95x20",
                              'jetmem_stream_max_bytes{stream="MEMORY"}': "100x30"}, 15,
         {'jetmem_stream_bytes{stream="MEMORY"}': "82x30", 'jetmem_stream_max_bytes{stream="MEMORY"}': "100x30"}, 7),
    Case("JetmemBrokerUnhealthy", {'nats_healthz_status{server_id="n"}': "0x10 1x10 0x10"}, 14,
         {'nats_healthz_status{server_id="n"}': "0x60"}, 11, over=24),
    Case("JetmemBrokerUnhealthy", {"up": "1x60"}, 5, {'nats_healthz_status{server_id="n"}': "0x60"}, 1),
    Case("JetmemBrokerStorage", {'nats_server_total_message_bytes{server_id="n"}': "90x60",
                                 'nats_server_max_storage{server_id="n"}': "100x60"}, 20,
         {'nats_server_total_message_bytes{server_id="n"}': "80x60",
          'nats_server_max_storage{server_id="n"}': "100x60"}, 10),
    Case("JetmemBrokerDropsConnections", {'nats_varz_slow_consumers{server_id="n"}': "0x10 2x40"}, 13,
         {'nats_varz_slow_consumers{server_id="n"}': "2x40"}, 10, over=35),
    Case("JetmemDegraded", {**ANSWERS, 'jetmem_degraded_total{arm="vector"}': "0+100x60"}, 30,
         {**ANSWERS, 'jetmem_degraded_total{arm="vector"}': "0+40x60"}, 8),
    Case("JetmemQueriesFail", {**ANSWERS, 'jetmem_requests_total{stage="query",verb="get",code="timeout"}': "0+100x60"},
         20, {**ANSWERS, 'jetmem_requests_total{stage="query",verb="get",code="bad_field"}': "0+900x60"}, 3),
    Case("JetmemPartitionsUnserved", {'jetmem_partitions{stage="index",shard="0",state="served"}': "32x40",
                                      'jetmem_partitions{stage="index",shard="1",state="served"}':
                                      "32x10 stale _x10 32x20"}, 18,
         {'jetmem_partitions{stage="persist",shard="0",state="served"}': "63x60",
          'jetmem_partitions{stage="persist",shard="0",state="parked"}': "1x60",
          'jetmem_partitions{stage="persist",shard="1",state="copying"}': "1x60",
          'jetmem_partitions{stage="index",shard="0",state="served"}': "64x60"}, 14, over=24),
    Case("JetmemMoveStuck", {'jetmem_partitions{stage="persist",shard="1",state="wanted"}': "32x40 0x20",
                             "jetmem_rows_copied_total": "0+9x5 45x60"}, 38,
         {'jetmem_partitions{stage="persist",shard="1",state="wanted"}': "32x60",
          "jetmem_rows_copied_total": "0+9x60"}, 30, over=44),
    Case("JetmemExpires", {'jetmem_expires_timestamp_seconds{stage="index",of="certificate"}': f"{13 * 86400}x90 9e9x9",
                           'jetmem_expires_timestamp_seconds{stage="query",of="certificate"}': f"{15 * 86400}x99"},
         70, {'jetmem_expires_timestamp_seconds{stage="index",of="authority"}': f"{15 * 86400}x90"}, 55, over=95),
    Case("JetmemExpiresSoon", {'jetmem_expires_timestamp_seconds{stage="index",of="credentials"}': "86400x30"},
         10, {'jetmem_expires_timestamp_seconds{stage="index",of="credentials"}': f"{3 * 86400}x30"}, 3),
    Case("JetmemWritesStall", {'jetmem_rocksdb_write_stopped{store="persist"}': "0x5 1x10 0x10"}, 14,
         {'jetmem_rocksdb_write_stopped{store="persist"}': "0x60"}, 9, over=20),
    Case("JetmemWritesStall", {'jetmem_rocksdb_delayed_write_bytes_per_second{store="index"}': "0x5 9e5x10 0x10",
                               'jetmem_rocksdb_write_stopped{store="index"}': "0x60"}, 14,
         {'jetmem_rocksdb_delayed_write_bytes_per_second{store="index"}': "0x60"}, 9, over=20),
)  # fmt: skip


def firing(alert: str, minute: int, count: int) -> dict[str, Any]:
    counted = [{"labels": "{}", "value": count}] if count else []
    expr = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    return {"expr": expr, "eval_time": f"{minute}m", "exp_samples": counted}


def unit(series: Series, tests: list[dict[str, Any]]) -> dict[str, Any]:
    held = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": held, "promql_expr_test": tests}


def test_every_alert_has_its_case() -> None:
    assert {case.alert for case in CASES} == set(ALERTS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_it_fires_for_its_cause_and_only_then(case: Case, tmp_path: Path) -> None:
    told = [firing(case.alert, case.at, case.count)]
    told += [firing(case.alert, case.not_yet, 0)] if case.not_yet else []
    told += [firing(case.alert, case.over, 0)] if case.over else []
    calm = [firing(case.alert, minute, 0) for minute in (case.at, case.at + 5)]
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m",
                "tests": [unit(case.causes, told), unit(case.calm, calm)]}  # fmt: skip
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_told_of_an_alert_is_filled_in(tmp_path: Path) -> None:
    rule = {r["alert"]: r for r in alerts.groups()[1]["rules"]}["JetmemLag"]
    said = {**rule["annotations"], "summary": "embed is 6m 40s behind"}
    labels = {"severity": "ticket", "stage": "embed"}
    expected = {"alertname": "JetmemLag", "eval_time": "15m", "exp_alerts": [{"exp_labels": labels,
                                                                             "exp_annotations": said}]}  # fmt: skip
    series = [{"series": 'jetmem_lag_seconds{stage="embed"}', "values": "400x20"}]
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": [expected]}]
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": tests}), encoding="utf-8")
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
