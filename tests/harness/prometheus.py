"""A real Prometheus for one test: scrapes each second, our rules with their durations shortened and nothing else."""

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from harness.deployment import COMPOSE
from harness.ports import free_port
from harness.tools import tool
from harness.waiting import until

RULES: Final = COMPOSE / "prometheus/rules/jetmem.yml"
#: What a range becomes: ten scrapes.
RANGE: Final = "10s"


class Prometheus:
    """What it answers."""

    def __init__(self, base: str) -> None:
        self._base = base

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Series of an instant query, `$__rate_interval` filled in."""
        text = expr.replace("$__rate_interval", RANGE)
        return list(self._get("/api/v1/query?" + urllib.parse.urlencode({"query": text}))["result"])

    def alerts(self, state: str = "firing") -> set[str]:
        """Names of the alerts in a state."""
        return {each["labels"]["alertname"] for each in self._get("/api/v1/alerts")["alerts"] if each["state"] == state}

    def told(self, since_s: float) -> set[str]:
        """Names of the alerts that fired at any time in the last seconds."""
        window = f"{max(1, round(since_s))}s"
        found = self.query(f'count by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{window}]))')
        return {each["metric"]["alertname"] for each in found}

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._base}/-/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self._base + path, timeout=20) as reply:
            return dict(json.load(reply)["data"])


def shortened(rules: str) -> str:
    """Our rules in test time: ranges of ten scrapes, alerts that hold for a second, hours and minutes as seconds.

    Days stay: what is a date on a calendar cannot be hurried.
    """
    ranges = re.sub(r"\[\d+[smhd]\]", f"[{RANGE}]", rules)
    return re.sub(r"\b(\d+) \* (60|3600)\b", r"\1", re.sub(r"(?m)^( +for:) .*$", r"\1 1s", ranges))


@contextmanager
def prometheus(folder: Path, jobs: Mapping[str, list[int]]) -> Iterator[Prometheus]:
    """Scrape the ports of each job on this machine."""
    folder.mkdir()
    (folder / "rules.yml").write_text(shortened(RULES.read_text(encoding="utf-8")), encoding="utf-8")
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yml")],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
            for job, ports in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = [
        tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            made = Prometheus(f"http://{address}")
            until(made.ready, f"Prometheus is ready, log {folder / 'log'}")
            yield made
        finally:
            process.terminate()
            process.wait(30)
