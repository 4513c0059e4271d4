"""Stands in for prometheus-nats-exporter: the metrics of its that we use, made of a real broker's monitoring pages.

Names and labels are those of `-prefix=nats -varz -jsz=all -healthz` (collector/jsz.go, healthz.go, collector.go).
"""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, Metric

_SERVER: Final = ("server_id", "server_name", "cluster", "domain", "meta_leader", "is_meta_leader")
_STREAM: Final = (*_SERVER, "account", "account_id", "stream_name", "stream_leader", "is_stream_leader")
_CONSUMER: Final = (*_STREAM, "consumer_name", "consumer_leader", "is_consumer_leader", "consumer_desc")
_VARZ: Final = ("connections", "slow_consumers", "in_msgs", "out_msgs", "mem", "cpu")
#: Every metric that dashboards and alerts may use, with its labels.
METRICS: Final[dict[str, tuple[str, ...]]] = {
    **{f"nats_varz_{key}": ("server_id",) for key in _VARZ},
    "nats_healthz_status": ("server_id",),
    "nats_server_total_message_bytes": _SERVER,
    "nats_server_max_storage": _SERVER,
    "nats_stream_total_messages": _STREAM,
    "nats_stream_total_bytes": _STREAM,
    "nats_consumer_num_pending": _CONSUMER,
}


class _Exporter:
    def __init__(self, base: str) -> None:
        self.base = base

    def collect(self) -> Iterator[Metric]:
        made = {name: GaugeMetricFamily(name, name, labels=labels) for name, labels in METRICS.items()}
        try:
            varz, jsz = self._get("/varz"), self._get("/jsz?consumers=true&config=true")
        except OSError:  # away, or hung: the real one has nothing to say then, too
            return
        for key in _VARZ:
            made[f"nats_varz_{key}"].add_metric([self.base], varz[key])
        made["nats_healthz_status"].add_metric([self.base], int(self._get("/healthz")["status"] != "ok"))
        server = [self.base, varz["server_name"], "", "", "", "true"]
        made["nats_server_total_message_bytes"].add_metric(server, jsz["bytes"])
        made["nats_server_max_storage"].add_metric(server, jsz["config"]["max_storage"])
        for account in jsz["account_details"]:
            for stream in account.get("stream_detail", ()):
                labels = [*server, account["name"], account["id"], stream["name"], "", "true"]
                made["nats_stream_total_messages"].add_metric(labels, stream["state"]["messages"])
                made["nats_stream_total_bytes"].add_metric(labels, stream["state"]["bytes"])
                for consumer in stream.get("consumer_detail") or ():
                    own = [*labels, consumer["name"], "", "true", ""]
                    made["nats_consumer_num_pending"].add_metric(own, consumer["num_pending"])
        yield from made.values()

    def _get(self, path: str) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(self.base + path, timeout=1) as reply:
                return dict(json.load(reply))
        except urllib.error.HTTPError as error:  # /healthz says 503 with a body
            return dict(json.load(error))


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is wsgiref's
        """Scrapes are not news."""


@contextmanager
def exporter(base: str) -> Iterator[int]:
    """Serve `/metrics` about the broker whose monitoring is at `base`; the port."""
    registry = CollectorRegistry()
    registry.register(_Exporter(base))
    server = make_server("127.0.0.1", 0, make_wsgi_app(registry), handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
