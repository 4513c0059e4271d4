"""What persist keeps of the table of contents: versions, what they were made from, and their end."""

import msgspec
import pytest

from harness.messages import AT, said
from harness.stores import Counting
from jetmem.persist import answers, nodes
from jetmem.persist.handler import Recorder
from jetmem.persist.record import FAMILIES, OutboxRow, Record, copy_key
from jetmem.runtime import limits
from jetmem.testing.store import FakeStore
from jetmem_schemas import toc
from jetmem_schemas.internal import FetchRequest, Forgotten, NodesRequest, TimelineRequest, decode_entry
from jetmem_schemas.subjects import partition_of

PART = partition_of("acme")
DAY = "toc:day:2026-01-15"


def recorder_on(store):
    made = Recorder(Record(store), "all")
    if not made.synced.created:
        made.adopt("made")
    return made


@pytest.fixture
def recorder():
    return recorder_on(FakeStore(FAMILIES))


def events(first, last):
    return [said(n, {"id": f"e{n}", "text": f"w{n}"}) for n in range(first, last + 1)]


def node(seq, version, *sources, id_=DAY, at=AT, **fields):
    body = {"id": id_, "version": version, "level": id_.split(":")[1], "sources": sources, "start": AT + 5} | fields
    return said(seq, body, kind="derived", agent="_", session="node", at=at)


def forget(seq, at=AT, **selector):
    return said(seq, {"id": f"f{seq}", **selector}, kind="forget", agent="_", session="_", at=at)


def listed(recorder, *ids, version=0):
    found = answers.toc_nodes(recorder.record, NodesRequest("acme", list(ids), version), 0).nodes
    return [(n.id, n.version) for n in map(toc.decode_node, found)]


def keys_of(recorder, family):
    return [key for key, _ in recorder.record.store.scan(family, b"")]


def entry(recorder, rseq):
    return recorder.record.entry(PART, rseq)


def test_a_node_is_an_entry_of_the_log_and_no_event(recorder):
    applied = recorder.apply([*events(1, 3), node(4, 3, (1, 3))])
    assert [len(facts.entries) for facts in applied.facts] == [4]
    made = entry(recorder, 4)
    assert (made.kind, made.id, made.agent, made.session, made.ts) == ("derived", DAY, "_", "node", AT + 5)
    assert made.body == node(4, 3, (1, 3)).data
    page = answers.timeline(recorder.record, TimelineRequest("acme", 9, False), 0)
    assert [decode_entry(e).id for e in page.entries] == ["e1", "e2", "e3"]
    assert answers.fetch(recorder.record, FetchRequest("acme", [DAY]), 0).items == []


def test_the_newest_version_is_the_node_and_older_ones_stay_readable(recorder):
    recorder.apply([*events(1, 6), node(7, 2), node(8, 5), node(9, 3), node(10, 5), node(11, 6, title="x")])
    assert [e.kind for e in map(decode_entry, map(recorder.record.store.get, ["log"] * 9, keys_of(recorder, "log")))][
        6:
    ] == ["derived"] * 3
    assert listed(recorder, DAY) == [(DAY, 6)]
    assert [listed(recorder, DAY, version=v) for v in (2, 3, 5, 6)] == [[(DAY, 2)], [], [(DAY, 5)], [(DAY, 6)]]


def test_nodes_come_in_the_order_asked_and_without_ids_all_years_by_time(recorder):
    years = [node(4 + n, 3, id_=f"toc:year:{2020 + n}", start=AT - n) for n in range(3)]
    recorder.apply([*events(1, 3), *years, node(7, 3), node(8, 6, id_="toc:year:2021", gone=True)])
    assert listed(recorder, DAY, "toc:year:1999", "toc:year:2022") == [(DAY, 3), ("toc:year:2022", 3)]
    assert listed(recorder) == [("toc:year:2022", 3), ("toc:year:2020", 3)]
    assert answers.toc_nodes(recorder.record, NodesRequest("acme2"), 7).nodes == []


def test_a_node_that_is_gone_is_not_returned_and_may_come_again(recorder):
    recorder.apply([*events(1, 5), node(6, 2), node(7, 3, gone=True)])
    assert listed(recorder, DAY) == listed(recorder, DAY, version=3) == []
    assert listed(recorder, DAY, version=2) == [(DAY, 2)]
    recorder.apply([node(8, 2), node(9, 4)])
    assert listed(recorder, DAY) == [(DAY, 4)]


def test_an_end_stays_though_what_was_before_it_is_forgotten(recorder):
    recorder.apply([*events(1, 5), node(6, 2, (1, 1)), node(7, 3, (1, 5), gone=True)])
    recorder.apply([forget(8, ids=["e1"])])
    assert listed(recorder, DAY) == listed(recorder, DAY, version=2) == []
    assert len(keys_of(recorder, "versions")) == 1


def test_a_reply_that_is_full_says_so(recorder, monkeypatch):
    monkeypatch.setattr(limits, "REPLY_BYTES_MAX", 1000)
    ids = [f"toc:segment:2026-01-15:{n}" for n in range(5)]
    recorder.apply([*events(1, 3), *(node(4 + n, 3, id_=id_, title="x" * 200) for n, id_ in enumerate(ids))])
    reply = answers.toc_nodes(recorder.record, NodesRequest("acme", ids), 0)
    assert reply.cut and len(reply.nodes) == 3 and sum(map(len, reply.nodes)) < 1000
    monkeypatch.setattr(limits, "REPLY_BYTES_MAX", 10)
    assert len(answers.toc_nodes(recorder.record, NodesRequest("acme", ids), 0).nodes) == 1


def test_a_brief_node_is_whole_but_for_what_walks_read(recorder):
    full = {"title": 'a "quoted" title', "terms": {"crane": 3}, "children": ["toc:segment:2026-01-15:a"]}
    recorder.apply([*events(1, 3), node(4, 3, (1, 3), **full)])
    (brief,) = answers.toc_nodes(recorder.record, NodesRequest("acme", [DAY], brief=True), 0).nodes
    (whole,) = answers.toc_nodes(recorder.record, NodesRequest("acme", [DAY]), 0).nodes
    assert toc.decode_node(brief) == msgspec.structs.replace(toc.decode_node(whole), terms={}, sources=[])
    assert b"crane" not in brief


def test_an_event_may_have_the_id_of_a_node(recorder):
    event = said(1, {"id": DAY, "text": "w"})
    recorder.apply([event, node(2, 1, (5, 6)), event._replace(seq=3), node(4, 1, (5, 6))])
    assert listed(recorder, DAY) == [(DAY, 1)]
    recorder.apply([forget(5, ids=[DAY])])
    assert listed(recorder, DAY) == [(DAY, 1)]
    assert keys_of(recorder, "purge") == [copy_key(1, AT), copy_key(3, AT)]
    assert len(keys_of(recorder, "repeats")) == 1


# forgotten with what they were made from


def test_a_forget_takes_every_version_that_it_meets_and_tells_projections(recorder):
    recorder.apply([*events(1, 9), node(10, 3, (1, 3)), node(11, 6, (1, 3), (5, 6)), node(12, 9, (1, 9))])
    recorder.apply([node(13, 9, (7, 9), id_="toc:day:2026-01-16")])
    recorder.apply([forget(14, ids=["e5"])])
    told = msgspec.msgpack.decode(entry(recorder, 14).body, type=Forgotten)
    assert (told.ids, told.rseqs, told.last) == (["e5"], [11, 12, 5], True)
    assert [entry(recorder, n).kind for n in (10, 11, 12, 13)] == ["derived", "blank", "blank", "derived"]
    assert listed(recorder, DAY, "toc:day:2026-01-16") == [(DAY, 3), ("toc:day:2026-01-16", 9)]
    assert recorder.record.forget("acme", 0, 14).erased == 1


def test_a_version_that_knows_of_the_forget_is_recorded_and_one_that_does_not_is_dropped(recorder):
    recorder.apply([*events(1, 4), node(5, 4, (1, 4)), forget(6, ids=["e2"])])
    recorder.apply([node(7, 5, (1, 5)), node(8, 4, (1, 4)), node(9, 6, (1, 6)), node(10, 5, id_="toc:year:2026")])
    assert listed(recorder, DAY, "toc:year:2026") == [(DAY, 6)]
    assert recorder.heads[PART].rseq == 7
    assert keys_of(recorder, "purge") == [copy_key(n, AT) for n in (2, 5, 7, 8, 10)]
    assert keys_of(recorder, "outbox") == []


def test_all_takes_every_node_and_none_is_remembered(recorder):
    recorder.apply([*events(1, 2), node(3, 1), node(4, 2), node(5, 2, id_="toc:year:2026"), node(6, 3, gone=True)])
    recorder.apply([forget(7, all=True)])
    assert [keys_of(recorder, family) for family in ("nodes", "versions", "sources")] == [[], [], []]
    recorder.apply([node(8, 7, id_="toc:year:2026")])
    assert listed(recorder) == [("toc:year:2026", 7)]


def test_nodes_of_another_tenant_stay(recorder):
    other = node(4, 1, (1, 9))._replace(subject=node(4, 1).subject.replace("acme", "acme2"))
    recorder.apply([*events(1, 2), node(3, 2, (1, 2)), said(4, {"text": "w"}, tenant="acme2"), other._replace(seq=5)])
    recorder.apply([forget(6, all=True)])
    assert len(answers.toc_nodes(recorder.record, NodesRequest("acme2", [DAY]), 0).nodes) == 1
    assert listed(recorder, DAY) == []


def test_copies_of_a_node_are_erased_with_it_and_those_that_nobody_needs_at_once(recorder):
    again = [node(n, 3, (1, 3)) for n in (4, 5)]
    recorder.apply([*events(1, 3), *again])
    assert keys_of(recorder, "purge") == [] and len(keys_of(recorder, "repeats")) == 1
    recorder.apply([node(6, 3, (1, 3), title="other words"), node(7, 2, (1, 1))])
    assert keys_of(recorder, "purge") == [copy_key(6, AT), copy_key(7, AT)]
    recorder.apply([forget(8, ids=["e1"])])
    assert keys_of(recorder, "purge") == [copy_key(n, AT) for n in (1, 4, 5, 6, 7)]
    assert keys_of(recorder, "repeats") == []


def test_a_refused_node_goes_with_any_forget(recorder):
    recorder.apply([*events(1, 2), said(3, {"id": DAY}, kind="derived", agent="_", session="node")])
    store = recorder.record.store
    (row,) = [msgspec.msgpack.decode(raw, type=OutboxRow) for _, raw in store.scan("outbox", b"")]
    assert row.headers["Jetmem-Code"] == "missing_field"
    recorder.apply([forget(4, ids=["e1"])])
    assert keys_of(recorder, "outbox") == []
    assert copy_key(3, AT) in keys_of(recorder, "purge")


# replayed, restored, killed


def test_a_node_of_another_log_is_dropped(recorder):
    """One of the two was restored: its numbers mean other events, and a forget would miss what it holds."""

    def of_log(place, seq):
        body = {"id": DAY, "level": "day", "version": 4, "seq": seq, "sources": [(1, 4)]}
        return said(place, body, kind="derived", agent="_", session="node")

    recorder.apply([*events(1, 3), said(7, {"text": "after a gap", "id": "e7"})])
    recorder.apply([of_log(8, 6), node(9, 5, (1, 5)), node(10, 99, (1, 5))])
    assert listed(recorder, DAY) == [] and recorder.heads[PART].rseq == 4
    assert keys_of(recorder, "purge") == [copy_key(n, AT) for n in (8, 9, 10)]
    recorder.apply([of_log(11, 7)])
    assert listed(recorder, DAY) == [(DAY, 4)]


def test_a_stream_read_again_brings_nothing_back(recorder):
    log = [*events(1, 5), node(6, 3, (1, 3)), node(7, 5, (4, 5)), node(8, 5, (1, 2), id_="toc:year:2026")]
    log += [forget(9, ids=["e2"]), node(10, 9, (4, 5), title="x")]
    recorder.apply(log)
    before = listed(recorder, DAY, "toc:year:2026"), recorder.heads[PART].rseq
    assert before == ([(DAY, 9)], 10)
    recorder.adopt("made again")
    recorder.apply(log)
    assert (listed(recorder, DAY, "toc:year:2026"), recorder.heads[PART].rseq) == before
    assert listed(recorder, DAY, version=3) == []


class PowerFails(Exception):
    pass


class Failing(FakeStore):
    """Loses its power before the `left`-th sync from now."""

    left = 1_000_000

    def sync(self):
        self.left -= 1
        if self.left < 0:
            raise PowerFails
        super().sync()


@pytest.mark.parametrize("selector", [{"ids": ["e1", "e5", "e20"]}, {"before": AT + 9}, {"all": True}])
@pytest.mark.parametrize("fails_at", range(14))
def test_no_node_is_left_of_what_is_erased_wherever_a_forget_is_cut(monkeypatch, selector, fails_at):
    monkeypatch.setattr(limits, "FORGET_IDS_MAX", 3)
    store = Failing(FAMILIES)
    recorder = recorder_on(store)
    recorder.apply([said(n, {"id": f"e{n}", "text": "w", "ts": AT + n}) for n in range(1, 21)])
    recorder.apply([node(20 + n, n, (n, n + n % 3), id_=f"toc:segment:2026-01-15:{n % 6}") for n in range(1, 21)])
    told = forget(41, **selector)
    store.left = fails_at
    try:
        recorder.apply([told])
    except PowerFails:
        store = store.after_power_failure()
        nothing_meets_a_blank(store)
        recorder = recorder_on(store)
        recorder.apply([told])
    assert recorder.synced.seq == 41
    nothing_meets_a_blank(store)
    whole = recorder_on(FakeStore(FAMILIES))
    whole.apply([said(n, {"id": f"e{n}", "text": "w", "ts": AT + n}) for n in range(1, 21)])
    whole.apply([node(20 + n, n, (n, n + n % 3), id_=f"toc:segment:2026-01-15:{n % 6}") for n in range(1, 21)])
    whole.apply([told])
    for family in ("nodes", "versions", "sources", "ids", "time", "purge"):
        assert list(store.scan(family, b""))[:-1] == list(whole.record.store.scan(family, b""))[:-1], family


def nothing_meets_a_blank(store):
    log = [decode_entry(raw) for _, raw in store.scan("log", b"")]
    blanks = [e.rseq for e in log if e.kind == "blank" and e.rseq <= 20]
    made = [toc.decode_node(e.body) for e in log if e.kind == "derived"]
    assert not [n for n in made if toc.met(n.sources, blanks)]


# found by what they were made from


@pytest.mark.parametrize("ranges", [[(5, 5)], [(1, 4), (6, 9)], [(9, 3)], [(1, 1000)], [(3, 7), (5, 8), (8, 8)]])
def test_ranges_are_met_as_toc_says(recorder, ranges):
    recorder.apply([*events(1, 3), node(4, 3, *ranges)])
    for rseqs in ([5], [4, 6], [2], [10], [1000], [1001], [3, 4, 5, 6, 7, 8, 9]):
        assert bool(nodes.made_from(recorder.record, "acme", rseqs)) is toc.met(ranges, rseqs), rseqs


def many(count):
    """Segments of five entries, days of a hundred, one year in many versions."""
    made = [node(0, 1, (n * 5, n * 5 + 4), id_=f"toc:segment:2026-01-15:{n:06}") for n in range(count)]
    made += [node(0, 1, (n * 100, n * 100 + 99), id_=f"toc:day:{2000 + n}-01-01") for n in range(count // 20)]
    return [message._replace(seq=number + 2) for number, message in enumerate(made)]


def passed_by(count, **selector):
    store = Counting(FAMILIES)
    recorder = recorder_on(store)
    recorder.apply([said(1, {"id": "e1", "text": "w"}), *many(count)])
    store.passed = 0
    recorder.apply([forget(10_000, **selector)])
    passed = store.passed
    return passed, len(many(count)) - len(keys_of(recorder, "versions"))


def test_forgetting_one_event_reads_what_it_meets_whatever_else_there_is():
    few, many_ = passed_by(40, ids=["e1"]), passed_by(400, ids=["e1"])
    assert few[1] == many_[1] == 2
    assert many_[0] == few[0] < 40


def test_forgetting_all_reads_each_node_a_bounded_number_of_times(monkeypatch):
    monkeypatch.setattr(limits, "FORGET_IDS_MAX", 10)
    (few, gone), (many_, all_gone) = passed_by(40, all=True), passed_by(400, all=True)
    assert (gone, all_gone) == (42, 420)
    assert many_ / all_gone < 1.3 * few / gone


def test_scattered_events_cost_no_more_than_reading_every_range():
    store = Counting(FAMILIES)
    recorder = recorder_on(store)
    recorder.apply([said(1, {"id": "e1", "text": "w"}), *many(400)])
    store.passed = 0
    found = nodes.made_from(recorder.record, "acme", range(0, 2000, 7))
    assert len(found) > 250
    assert store.passed < 2 * 420
