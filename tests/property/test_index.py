"""index against a model, as a state machine.

Events, versions of nodes, forgets, vectors in any order, crashes, purges, other logs, retentions as time goes by.
"""

import copy
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from harness.index_stage import Stage, blank, ended, event, forgot, node
from jetmem.adapters.tantivy_text import analyze
from jetmem.domain import keys
from jetmem.index.rows import FAMILIES, nodes_of, piece_key, prefix, text_hash
from jetmem.runtime.models import QUIET_S
from jetmem.runtime.stored_vectors import EMPTY_MARK
from jetmem.testing.store import FakeStore
from jetmem_schemas.internal import Entry, Filters, Forgotten, Vector, VectorsReady
from jetmem_schemas.subjects import owner, partition_of
from jetmem_schemas.tenants import Retention

#: A commit costs some syncs, which a disk takes 70 ms for.
MEMORY = Path("/dev/shm")
#: Shares acme's partition.
NEIGHBOUR = next(name for n in range(1000) if partition_of(name := f"t{n}") == partition_of("acme"))
TENANTS = ("acme", NEIGHBOUR, "zoo")
PARTS = sorted({partition_of(t) for t in TENANTS})
VOCABULARY = ("apple", "river", "engine", "violin")
AUTHORS = ("", "Ann", "Ben Ford")
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NODES = ("toc:day:2026-01-15", "toc:segment:2026-01-15:s1", "toc:segment:2026-01-15:s2")

tenants = st.sampled_from(TENANTS)
sessions = st.sampled_from(("s1", "s2"))
authors = st.sampled_from(AUTHORS)
texts = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=12).map(" ".join)


class IndexMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="jetmem-index-", dir=MEMORY if MEMORY.is_dir() else None))
        self.stage = Stage(FakeStore(FAMILIES), self.folder)
        self.log: dict[int, list[Entry]] = {part: [] for part in PARTS}  # as persist holds it now
        self.said: dict[int, list[Entry]] = {part: [] for part in PARTS}  # as it was announced
        self.at: dict[int, int] = dict.fromkeys(PARTS, 0)
        self.copies: list[FakeStore] = []
        self.words = 0
        self.model = "fake"
        self.retentions: dict[str, Retention] = {}

    def teardown(self):
        self.settle()
        self.stage.close()
        shutil.rmtree(self.folder)

    # what persist records

    @rule(
        tenant=tenants,
        session=st.sampled_from(("s1", "s2")),
        author=st.sampled_from(AUTHORS),
        said=st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=4),
    )
    def say(self, tenant, session, author, said):
        part = partition_of(tenant)
        for text, own in said:
            self.words += 1
            text = f"{text} q{self.words}q" if own else text
            self.record(part, event(len(self.log[part]) + 1, text, tenant=tenant, session=session, author=author))

    @rule(tenant=tenants)
    def say_nothing(self, tenant):
        part = partition_of(tenant)
        self.record(part, event(len(self.log[part]) + 1, "  ", tenant=tenant))

    @rule(
        tenant=tenants, id_=st.sampled_from(NODES), text=texts, own=st.booleans(), is_open=st.booleans(),
        made_of=st.integers(0, 30), pinned=st.sampled_from((False, False, False, True)),
    )  # fmt: skip
    def tell(self, tenant, id_, text, own, is_open, made_of, pinned):
        """A node, or its next version."""
        part = partition_of(tenant)
        self.words += own
        text = f"{text} q{self.words}q" if own else text
        rseq = len(self.log[part]) + 1
        sources = [(max(1, rseq - made_of), max(1, rseq - made_of))] if made_of else []
        self.record(part, node(rseq, id_, text, tenant=tenant, open=is_open, sources=sources, pinned=pinned))

    @precondition(lambda self: any(e.kind == "derived" for part in PARTS for e in self.log[part]))
    @rule(data=st.data(), embedded=st.booleans(), is_open=st.booleans())
    def tell_again(self, data, embedded, is_open):
        """A next version that says the same; what it says may have its vectors."""
        tenant = data.draw(st.sampled_from([t for t in TENANTS if self.told(t)]))
        last = data.draw(st.sampled_from(self.told(tenant)))
        part = partition_of(tenant)
        if embedded:
            self.settle()
            self.stage.embed(nodes_of(tenant), self.model)
        told = msgspec.json.decode(last.body)
        same = {"sources": told.get("sources", []), "pinned": told.get("pinned", False)}
        text = told.get("summary", "apple")
        self.record(part, node(len(self.log[part]) + 1, last.id, text, tenant=tenant, open=is_open, **same))

    @rule(tenant=tenants, id_=st.sampled_from(NODES))
    def end_node(self, tenant, id_):
        part = partition_of(tenant)
        self.record(part, ended(len(self.log[part]) + 1, id_, tenant=tenant))

    @rule(tenant=tenants, data=st.data())
    def forget(self, tenant, data):
        """Versions of nodes may be met or not; persist takes care that those made of what is erased are."""
        part = partition_of(tenant)
        held = self.live(tenant) + [e for e in self.told(tenant) if not msgspec.json.decode(e.body).get("gone")]
        gone = data.draw(st.lists(st.sampled_from(held), unique_by=lambda e: e.rseq, max_size=6)) if held else []
        self.record(part, forgot(len(self.log[part]) + 1, gone, tenant=tenant))
        for entry in gone:
            self.log[part][entry.rseq - 1] = blank(entry)

    def record(self, part, entry):
        entry = msgspec.structs.replace(entry, at=self.stage.clock.ms)
        self.log[part].append(entry)
        self.said[part].append(entry)

    # what reaches index

    @rule(part=st.sampled_from(PARTS), count=st.integers(1, 20), live=st.booleans())
    def hear(self, part, count, live):
        source = self.said if live else self.log
        entries = source[part][self.at[part] : self.at[part] + count]
        self.stage.indexer.apply(part, entries)
        self.at[part] += len(entries)

    @rule(part=st.sampled_from(PARTS), back=st.integers(1, 10))
    def hear_again(self, part, back):
        start = max(0, self.at[part] - back)
        self.stage.indexer.apply(part, self.log[part][start : self.at[part]])

    @rule()
    def commit(self):
        self.stage.indexer.commit()

    @rule(tenant=tenants, data=st.data(), kind=st.sampled_from(("good", "good", "empty", "short", "nan")))
    def vectors(self, tenant, data, kind):
        tenant = data.draw(st.sampled_from((tenant, nodes_of(tenant))))
        waiting = sorted({digest for _, _, digest in self.stage.rows.pending(tenant, b"")})
        known = waiting + [text_hash("never said")] + [text_hash(w) for w in VOCABULARY]
        chosen = data.draw(st.lists(st.sampled_from(known), max_size=4))
        raw = {"good": None, "empty": b"", "short": b"abcde", "nan": b"\x00\x00\xc0\x7f" * 16}[kind]
        self.stage.store_vectors(tenant, chosen, self.model, raw)
        left = {digest for _, _, digest in self.stage.rows.pending(tenant, b"")}
        assert not left & set(chosen), "equal texts have their vector at once"

    @rule(tenant=tenants)
    def load_vectors(self, tenant):
        for space in (tenant, nodes_of(tenant)):
            self.stage.tenants.shelf(self.stage.tenants.get(space))

    @rule(quiet=st.booleans())
    def other_model(self, quiet):
        used = self.stage.rows.model()
        self.stage.clock.now += QUIET_S + 1 if quiet else 0
        other = "other" if used == "fake" else "fake"
        result = self.stage.indexer.store_vectors(VectorsReady("acme", other, [Vector(b"x" * 16, b"")]))
        assert (result is None) == (bool(used) and not quiet)
        self.model = self.stage.rows.model()

    @rule(steps=st.integers(1, 4))
    def purge(self, steps):
        indexer = self.stage.indexer
        for _ in range(steps):
            if indexer.purge_step():
                indexer.purged()
                break

    @rule(tenant=tenants, data=st.data())
    def forget_and_purge(self, tenant, data):
        """All the way, which steps drawn one by one hardly ever go."""
        self.settle()
        self.forget(tenant, data)
        self.settle()
        while not self.stage.indexer.purge_step():
            pass
        self.stage.indexer.purged()
        self.settle()

    @rule()
    def begin_commit(self):
        """Its end is seen by a later one, or never."""
        self.stage.indexer.begin_commit()

    # what leaves by its tenant's retention

    @rule(hours=st.integers(1, 50))
    def wait(self, hours):
        self.stage.clock.ms += hours * HOUR_MS

    @rule(tenant=tenants, segment=st.sampled_from((0, 1, 3)), day=st.sampled_from((0, 2)))
    def retain(self, tenant, segment, day):
        self.retentions[tenant] = Retention(segment=segment, day=day)
        self.stage.indexer.limits.put(self.retentions)

    @rule(data=st.data())
    def sweep(self, data):
        """The words of what turned are not in a copy of the rows."""
        sweep = self.stage.indexer.sweep
        sweep.begin(sweep.due(PARTS))
        for _ in range(data.draw(st.integers(1, 3))):
            if sweep.step():
                self.copies = []

    @rule(tenant=tenants, id_=st.sampled_from(NODES), text=texts, embedded=st.booleans())
    def outlive(self, tenant, id_, text, embedded):
        """All the way out; what comes then happens to a node that is."""
        self.tell(tenant, id_, text, own=True, is_open=False, made_of=0, pinned=False)
        self.settle()
        if embedded:
            self.stage.embed(nodes_of(tenant), self.model)
        self.retain(tenant, segment=1, day=2)
        self.wait(50)
        self.settle()

    # what befalls it

    @rule(how=st.sampled_from(("stopped", "killed", "power")))
    def die(self, how):
        """Rows keep all writes, or only the synced ones; words keep what was committed."""
        if how == "stopped":
            self.stage.indexer.commit()
        store = self.stage.store.after_power_failure() if how == "power" else self.stage.store
        self.reopen(store)

    @rule()
    def copy_rows(self):
        self.copies = [*self.copies[-2:], copy.deepcopy(self.stage.store)]

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def put_older_rows_back(self, data):
        """Words are ahead of rows then."""
        self.stage.indexer.commit()
        self.reopen(copy.deepcopy(data.draw(st.sampled_from(self.copies))))
        self.copies = []

    @rule(part=st.sampled_from(PARTS))
    def lose_words(self, part):
        """The process died while it put a partition's rewritten index in place."""
        self.stage.close()
        shutil.rmtree(self.folder / "text" / f"{part:02}", ignore_errors=True)
        self.reopen(self.stage.store, closed=True)

    def reopen(self, store, *, closed=False):
        if not closed:
            self.stage.close()
        self.stage = Stage(store, self.folder, clock=self.stage.clock)
        self.at = {part: self.stage.indexer.position(part).rseq for part in PARTS}
        self.model = self.stage.rows.model() or "fake"
        self.stage.indexer.limits.put(self.retentions)

    @rule(part=st.sampled_from(PARTS), keep=st.integers(0, 5))
    def other_log(self, part, keep):
        """persist was restored: what it says from here on is something else, and was said from nothing on."""
        self.log[part] = self.log[part][:keep]
        for forgotten in [e for e in self.said[part][keep:] if e.kind == "forgot"]:
            body = msgspec.msgpack.decode(forgotten.body, type=Forgotten)
            for rseq in body.rseqs:
                if rseq <= keep:
                    self.log[part][rseq - 1] = self.said[part][rseq - 1]
        self.said[part] = list(self.log[part])
        self.stage.indexer.reset(part)
        self.at[part] = 0
        self.copies = []

    # what must hold

    def live(self, tenant):
        return [e for e in self.log[partition_of(tenant)] if e.kind == "event" and e.tenant == tenant]

    @rule()
    def settle(self):
        for part in PARTS:
            self.stage.indexer.apply(part, self.log[part][self.at[part] :])
            self.at[part] = len(self.log[part])
        if self.stage.sweep():
            self.copies = []
        self.stage.indexer.commit()
        self.stage.indexer.commit()
        for tenant in TENANTS:
            self.check_words(tenant)
            self.check_nodes(tenant)
            for space in (tenant, nodes_of(tenant)):
                self.check_vectors(space)
        self.check_erased()

    def told(self, tenant):
        """Every version of a node that persist holds."""
        return [e for e in self.log[partition_of(tenant)] if e.kind == "derived" and e.tenant == tenant]

    def check_nodes(self, tenant):
        """The newest version of each, unless it is gone; one of which a newer version was erased may be missing."""
        space = nodes_of(tenant)
        newest = {e.id: e for e in self.told(tenant)}
        said = {id_: msgspec.json.decode(e.body) for id_, e in newest.items()}
        expected = {e.rseq: said[id_]["summary"] for id_, e in newest.items() if not said[id_].get("gone")}
        docs = self.docs(space)
        assert {rseq: doc.text for rseq, doc in docs.items()}.items() <= expected.items()
        every = [e for e in self.said[partition_of(tenant)] if e.kind == "derived" and e.tenant == tenant]
        erased = {e.id for e in every if e.id in newest and e.rseq > newest[e.id].rseq}
        assert {newest[doc.id].rseq for doc in docs.values()} == set(docs)
        assert {id_ for id_, e in newest.items() if e.rseq in expected.keys() - docs.keys()} <= erased
        for doc in docs.values():
            assert doc.out == self.is_over(tenant, newest[doc.id], said[doc.id])
        inside = {rseq: doc for rseq, doc in docs.items() if not doc.out}
        row = self.stage.tenants.get(space).row
        assert (row.docs, row.out) == (len(inside), len(docs) - len(inside))
        index = {k.removeprefix(prefix(space)).decode(): v for k, v in self.stage.store.scan("nodes", prefix(space))}
        assert index == {doc.id: keys.u64(rseq) for rseq, doc in docs.items()}
        ids = {e.rseq: e.id for e in self.told(tenant)}
        live = set(ids)
        for word in VOCABULARY:
            found = set(self.found(space, "w1", *analyze(word), nodes=True))
            assert found <= live, "what was erased is found by no word"
            # below an erased version a copy of the rows, put back, and the words may differ by an older one
            sure = {rseq for rseq, doc in inside.items() if word in doc.text.split() and doc.id not in erased}
            assert {rseq for rseq in found if ids[rseq] not in erased} == sure

    def is_over(self, tenant, entry, said):
        """By the arrival of the last entry that the node was made of."""
        last = max((last for _, last in said.get("sources", [])), default=entry.rseq)
        hour = self.log[partition_of(tenant)][last - 1].at // HOUR_MS
        days = self.retentions.get(tenant, Retention()).days(said.get("level", "segment"))
        return bool(days) and not said.get("pinned") and (hour + 1) * HOUR_MS + days * DAY_MS <= self.stage.clock.ms

    def docs(self, tenant):
        held = {}
        for key, _ in self.stage.store.scan("docs", prefix(tenant)):
            doc = self.stage.rows.doc(tenant, keys.from_u64(key[-8:]))
            held[doc.rseq] = doc
        return held

    def check_words(self, tenant):
        docs = self.docs(tenant)
        said = {e.rseq: msgspec.json.decode(e.body) for e in self.live(tenant)}
        said = {rseq: body for rseq, body in said.items() if body["text"].strip()}
        assert {rseq: doc.text for rseq, doc in docs.items()} == {r: body["text"] for r, body in said.items()}
        held = self.stage.tenants.get(tenant)
        assert held.row.docs == len(docs)
        assert {row.sid: row.docs for row in held.sessions.values()} == Counter(d.sid for d in docs.values())
        assert {a: row.docs for a, row in held.authors.items()} == Counter(d.author for d in docs.values())
        for session in {doc.sid for doc in docs.values()}:
            assert held.newest[session] == max(d.position for d in docs.values() if d.sid == session)
        tokens = {rseq: set(analyze(doc.text)) for rseq, doc in docs.items()}
        vocabulary = set(analyze(" ".join(VOCABULARY))) | {t for own in tokens.values() for t in own}
        for word in sorted(vocabulary):
            assert self.found(tenant, "w1", word) == [r for r in docs if word in tokens[r]]
            for field, reach in (("w3", 2), ("w5", 4)):
                expected = [r for r in docs if any(word in tokens[b] for b in self.behind(docs, r, reach))]
                assert self.found(tenant, field, word) == expected, (field, word)

    def behind(self, docs, rseq, reach):
        own = docs[rseq]
        return [r for r, d in docs.items() if d.sid == own.sid and own.position - reach <= d.position <= own.position]

    def found(self, tenant, field, word, *, nodes=False):
        part = partition_of(owner(tenant))
        hits = self.stage.text.search(part, tenant, [word], field, 1000, tenant_docs=10, filters=Filters(), nodes=nodes)
        return sorted(hit.key for hit in hits)

    def check_vectors(self, tenant):
        docs, store, start = self.docs(tenant), self.stage.store, prefix(tenant)
        wanted = {}
        for doc in docs.values():
            for number, text in enumerate(self.stage.indexer.pieces.texts(doc)):
                wanted[piece_key(doc.rseq, number)] = text_hash(text)
        vectors = {k.removeprefix(start): v for k, v in store.scan("vectors", start)}
        pending = {place: digest for place, _, digest in self.stage.rows.pending(tenant, b"")}
        assert {k.removeprefix(start): v for k, v in store.scan("pieces", start)} == wanted
        assert pending == {place: digest for place, digest in wanted.items() if digest not in vectors}
        assert self.stage.indexer.pieces.pending.get(tenant, 0) == len(pending)
        first = self.stage.indexer.pieces.first_pending(tenant)
        assert (first.rseq if first else None) == min((keys.from_u64(p[:8]) for p in pending), default=None)
        assert vectors.keys() <= set(wanted.values())
        refs = {k.removeprefix(start): v for k, v in store.scan("refs", start)}
        assert refs.keys() == {digest + place for place, digest in wanted.items()}
        placed = {k.removeprefix(start): self.row(k, tenant) for k, _ in store.scan("rows", start)}
        good = {p: d for p, d in wanted.items() if d in vectors and not vectors[d].startswith(EMPTY_MARK)}
        assert sorted(placed) == sorted(refs[d + p] for p, d in good.items())
        self.check_shelf(tenant, docs, placed, vectors)

    def row(self, key, tenant):
        return next(row for number, row in self.stage.rows.rows(tenant) if keys.u64(number) == key[-8:])

    def check_shelf(self, tenant, docs, placed, vectors):
        shelf = self.stage.tenants.shelf(self.stage.tenants.get(tenant))
        assert [keys.u64(n) for n in shelf.live_numbers()] == sorted(placed)
        for at in range(shelf.count):
            number = int(shelf.columns["number"][at])
            if not shelf.alive[at]:
                assert not shelf.vectors[at].any()
                continue
            row = placed[keys.u64(number)]
            assert shelf.vectors[at].tobytes() == vectors[row.hash][1:]
            doc = docs[row.rseq]
            assert (row.sid, row.position, row.who, row.ts) == (doc.sid, doc.position, doc.who, doc.ts)

    def check_erased(self):
        """No row holds a word that only erased events had."""
        held = {w for part in PARTS for e in self.log[part] if e.kind in ("event", "derived") for w in e.body.split()}
        gone = {f"q{n}q".encode() for n in range(1, self.words + 1)}
        gone -= {g for g in gone if any(g in w for w in held)}
        for family in FAMILIES:
            for _, value in self.stage.store.scan(family, b""):
                assert not [g for g in gone if g in value]


def test_what_comes_back_while_its_leaving_is_committed_is_found():
    machine = IndexMachine()
    try:
        machine.outlive(embedded=False, id_="toc:day:2026-01-15", tenant="zoo", text="apple")
        machine.die(how="power")
        machine.retain(tenant="zoo", segment=0, day=0)
        machine.begin_commit()
        machine.settle()
    finally:
        machine.teardown()


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(
    max_examples=300,
    stateful_step_count=25,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
