"""Topics: segments that are alike by their vectors. What groups go on as which topic, how much one weighs, its title.

A segment's vector is the mean of its events' vectors, of unit length; a topic's centroid that of its segments'. Who
groups segments is not here (`adapters.density_clusters`); a segment that belongs to no group joins the topic whose
centroid is nearest, if it is near enough.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.domain.extract import Analyze
from jetmem.domain.walk import Sketch

Floats: TypeAlias = NDArray[np.float32]

DAY_MS: Final = 24 * 3_600_000
#: A segment that ended so long ago weighs half of what it did.
HALF_LIFE_MS: Final = 30 * DAY_MS
#: A segment joins a topic if its cosine with the centroid lies no more than twice as far below the topic's median as
#: that of the nearest of this share of its own segments, the farthest ones, does. One cosine for all would fit one
#: model and one kind of talk: among LoCoMo's segments 0.6 leaves nobody out.
_FAR_SHARE: Final = 0.1
#: Clustering is worth it from so many segments on, and again when so many came or went, or found no topic.
FRESH_LEAST: Final = 20
FRESH_SHARE: Final = 0.1
STRAY_SHARE: Final = 0.02
#: … but not while more than this share of them have yet to get their vectors: they would be left out, too few to count.
WAITING_SHARE: Final = 0.1
#: Fewer segments than that have no groups worth a name.
GROUPED_LEAST: Final = 10
RELATED: Final = 5
TITLE_PHRASES: Final = 3
TITLE_CHARS_MAX: Final = 80
KEYWORDS_MAX: Final = 12
_PREFIX: Final = "topic:"
_WORD: Final = re.compile(r"\w+")
#: Rows multiplied at once: 4,096 vectors of 384 floats are 6 MB.
_CHUNK: Final = 4_096


class Member(msgspec.Struct, frozen=True):
    """A segment as grouping sees it: its ULID, and its topic, "" for none."""

    ulid: str
    topic: str


class Regrouped(msgspec.Struct, frozen=True):
    """The topic of each member, "" for none, and of each topic that has ended the one that took most of it, if any."""

    topics: list[str]
    merged: dict[str, str]


class Told(msgspec.Struct, frozen=True):
    """What a segment says for its topic's label: phrases, the best first, and stemmed words with their counts."""

    phrases: list[str]
    terms: Sketch


def unit(vectors: Sequence[Floats] | Floats) -> Floats:
    """The mean direction of unit vectors, at least one; of those that cancel out, the first."""
    mean = np.mean(np.asarray(vectors, np.float32), axis=0, dtype=np.float64)
    length = float(np.linalg.norm(mean))
    found = mean / length if length > 0 else np.asarray(vectors, np.float32)[0]
    return np.asarray(found, np.float32)


class Centre(NamedTuple):
    """A topic's centroid, and the least cosine with it that lets a segment join."""

    centroid: Floats
    reach: float


def centre(vectors: Floats) -> Centre:
    """The centre of a topic's segments, at least one."""
    if len(vectors) == 1:
        return Centre(unit(vectors), 1.0)
    total = vectors.sum(axis=0, dtype=np.float64)
    shares = vectors @ total
    # each compared with the others alone, as one that is to join will be: cosine of v with (total - v)
    apart = np.sqrt(np.maximum(total @ total - 2 * shares + 1, 1e-12))
    far, middle = np.quantile((shares - 1) / apart, [_FAR_SHARE, 0.5])
    return Centre(unit(vectors), float(2 * far - middle))


def nearest(vectors: Floats, centres: Sequence[Centre]) -> list[int]:
    """Of each row the number of the nearest centre if it is within its reach, else -1."""
    if not centres:
        return [-1] * len(vectors)
    centroids = np.stack([each.centroid for each in centres])
    reach = np.array([each.reach for each in centres], np.float32)
    found: list[int] = []
    for start in range(0, len(vectors), _CHUNK):
        alike = vectors[start : start + _CHUNK] @ centroids.T
        best = alike.argmax(axis=1)
        joins = alike[np.arange(len(alike)), best] >= reach[best]
        found += np.where(joins, best, -1).tolist()
    return found


def due(segments: int, fresh: int, strays: int, waiting: int = 0) -> bool:
    """Whether to group again.

    Args:
        segments: That have a vector.
        fresh: That came or went since the last time.
        strays: Of those that came, who found no topic.
        waiting: That are to come as soon as they have their vectors.
    """
    if waiting > WAITING_SHARE * segments:
        return False
    return fresh >= max(FRESH_LEAST, FRESH_SHARE * segments) or strays >= max(FRESH_LEAST, STRAY_SHARE * segments)


def regroup(members: Sequence[Member], vectors: Floats, groups: Sequence[int]) -> Regrouped:
    """Make topics of groups, so that a topic keeps its id as long as most of it stays together.

    Args:
        members: In order of time.
        vectors: A unit vector of each.
        groups: The number of each one's group; negative for none, or where it was not looked at.
    """
    numbers = _joined(vectors, np.asarray(groups, np.int64))
    old = [member.topic for member in members]
    kept, ended = matched(old, numbers)
    taken = set(old) - {""}
    names = dict(kept)
    for place, number in enumerate(numbers):
        if number >= 0 and number not in names:
            name = _PREFIX + members[place].ulid
            if name not in taken:  # else the id of an older topic that has lost its first segment: the next one's then
                taken.add(name)
                names[number] = name
    topics = [names.get(number, "") for number in numbers]
    return Regrouped(topics, {topic: names[number] for topic, number in ended.items() if number in names})


def _joined(vectors: Floats, groups: NDArray[np.int64]) -> list[int]:
    """Groups with those that belong to none but are near one."""
    present = sorted({int(number) for number in groups if number >= 0})
    loose = np.flatnonzero(groups < 0)
    centres = [centre(vectors[groups == number]) for number in present]
    joined: list[int] = groups.tolist()
    for place, number in zip(loose.tolist(), nearest(vectors[loose], centres), strict=True):
        joined[place] = present[number] if number >= 0 else -1
    return joined


def matched(old: Sequence[str], new: Sequence[int]) -> tuple[dict[int, str], dict[str, int]]:
    """Which group goes on as which topic, and which group took most of a topic that goes on as none.

    The greatest overlaps are served first (of equals the older topic, then the group that begins earlier); a group
    goes on as a topic if it has more than half of it, or consists of it by more than half. Hungarian assignment would
    maximise the sum of overlaps instead, which takes an id from the group that has most of it for the sake of others.

    Args:
        old: The topic of each segment, "" for none.
        new: The group of each, negative for none.
    """
    both = Counter((topic, number) for topic, number in zip(old, new, strict=True) if topic and number >= 0)
    size_old, size_new = Counter(old), Counter(new)
    begins = {number: place for place, number in reversed(list(enumerate(new)))}
    order = sorted(both.items(), key=lambda each: (-each[1], each[0][0], begins[each[0][1]]))
    kept: dict[int, str] = {}
    used: set[str] = set()
    for (topic, number), count in order:
        most = 2 * count > min(size_old[topic], size_new[number])
        if number not in kept and topic not in used and most:
            kept[number] = topic
            used.add(topic)
    ended = {t: number for (t, number), count in both.items() if t not in used and 2 * count > size_old[t]}
    return kept, ended


def weighed(segments: Iterable[tuple[float, int]]) -> tuple[float, int]:
    """A topic's importance at the end of its last segment, and that end.

    Each segment's salience halves every `HALF_LIFE_MS` after its end.

    Args:
        segments: Salience and end of each, at least one; epoch ms.
    """
    held = list(segments)
    last = max(end for _, end in held)
    return math.fsum(salience * 2.0 ** ((end - last) / HALF_LIFE_MS) for salience, end in held), last


def importance(weight: float, last: int, now: int) -> float:
    """What `weighed` says, as of now; of what ends in the future, as if it ended now."""
    return float(weight * 2.0 ** (min(0, last - now) / HALF_LIFE_MS))


def related(topic: int, centroids: Floats) -> list[tuple[int, float]]:
    """The topics most like one, at most `RELATED`, with the cosine of their centroids, > 0."""
    alike = np.round((centroids @ centroids[topic]).astype(np.float64), 4)
    order = sorted((n for n in range(len(alike)) if n != topic and alike[n] > 0), key=lambda n: (-alike[n], n))
    return [(n, float(alike[n])) for n in order[:RELATED]]


def labelled(
    segments: Sequence[Told], everywhere: Mapping[str, int], analyze: Analyze, authors: Iterable[str]
) -> list[str]:
    """The phrases that tell a topic from the tenant's other ones, the best first, none sharing a word with a better.

    Class-based TF-IDF (Grootendorst, 2022, "BERTopic"): a word weighs how often the topic says it times
    log(1 + A / f), with f its count everywhere and A the mean count of a word. A phrase weighs the mean of its words,
    times the number of segments that have it among their keyphrases, damped by a logarithm.

    Args:
        segments: At least one.
        everywhere: Counts of the tenant's words; those that it does not hold count as said here only.
        analyze: As the sketches were made.
        authors: Names, of whose words no phrase is made.
    """
    said: Counter[str] = Counter()
    for each in segments:
        said.update(each.terms)
    mean = sum(everywhere.values()) / max(1, len(everywhere))
    total = sum(said.values()) or 1
    weight = {
        word: count / total * math.log1p(max(1.0, mean) / max(count, everywhere.get(word, 0)))
        for word, count in said.items()
    }
    names = _words(*authors)
    held = Counter(phrase for each in segments for phrase in dict.fromkeys(each.phrases))
    scored = []
    for phrase, count in held.items():
        words = analyze(phrase)
        if words and not names & _words(phrase):
            mass = sum(weight.get(word, 0.0) for word in words) / len(words)
            scored.append((-round(mass * math.log1p(count), 9), phrase, words))
    return _distinct(sorted(scored))


def _words(*texts: str) -> set[str]:
    return {word.casefold() for text in texts for word in _WORD.findall(text)}


def _distinct(scored: Iterable[tuple[float, str, list[str]]]) -> list[str]:
    used: set[str] = set()
    phrases: list[str] = []
    for _, phrase, words in scored:
        if not used & set(words):
            used |= set(words)
            phrases.append(phrase)
            if len(phrases) == KEYWORDS_MAX:
                break
    return phrases


def title_of(phrases: Sequence[str]) -> str:
    """A few of a topic's phrases, the first letter capital; "" without any."""
    title = ", ".join(phrases[:TITLE_PHRASES])
    title = title[:1].upper() + title[1:]
    return title if len(title) <= TITLE_CHARS_MAX else title[: TITLE_CHARS_MAX - 1].rstrip() + "…"
