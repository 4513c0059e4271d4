"""What nodes of the table of contents say by default: extractive, deterministic, no network.

Bullets are sentences chosen by `extract`. Titles and keywords of segments are keyphrases by YAKE (Campos and others,
2020, "YAKE! Keyword extraction from single documents using multiple local features") in its Rust implementation: the
one in Python takes 640 ms for a segment of 4,000 tokens. Over all of it even this one takes 19 ms, and praises
greetings; over the sentences with most to tell it takes 2 ms. A whole segment of 4,000 tokens takes 10 ms.

Those of days, weeks, months and years are their children's, see `told_above`. On LoCoMo dev, made without vectors, the
evidence of a question is in the 3 nodes of a level whose titles, or keywords, have most of its words (BM25): days 0.23,
0.44, weeks 0.20, 0.41, months 0.17, 0.34. By YAKE of the children's bullets it was 0.19, 0.42; 0.16, 0.30; 0.11, 0.22.

A node also holds a sketch, its words with their counts, for `walk`: without it bullets find 0.54 of LoCoMo's evidence
in 3 segments, with it 0.84.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Final

import msgspec
from yake_rust import Yake

from jetmem.domain import calendar, extract, lexical, walk
from jetmem.domain.extract import Analyze, Bullet, Candidate, Said, Vectors
from jetmem_schemas.toc import NodeKind

KEYWORDS_MAX: Final = 12
#: Sentences that keyphrases are taken from: their time grows with the text, and more of it adds small talk.
PHRASE_SENTENCES: Final = 16
PHRASE_WORDS_MAX: Final = 3
#: Of the children's phrases, so many are weighed: a day may have thousands of segments.
PHRASES_WEIGHED: Final = 2_000
#: Of a child's phrase, for each that was chosen of the same child.
SAME_CHILD: Final = 0.5
#: Asked of YAKE at once: all there are, for those with equal scores come in an order of chance.
_PHRASES_MAX: Final = 10_000
TITLE_PHRASES: Final = 3
TITLE_CHARS_MAX: Final = 80
SUMMARY_BULLETS: Final = 2
#: Words after which a segment has said as much as one can, for its salience.
_FULL_WORDS: Final = 200
#: A kind other than observation that a third of the bullets are of is the node's.
_KIND_SHARE: Final = 3

#: Chat that says nothing of what is talked about, or when, which the node's time says; stop words of YAKE beside the
#: usual ones and the authors' names.
FILLERS: Final = frozenset(
    """hey hi hello bye wow yeah yes yep nope ok okay oh ah haha lol please thanks thank welcome awesome cool great
    good nice amazing wonderful glad happy sounds sound really actually definitely totally absolutely probably
    maybe pretty quite even also still much many lot lots bit thing things something anything everything someone
    way kind sort get gets got getting go goes going gone come comes coming went know knew think thought feel
    feels felt want wanted like liked love loved make makes made making let keep see seen saw look looks looking
    take took say says said tell told put try need needs use used yesterday today tomorrow last next week weeks
    day days time times image photo picture yet gotta gonna one everyone sure past found find thankfully
    since ago chat chats chatted chatting talk talks talking talked spoke speak ask asked asking happen happened happens
    happening stuff month months year years hour hours minute minutes weekend weekends morning afternoon evening night
    today tonight lately recently monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thurs
    fri sat january february april june july august september october november december jan feb apr aug sep sept oct nov
    dec two three four five six seven eight nine ten first second third together help helps helped super special
    """.split()  # noqa: SIM905 (250 quoted words are harder to read)
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WORD: Final = re.compile(r"\w+")
#: In the order in which they are asked: what binds first. English, and simple on purpose: a hint, not a judgement.
_KINDS: Final[tuple[tuple[NodeKind, re.Pattern[str]], ...]] = (
    ("constraint", re.compile(
        r"\b(must|never|always|do not|don't ever|not allowed|forbidden|(is|are) required|at most|no more than|at least"
        r"|only ever|make sure)\b", re.IGNORECASE)),
    ("procedure", re.compile(
        r"\bstep \d|^\s*\d+[.)] |\bfirst\b.{3,120}\bthen\b|\bhow to\b"
        r"|\bto \w+.{0,60}?, (run|use|type|open|call|click)\b|^(run|install|open|click|type) ", re.IGNORECASE)),
    ("preference", re.compile(
        r"\b(i|we|he|she|they)( \w+)? (prefer|like|love|hate|enjoy|dislike|favou?r)s?\b|\bfavou?rite\b|\bwould rather\b"
        r"|\bprefers?\b", re.IGNORECASE)),
    ("definition", re.compile(
        r"\b(means|stands for|refers to|is short for|is defined as|is called)\b|^([\w-]+ ){0,3}[\w-]+ is an? \w+ (that"
        r"|which|of|for)\b", re.IGNORECASE)),
)  # fmt: skip


class Summary(msgspec.Struct, frozen=True):
    """What a node says.

    `bullets` in order of time, each with at least one grip, none only where nothing was said; `keywords` as people
    write them, the best first; `sketch` analysed words with counts, see `walk`; `salience` 0..1; `authors` sorted.
    """

    title: str
    summary: str
    bullets: list[Bullet]
    keywords: list[str]
    kind: NodeKind
    salience: float
    authors: list[str]
    sketch: walk.Sketch


def summarize(
    events: Sequence[Said], vectors: Vectors, analyze: Analyze, zone: tzinfo, corrected: Collection[str] = ()
) -> Summary:
    """Summarize a segment.

    Args:
        events: In order, at least one.
        vectors: Of the events that have one, the question's kind; without any it is done by words.
        analyze: As of questions and of every other node of the tenant.
        zone: The tenant's, for the date words.
        corrected: Ids of events that another corrects: nothing is quoted of them, but they can be walked to.
    """
    candidates = extract.said_candidates(events, vectors, analyze)
    authors = sorted({event.author for event in events if event.author})
    when = lexical.date_words(calendar.local(events[0].ts, zone))
    words = [word for candidate in candidates for word in candidate.words]
    words += [word for text in (*authors, when) for word in analyze(text)]
    right = [candidate for candidate in candidates if candidate.bullet.grips[0].first not in corrected]
    said = _said(right, extract.bullets_wanted(len(right), False), authors)
    important = max((event.importance for event in events if event.importance is not None), default=0.5)
    full = 1 - math.exp(-len(words) / _FULL_WORDS)
    return Summary(
        title=said.title or _silent_title(events),
        summary=said.summary,
        bullets=said.bullets,
        keywords=said.keywords,
        kind=said.kind,
        # Half for how much was said, the rest for what its author and its kind say of it.
        salience=round(0.5 * full + 0.3 * important + 0.2 * (said.kind != "observation"), 4),
        authors=authors,
        sketch=walk.sketch_of(words),
    )


def roll_up(children: Sequence[Summary], vectors: Vectors, analyze: Analyze) -> Summary:
    """Summarize a day, week, month or year from its children's summaries.

    Args:
        children: In order of time, at least one.
        vectors: By event id, of the bullets' first events; may be missing.
        analyze: As for the children.
    """
    candidates = extract.bullet_candidates([child.bullets for child in children], vectors, analyze)
    count = extract.bullets_wanted(len(candidates), True)
    authors = sorted({author for child in children for author in child.authors})
    bullets, summary = _bullets(candidates, extract.choose(candidates, count, count), count)
    phrases = told_above(children, analyze)
    title = _title(phrases, bullets) if len(children) > 1 else children[0].title
    return Summary(
        title=title or children[-1].title,
        summary=summary,
        bullets=bullets,
        keywords=phrases,
        kind=kind_of([bullet.grips[0].excerpt for bullet in bullets]),
        salience=max(child.salience for child in children),
        authors=authors,
        sketch=walk.merged([child.sketch for child in children]),
    )


class _Told(msgspec.Struct, frozen=True):
    title: str
    summary: str
    bullets: list[Bullet]
    keywords: list[str]
    kind: NodeKind


def _said(candidates: Sequence[Candidate], count: int, authors: Iterable[str]) -> _Told:
    telling = extract.choose(candidates, PHRASE_SENTENCES, count)
    bullets, summary = _bullets(candidates, telling, count)
    text = ". ".join(candidates[n].bullet.grips[0].excerpt.rstrip(".!?…") for n in sorted(telling))
    phrases = keyphrases(text, authors)
    return _Told(
        title=_title(phrases, bullets),
        summary=summary,
        bullets=bullets,
        keywords=phrases,
        kind=kind_of([bullet.grips[0].excerpt for bullet in bullets]),
    )


def _bullets(candidates: Sequence[Candidate], chosen: Sequence[int], count: int) -> tuple[list[Bullet], str]:
    """Bullets in order of time, and the best of them as a summary."""
    bullets = [candidates[number].bullet for number in sorted(chosen[:count])]
    best = sorted(chosen[: min(count, SUMMARY_BULLETS)])
    return bullets, " ".join(candidates[number].bullet.text for number in best)


class _Phrase(msgspec.Struct):
    text: str
    child: int
    words: frozenset[str]
    worth: float = 0.0


def told_above(children: Sequence[Summary], analyze: Analyze) -> list[str]:
    """Keyphrases of a node from its children's, the best first, none sharing a word with a better one.

    A phrase is worth the sum of 1 / rank over the children that have it (reciprocal rank fusion: Cormack and others,
    2009), times log2(1 + its words), for longer ones say more (C-value: Frantzi and others, 2000), and less for each
    phrase of the same child that was taken before. An only child's are taken as they are.
    """
    if len(children) == 1:
        return children[0].keywords
    telling = [child for child in children if child.bullets][:PHRASES_WEIGHED]
    each = max(1, PHRASES_WEIGHED // max(1, len(telling)))
    found: dict[frozenset[str], _Phrase] = {}
    for number, child in enumerate(telling):
        for rank, text in enumerate(child.keywords[:each], 1):
            words = frozenset(analyze(text))
            if words:
                phrase = found.setdefault(words, _Phrase(text, number, words))
                phrase.worth += math.log2(1 + len(words)) / rank
    left, taken = list(found.values()), Counter[int]()
    phrases: list[str] = []
    while left and len(phrases) < KEYWORDS_MAX:
        # rounded, and of equals the first: the same on any machine
        best = max(left, key=lambda phrase: round(phrase.worth * SAME_CHILD ** taken[phrase.child], 6))
        phrases.append(best.text)
        taken[best.child] += 1
        left = [phrase for phrase in left if not phrase.words & best.words]
    return phrases


def keyphrases(text: str, authors: Iterable[str]) -> list[str]:
    """The best phrases of a text, without stop words, none sharing a word with a better one; the same on each call.

    YAKE's own order of phrases with equal scores is of chance, and so are the last bits of scores and what its own
    removal of likenesses leaves; so all are taken, rounded and sorted here.

    Args:
        text: Sentences.
        authors: Names, of whose words no phrase is made: they talk, they are not talked about.
    """
    names = {word.casefold() for author in authors for word in _WORD.findall(author)}
    stops = {*lexical.STOP_WORDS, *FILLERS, *names}
    yake = Yake(stopwords=stops, ngrams=PHRASE_WORDS_MAX, remove_duplicates=False)
    found = sorted((round(score, 6), phrase) for phrase, score in yake.get_n_best(text, n=_PHRASES_MAX))
    used: set[str] = set()
    phrases: list[str] = []
    for _, phrase in found:
        words = {word.casefold() for word in _WORD.findall(phrase)}
        if words and not words & used and not words & stops and not all(len(w) < 3 or w.isdigit() for w in words):
            used |= words
            phrases.append(phrase)
            if len(phrases) == KEYWORDS_MAX:
                break
    return phrases


def kind_of(texts: Sequence[str]) -> NodeKind:
    """What most of these are, if a third of them are of one kind by the rules above; an observation else."""
    kinds = Counter(next((kind for kind, rule in _KINDS if rule.search(text)), "observation") for text in texts)
    for kind, _ in _KINDS:
        if kinds[kind] * _KIND_SHARE >= max(1, len(texts)) and kinds[kind] == max(kinds[k] for k, _ in _KINDS):
            return kind
    return "observation"


def _title(phrases: Sequence[str], bullets: Sequence[Bullet]) -> str:
    title = ", ".join(phrases[:TITLE_PHRASES]) or (bullets[0].grips[0].excerpt if bullets else "")
    title = title[:1].upper() + title[1:]
    return title if len(title) <= TITLE_CHARS_MAX else title[: TITLE_CHARS_MAX - 1].rstrip() + "…"


def _silent_title(events: Sequence[Said]) -> str:
    """What there is to say of events without words: how many of each kind."""
    kinds = Counter(event.kind for event in events)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))[:TITLE_CHARS_MAX]
