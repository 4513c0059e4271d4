"""Vectors of recent texts, by hash of the text: what is delivered again is not encoded again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

#: 128 bits: two different texts never meet.
_DIGEST_BYTES = 16


class Recent:
    """A bounded cache, least recently used out first. Not thread-safe. Holds no text."""

    def __init__(self, texts_max: int) -> None:
        self._max = texts_max
        self._vectors: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def known(self, texts: Iterable[str]) -> dict[str, bytes]:
        """The vectors held, by text."""
        found: dict[str, bytes] = {}
        for text in texts:
            digest = _digest(text)
            vector = self._vectors.get(digest)
            if vector is not None:
                self._vectors.move_to_end(digest)
                found[text] = vector
        return found

    def keep(self, vectors: Iterable[tuple[str, bytes]]) -> None:
        """Remember these."""
        for text, vector in vectors:
            self._vectors[_digest(text)] = vector
        while len(self._vectors) > self._max:
            self._vectors.popitem(last=False)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
