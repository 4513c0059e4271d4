"""What is measured: names, units and labels; freshness of each arm; lag in seconds; what is measured at a scrape."""

import shutil
import urllib.request

import pytest
from prometheus_client import Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from harness.fake_stages import FakeClock
from harness.ports import free_port
from jetmem.adapters.rocks import Rocks
from jetmem.adapters.stage_disk import StageDisk, sizes
from jetmem.runtime import freshness, metrics, scraping
from jetmem.runtime.freshness import Freshness
from jetmem.runtime.health import Health, serve_http
from jetmem_schemas.internal import Entry, Head

NOW = FakeClock().now_ms()
#: Of a fixed, small set each; nothing that a caller could make up.
LABELS = {"topic",
    "stage", "kind", "code", "arm", "level", "verb", "operation", "outcome", "asked", "stream", "store", "family",
    "state", "model", "precision", "device", "version", "shard", "of",
}  # fmt: skip


class Clock(FakeClock):
    wall = NOW

    def now_ms(self):
        return self.wall


@pytest.fixture
def clock():
    return Clock()


def value(name, **labels):
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def listed():
    return [each for each in vars(metrics).values() if hasattr(each, "_labelnames")]


def test_labels_are_bounded_and_durations_and_sizes_have_their_unit():
    assert {label for each in listed() for label in each._labelnames} <= LABELS
    for each in listed():
        assert each._documentation[0].islower() or each._documentation[0] == "1", each._name
        if isinstance(each, Histogram):
            assert each._name.endswith(("_seconds", "_size")), each._name
        elif "bytes" in each._documentation.split():
            assert each._name.endswith("_bytes"), each._name


def test_openmetrics_for_who_asks_for_it(clock):
    trace = "0af7651916cd43dd8448eb211c80319c"
    metrics.request_seconds.labels("index", "find").observe(0.003, {"trace_id": trace})
    port = free_port()
    stop = serve_http(Health("index", clock), "127.0.0.1", port)
    try:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=accept)
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
            families = {each.name: each for each in text_string_to_metric_families(reply.read().decode())}
        assert families["jetmem_lag_seconds"].type == "gauge"
        assert families["memory_operations"].type == "counter"
        assert all(each.documentation for each in families.values())
        kept = [sample.exemplar for sample in families["jetmem_request_seconds"].samples if sample.exemplar]
        assert trace in [each.labels["trace_id"] for each in kept]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            assert reply.headers["Content-Type"].startswith("text/plain")
    finally:
        stop()


def entry(rseq, at=NOW, tenant="acme", kind="event"):
    return Entry(rseq, rseq, at, kind, tenant, "a", "s", f"e{rseq}", at, b"")


class Arms:
    def __init__(self):
        self.at = {"quick": Head(), "slow": Head()}

    def heads(self, part, tenant):
        return self.at


def seen(arm):
    return value("jetmem_freshness_seconds_count", arm=arm), value("jetmem_freshness_seconds_sum", arm=arm)


def gained(arm, before):
    return tuple(round(now - then, 3) for now, then in zip(seen(arm), before, strict=True))


def test_each_arm_is_fresh_when_it_covers_what_was_said(clock):
    arms = Arms()
    followed = Freshness(clock, arms.heads)
    quick, slow = seen("quick"), seen("slow")
    followed.note(3, [entry(1), entry(2, kind="derived"), entry(3)])
    clock.wall += 500
    arms.at["quick"] = Head(2, 2)
    followed.look()
    assert (gained("quick", quick), gained("slow", slow)) == ((1, 0.5), (0, 0))
    clock.wall += 1_500
    arms.at = {"quick": Head(3, 3), "slow": Head(3, 3)}
    followed.look()
    assert (gained("quick", quick), gained("slow", slow)) == ((2, 2.5), (2, 4.0))
    followed.look()
    assert gained("slow", slow) == (2, 4.0), "each is seen once"


def test_what_is_read_again_after_a_rebuild_is_not_late(clock):
    arms = Arms()
    followed = Freshness(clock, arms.heads)
    before = seen("quick")
    hour = 3_600_000
    followed.note(0, [entry(1, NOW - hour - 1), entry(2, NOW - hour)])
    arms.at["quick"] = Head(2, 2)
    followed.look()
    assert gained("quick", before) == (1, 3_600.0), "what waited while the stage was down is"


def test_what_is_followed_is_bounded_and_given_up_with_its_log(clock, monkeypatch):
    monkeypatch.setattr(freshness, "_ENTRIES_MAX", 6)
    monkeypatch.setattr(freshness, "_TENANTS_MAX", 2)
    arms = Arms()
    followed = Freshness(clock, arms.heads)
    before = seen("slow")
    followed.note(0, [entry(1, tenant="a"), entry(2, tenant="b"), entry(3, tenant="c"), entry(4, tenant="a")])
    followed.note(0, [entry(5, tenant="a")])
    arms.at = {"quick": Head(9, 9), "slow": Head(9, 9)}
    followed.look()
    assert gained("slow", before)[0] == 3
    arms.at = {"quick": Head(), "slow": Head()}
    followed.note(0, [entry(10, tenant="c")])
    followed.reset(0)
    arms.at = {"quick": Head(19, 9), "slow": Head(19, 9)}
    followed.look()
    assert gained("slow", before)[0] == 3
    followed.note(0, [entry(20 + n, tenant="d") for n in range(4)])
    arms.at = {"quick": Head(29, 9), "slow": Head(29, 9)}
    followed.look()
    assert gained("slow", before)[0] == 6, "places are free again"


def test_a_clock_behind_the_brokers_shows_no_negative_age(clock):
    before = seen("record")
    freshness.observe("record", [NOW + 5_000, NOW - 250], NOW)
    assert gained("record", before) == (2, 0.25)


def test_many_at_once_are_seen_like_each_of_them():
    ages = [0, 10, 24, 25, 26, 999, 1_000, 1_001, 60_000, 3_600_000, 9_999_999]
    freshness.observe("many", [NOW - age for age in ages], NOW)
    for age in ages:
        metrics.freshness.labels("each").observe(age / 1000)
    for bound in (*map(str, metrics.freshness._upper_bounds[:-1]), "+Inf"):
        many, each = (value("jetmem_freshness_seconds_bucket", arm=arm, le=bound) for arm in ("many", "each"))
        assert many == each, bound
    assert seen("many") == pytest.approx(seen("each"))


def test_lag_is_the_age_of_what_waits(clock):
    health = Health("index", clock)
    health.progressed(0)
    clock.wall += 60_000
    assert health.lag_s() == 0
    health.behind(4)
    assert health.lag_s() == 60, "something came since nothing waited"
    health.reached(clock.wall - 2_000)
    health.progressed(3)
    assert health.lag_s() == 2
    health.progressed(0)
    assert health.lag_s() == 0
    fresh = Health("index", clock)
    fresh.behind(1)
    clock.wall += 3_000
    assert fresh.lag_s() == 3, "since the start, while nothing was applied"
    fresh.reached(NOW - 86_400_000)
    assert fresh.lag_s() > 86_400, "what was left over a day ago is a day old"


def test_sizes_on_disk_by_folder(tmp_path, clock):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a").write_bytes(b"12345")
    (tmp_path / "text" / "7").mkdir(parents=True)
    (tmp_path / "text" / "7" / "b").write_bytes(b"123")
    assert sizes(tmp_path, "index") == {"rows": 5, "text": 3}
    (tmp_path / "format").write_bytes(b"1")
    assert sizes(tmp_path, "index") == {"index": 1, "rows": 5, "text": 3}
    disk = StageDisk("index", tmp_path, clock)
    disk.observe()
    assert value("jetmem_store_bytes", stage="index", store="text") == 3
    assert 0 < value("jetmem_disk_free_bytes", stage="index") <= value("jetmem_disk_bytes", stage="index")
    (tmp_path / "text" / "7" / "b").write_bytes(b"")
    disk.observe()
    assert value("jetmem_store_bytes", stage="index", store="text") == 3, "not looked at again so soon"
    clock.now += 60
    disk.observe()
    assert value("jetmem_store_bytes", stage="index", store="text") == 0
    shutil.rmtree(tmp_path)
    clock.now += 60
    disk.observe()


def test_a_store_tells_of_its_writes_and_rows_until_it_is_closed(tmp_path):
    store = Rocks(tmp_path / "summarize" / "rows", ["log"], format_version=1)
    batch = store.batch()
    for number in range(100):
        batch.put("log", bytes([number]), b"x")
    store.write(batch, sync=False)
    scraping.observe()
    assert value("jetmem_store_rows", store="summarize", family="log") == 100
    assert metrics.REGISTRY.get_sample_value("jetmem_rocksdb_write_stopped", {"store": "summarize"}) == 0
    store.close()
    store.observe()
