"""Which characters of a text matched a question's words. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from jetmem.domain.lexical import STOP_WORDS

HIGHLIGHTS_MAX: Final = 20
#: More words than a question has; bounds the pattern that a 8 kB question would make.
_WORDS_MAX: Final = 64
#: A stem is at least this long, so that "his" and "hiking" stay apart.
_STEM_MIN: Final = 3
_ENDINGS: Final = ("ingly", "edly", "ings", "ing", "ied", "ies", "ed", "es", "ly", "s")
_STOP: Final = frozenset(STOP_WORDS)
#: As the word index splits: letters and digits; the underscore separates.
_WORD: Final = re.compile(r"[^\W_]+")


def stem(word: str) -> str:
    """A rough English stem: enough to mark "moved" for "moving"; what was found is the index's business."""
    word = word.casefold()
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _STEM_MIN and not (ending == "s" and word[-2] in "su"):
            word = word[: -len(ending)] + ("i" if ending in ("ied", "ies") else "")
            break
    if len(word) > _STEM_MIN and word[-1] == "e":
        word = word[:-1]
    if len(word) > _STEM_MIN and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] + "i" if len(word) > _STEM_MIN and word[-1] == "y" else word


class Marker:
    """Marks one question's words in many texts."""

    def __init__(self, question: str) -> None:
        words = [word.casefold() for word in _WORD.findall(question)]
        meant = [word for word in words if word not in _STOP] or words
        self._words = frozenset(meant[:_WORDS_MAX])
        self._stems = frozenset(stem(word) for word in self._words)
        # A stem's last letter may differ from the word's (study, studies), so only what precedes it must be there.
        starts = {s[: max(len(s) - 1, 1)] for s in self._stems} | set(self._words)
        choice = "|".join(re.escape(s) for s in sorted(starts, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<![^\W_])(?:{choice})[^\W_]*", re.IGNORECASE) if starts else None

    def ranges(self, text: str) -> list[tuple[int, int]]:
        """[start, end) in characters, in order, apart from each other, at most `HIGHLIGHTS_MAX`."""
        if self._pattern is None:
            return []
        return merged(m.span() for m in self._pattern.finditer(text) if self._meant(m[0]))

    def _meant(self, word: str) -> bool:
        return word.casefold() in self._words or stem(word) in self._stems


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ordered ranges with those that touch made one; at most `HIGHLIGHTS_MAX`."""
    found: list[tuple[int, int]] = []
    for start, end in ranges:
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
            continue
        if len(found) == HIGHLIGHTS_MAX:
            break
        found.append((start, end))
    return found


@lru_cache(maxsize=64)
def marker(question: str) -> Marker:
    """The marker of a question; the next page of the same needs no new pattern."""
    return Marker(question)
