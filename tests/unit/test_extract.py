import re
from datetime import UTC
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetmem.domain import extract, lexical, summaries, walk
from jetmem.domain.extract import Bullet, Candidate, Grip, Said, sentences
from jetmem.domain.summaries import keyphrases, kind_of, roll_up, summarize, told_above

TALK = [
    ("Ann", "Hey Bob! How are you?"),
    ("Bob", "Good. I moved the billing service to Rotterdam on 3 May because the old data centre closes."),
    ("Ann", "Wow, great!"),
    ("Bob", "The billing service now runs on four machines instead of nine."),
    ("Ann", "Did the invoices for Acme go out?"),
    ("Bob", "The invoices for Acme went out with the wrong currency, so I sent corrections by post."),
    ("Ann", "Thanks, cool."),
    ("Bob", "Tomorrow the auditors visit; they want the ledger of last year printed."),
]


def analyze(text):
    return [word for word in re.findall(r"\w\w+", text.casefold()) if word not in lexical.STOP_WORDS]


def events(talk=None):
    talk = TALK if talk is None else talk
    return [Said(f"e{n}", 1_768_500_000_000 + n * 60_000, text, author) for n, (author, text) in enumerate(talk)]


def made(said=None, vectors=None, zone=UTC):
    return summarize(events() if said is None else said, vectors or {}, analyze, zone)


def quoted(summary, said):
    texts = {event.id: event.text for event in said}
    return all(
        grip.excerpt and grip.excerpt in texts[grip.first] and grip.first == grip.last and len(grip.excerpt) <= 200
        for bullet in summary.bullets
        for grip in bullet.grips
    )


def test_sentences_are_literal_pieces():
    assert sentences("Hi. It is 3.5 km!\n\nReally? yes") == ["Hi.", "It is 3.5 km!", "Really?", "yes"]
    assert sentences("") == sentences(" \n ") == []
    assert sentences("早く。行こう。") == ["早く。", "行こう。"]
    long = "word " * 100
    assert all(len(piece) <= 200 and piece in long for piece in sentences(long))
    assert [len(piece) for piece in sentences("x" * 450)] == [200, 200, 50]


@given(st.text(max_size=700))
def test_no_sentence_is_empty_or_invented(text):
    for piece in sentences(text):
        assert piece.strip() and piece in text and len(piece) <= extract.EXCERPT_CHARS_MAX


def test_a_segment_says_what_was_said_and_by_whom():
    summary = made()
    assert quoted(summary, events()) and summary.bullets
    assert all(bullet.text == f"Bob: {bullet.grips[0].excerpt}" for bullet in summary.bullets)
    assert "billing service" in summary.keywords and summary.authors == ["Ann", "Bob"]
    assert summary.title and summary.summary
    assert {"billing", "bob", "january", "2026"} <= set(summary.sketch) and summary.sketch["billing"] == 2
    assert 0 <= summary.salience <= 1


def test_bullets_are_in_order_of_time():
    said = events(TALK * 6)
    times = [bullet.grips[0].ts for bullet in made(said).bullets]
    assert times == sorted(times) and len(times) > 2


def test_the_same_again_is_the_same_and_vectors_may_be_missing():
    said = events(TALK * 3)
    rng = np.random.default_rng(1)
    vectors = {}
    for event in said[::2]:
        vector = rng.normal(size=8).astype(np.float32)
        vectors[event.id] = vector / np.linalg.norm(vector)
    for known in ({}, vectors):
        assert len({msgspec.json.encode(made(said, known)) for _ in range(10)}) == 1
    assert quoted(made(said, vectors), said)


def test_what_was_said_twice_is_told_once():
    twice = "The billing service now runs on four machines instead of nine."
    summary = made(events([("Bob", twice), ("Ann", twice), ("Bob", twice)] * 10))
    assert len(summary.bullets) == 1


def test_vectors_tell_that_other_words_say_the_same():
    words = ["alpha beta gamma", "delta epsilon zeta", "eta theta iota"]
    vectors = [[1, 0], [1, 0], [0.6, 0.8]]
    candidates = [
        Candidate(Bullet(text, [Grip(text, f"e{n}", f"e{n}", n)]), text.split(), 0.0, 1.0, np.float32(vector))
        for n, (text, vector) in enumerate(zip(words, vectors, strict=True))
    ]
    assert extract.choose(candidates, 2, 1) == [0, 2]
    without = [msgspec.structs.replace(c, vector=None) for c in candidates]
    assert extract.choose(without, 2, 1) == [0, 1]
    assert extract.choose([], 3, 3) == []


def test_a_choice_is_spread_over_time():
    candidates = [
        Candidate(Bullet(f"w{n}", [Grip(f"w{n}", f"e{n}", f"e{n}", n)]), [f"w{n}"], n / 8, 1.0, None) for n in range(8)
    ]
    assert extract.choose(candidates, 4, 4) == [0, 2, 4, 6]
    assert extract.choose(candidates, 2, 4) == [0, 2]


def test_events_without_words_make_a_node_without_bullets():
    summary = made([Said("a", 0, kind="session_start"), Said("b", 1, kind="tool_call"), Said("c", 2, kind="tool_call")])
    assert (summary.title, summary.bullets, summary.summary, summary.keywords) == (
        "1 session_start, 2 tool_call",
        [],
        "",
        [],
    )
    assert roll_up([summary], {}, analyze).title == summary.title


def test_words_of_any_script_and_of_any_size_are_summarized():
    for text in ("漢字の文。", "🙂", "x" * 1_000_000, "word " * 100_000, "\x00", "<b>&amp;</b>"):
        said = [Said("a", 0, text, "Ann"), Said("b", 1, text, kind="tool_result")]
        assert quoted(made(said), said)


def test_a_tool_result_is_read_to_its_first_1000_characters():
    said = [Said("a", 0, "first words here. " * 60 + "the secret tail.", kind="tool_result")]
    assert "tail" not in made(said).sketch and "first" in made(said).sketch


def test_the_zone_decides_the_date_words():
    said = [Said("a", 1_768_519_800_000, "late at night")]  # 2026-01-15T23:30Z
    assert "15" in made(said).sketch
    assert "16" in made(said, zone=ZoneInfo("Europe/Amsterdam")).sketch


def test_a_sketch_has_a_bound():
    said = [Said(f"e{n}", n, " ".join(f"word{n}x{m}" for m in range(50))) for n in range(20)]
    assert len(made(said).sketch) == walk.SEGMENT_WORDS_MAX


def test_a_roll_up_is_made_of_its_childrens_bullets():
    days = [made(events(TALK[:4])), made(events(TALK[4:])), made(events(TALK))]
    year = roll_up(days, {}, analyze)
    known = [bullet for day in days for bullet in day.bullets]
    assert year.bullets and all(bullet in known for bullet in year.bullets)
    assert set(year.sketch) == {word for day in days for word in day.sketch}
    assert year.sketch["billing"] == 2 and year.salience == max(day.salience for day in days)
    assert year.authors == ["Ann", "Bob"]


def told(*keywords):
    return msgspec.structs.replace(made(), title=keywords[0], keywords=list(keywords))


def test_a_title_above_names_what_its_children_are_about():
    assert told_above([told("b", "a"), told("c")], analyze) == [], "one letter is no word here"
    children = [told("billing service", "invoices"), told("ledger", "billing service"), told("garden", "tall tulips")]
    phrases = told_above(children, analyze)
    assert phrases[:3] == ["billing service", "ledger", "garden"], "what two are about, then of those not named yet"
    assert set(phrases) == {"billing service", "ledger", "garden", "tall tulips", "invoices"}
    assert roll_up(children, {}, analyze).title == "Billing service, ledger, garden"
    assert told_above([told("new invoices"), told("invoices")], analyze) == ["new invoices"], "no word twice"


def test_an_only_child_lends_its_title():
    child = told("tall tulips", "a", "garden")
    day = roll_up([child], {}, analyze)
    assert (day.title, day.keywords) == (child.title, child.keywords)
    assert roll_up([day], {}, analyze).title == child.title


def test_thousands_of_children_are_told_of_at_once():
    child = made()
    many = [msgspec.structs.replace(child, keywords=[f"word{n} thing{n}", f"word{n + 1}"]) for n in range(3_000)]
    assert len(told_above(many, analyze)) == summaries.KEYWORDS_MAX


def test_when_something_was_said_is_no_title():
    said = [("Ann", "On Monday we talked about the weekend since the orchestra of Lyon played on Tuesday.")] * 3
    assert not {"monday", "weekend", "since", "talked"} & set(analyze(" ".join(made(events(said)).keywords)))


def test_salience_grows_with_what_is_said_and_how_important_it_is():
    little, much = made(events(TALK[:2])), made(events(TALK))
    assert little.salience < much.salience
    told = [msgspec.structs.replace(event, importance=1.0) for event in events()]
    assert made(told).salience > much.salience


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Never deploy on a Friday.", "constraint"),
        ("Passwords must have twelve characters.", "constraint"),
        ("First stop the service, then copy the folder.", "procedure"),
        ("To reset it, run the doctor.", "procedure"),
        ("I prefer tea to coffee.", "preference"),
        ("Her favourite colour is blue.", "preference"),
        ("TOC stands for table of contents.", "definition"),
        ("A grip is a piece that proves a bullet.", "definition"),
        ("It rained in Rotterdam.", "observation"),
        ("", "observation"),
    ],
)
def test_kinds_by_simple_rules(text, kind):
    assert kind_of([text]) == kind


def test_a_nodes_kind_is_that_of_a_third_of_it():
    plain = "It rained in Rotterdam."
    assert kind_of(["I prefer tea.", plain, plain]) == "preference"
    assert kind_of(["I prefer tea.", plain, plain, plain]) == "observation"
    assert kind_of(["I prefer tea.", "Never coffee.", plain]) == "constraint"
    assert kind_of([]) == "observation"


def test_keyphrases_are_the_same_on_each_call_although_yakes_order_is_of_chance():
    text = ". ".join(text for _, text in TALK)
    assert len({tuple(keyphrases(text, ["Ann", "Bob"])) for _ in range(20)}) == 1
    assert keyphrases("", []) == []
    assert not {"ann", "bob", "wow", "great"} & {phrase.casefold() for phrase in keyphrases(text, ["Ann", "Bob"])}


@given(st.lists(st.tuples(st.sampled_from(["Ann", ""]), st.text(max_size=60)), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_whatever_is_said_can_be_summarized_and_is_quoted(talk):
    said = events(talk)
    summary = made(said)
    assert quoted(summary, said) and all(bullet.grips for bullet in summary.bullets)
    assert len(summary.title) <= summaries.TITLE_CHARS_MAX and len(summary.bullets) <= extract.BULLETS_MAX
    assert quoted(roll_up([summary, summary], {}, analyze), said)
