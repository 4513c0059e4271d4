import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetmem_schemas import subjects
from jetmem_schemas.errors import SchemaError

ILLEGAL = ["", "a.b", "a b", "ä", "a\n", "a" * 65, "*", ">", "a/b", "a\x00"]
tokens = st.text("ABCXYZabcxyz019_-", min_size=1, max_size=64).filter(lambda t: t != "_")


@given(tokens, st.sampled_from(subjects.KINDS), tokens, tokens)
def test_a_published_subject_is_found_again_in_the_stored_one(tenant, kind, agent, session):
    published = subjects.memory(tenant, kind, agent, session)
    stored = f"memp.{subjects.partition_of(tenant)}." + published.removeprefix("mem.")
    assert subjects.parse_memory(stored) == subjects.Address(tenant, kind, agent, session)
    assert subjects.published(stored) == published
    assert subjects.tenant_of(stored) == tenant
    assert 0 <= subjects.partition_of(tenant) < subjects.PARTITIONS


@pytest.mark.parametrize("text", ["a", "A-b_9", "_", "__", "a" * 64])
def test_tokens(text):
    assert subjects.is_token(text)


@pytest.mark.parametrize("text", ILLEGAL)
def test_no_tokens(text):
    assert not subjects.is_token(text)
    for place in range(3):
        parts = ["acme", "alice", "s1"]
        parts[place] = text
        with pytest.raises(SchemaError) as refused:
            subjects.memory(parts[0], "event", parts[1], parts[2])
        assert refused.value.code == "bad_subject"
        assert refused.value.field == ("tenant", "agent", "session")[place]


@pytest.mark.parametrize(
    "stored",
    [
        "mem.acme.event.alice",
        "mem.acme.event.alice.s1.more",
        "mem.acme.event.alice.s1",
        "memp.3.acme.event.alice",
        "memp.3.acme.event.alice.s1.more",
        "memp.3.acme.gossip.alice.s1",
        "memp.3._.event.alice.s1",
        "memp.3.acme.event._.s1",
        "memp.3.acme.event.alice._",
        "memp.3.ac me.event.alice.s1",
        "memp.3.acme.event.älice.s1",
        "memp.3.acme.event.alice." + "s" * 65,
        "memp.3.acme.event.alice.s1\n",
        "",
        "memp",
    ],
)
def test_a_wrong_subject_is_refused(stored):
    with pytest.raises(SchemaError) as refused:
        subjects.parse_memory(stored)
    assert refused.value.code == "bad_subject"
    assert subjects.is_token(subjects.tenant_of(stored))


def test_none_stands_for_agent_and_session_of_a_forget_only():
    assert subjects.parse_memory("memp.3.acme.forget._._").agent == "_"


@pytest.mark.parametrize(
    ("stored", "tenant"),
    [("mem.acme.event.x", "acme"), ("memp.3.acme.event", "acme"), ("mem.ä.event.x", "_"), ("mem", "_")],
)
def test_the_tenant_of_a_wrong_subject(stored, tenant):
    assert subjects.tenant_of(stored) == tenant


def test_partitions_are_spread():
    seen = {subjects.partition_of(f"tenant{n}") for n in range(2000)}
    assert len(seen) == subjects.PARTITIONS


def test_subjects_are_built_in_one_place_only():
    root = Path(__file__).resolve().parents[2] / "services" / "jetmem" / "persist"
    for file in sorted(root.glob("*.py")):
        assert not re.search(r'f?"(mem|memp|memrec|memdead|memsvc)\.', file.read_text(encoding="utf-8")), file


def test_a_space_is_no_tenant_and_has_an_owner():
    space = subjects.space("acme", "toc")
    assert (subjects.owner(space), subjects.owner("acme")) == ("acme", "acme")
    with pytest.raises(SchemaError):
        subjects.query(space, "search")
