"""An encoder and a splitter without a model: equal words give similar vectors."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.encoder_choice import EncoderReport, judge
from jetmem.runtime.errors import Broken, Poison
from jetmem.runtime.limits import PASSAGES_MAX

#: A text that holds it fails for ever, like one that crashes the real encoder.
POISON_MARKER: Final = "\x00poison\x00"
#: Nobody leaves a test's gate closed for longer.
GATE_TIMEOUT_S: Final = 30.0
_WORD: Final = re.compile(r"\w+")


class FakeEncoder:
    """Bag of hashed words, L2-normalised; deterministic across processes.

    Attributes:
        calls: Texts of each call and whether it was interactive, in order.
        gate: Cleared, batches wait in `encode` until it is set; interactive texts pass.
        failure: Raised by every call while set.
        poison: Marker; a call with a text that holds it raises `Poison`.
    """

    def __init__(self, *, dimensions: int = 384, window_tokens: int = 256, poison: str = POISON_MARKER) -> None:
        self.model: str = "fake@00000000"
        self.precision: str = "words"
        self.dimensions = dimensions
        self.window_tokens = window_tokens
        self.poison = poison
        self.failure: Exception | None = None
        self.calls: list[tuple[tuple[str, ...], bool]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.report = EncoderReport(
            model=self.model,
            precision=self.precision,
            processor="none",
            threads=1,
            candidates=(judge("words", 1.0, 1.0, 1.0),),
            why="a fake",
        )

    def encode(self, texts: Sequence[str], *, interactive: bool = False) -> NDArray[np.float32]:
        """Encode texts; see `jetmem.embed.ports.Encoder`.

        Raises:
            Poison: A text holds the marker.
            Broken: The gate stayed closed.
        """
        self.calls.append((tuple(texts), interactive))
        if not interactive and not self.gate.wait(GATE_TIMEOUT_S):
            raise Broken("the fake encoder's gate was never opened")
        if self.failure is not None:
            raise self.failure
        if any(self.poison in text for text in texts):
            raise Poison("encode_failed", "the text holds the poison marker", "text")
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._vector(text)
        return vectors

    def close(self) -> None:
        """Nothing to release."""

    def _vector(self, text: str) -> NDArray[np.float32]:
        vector = np.zeros(self.dimensions, np.float32)
        # A text without words still has a direction, as with the real encoder.
        for word in _WORD.findall(text.lower())[: self.window_tokens - 2] or [""]:
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            number = int.from_bytes(digest)
            # Several places per word: two different words hardly ever look alike.
            for shift in (0, 16, 32):
                place = (number >> shift) & 0x7FFF
                vector[place % self.dimensions] += 1.0 if (number >> (shift + 15)) & 1 else -1.0
        length = float(np.linalg.norm(vector))
        if length == 0.0:
            vector[0], length = 1.0, 1.0
        return np.asarray(vector / np.float32(length), np.float32)

    def __repr__(self) -> str:
        return f"FakeEncoder({self.dimensions})"


class FakeSplitter:
    """Cuts at words: every word is one token; same bounds as the real one."""

    def __init__(self, *, words: int = 254, overlap: int = 32) -> None:
        self._words = words
        self._step = max(1, words - overlap)

    def split(self, text: str) -> list[str]:
        """Split one text; see `jetmem.adapters.tokens.WindowSplitter`."""
        spans = [match.span() for match in re.finditer(r"\S+", text)]
        if len(spans) <= self._words:
            return [text]
        passages = []
        for first in range(0, len(spans), self._step):
            inside = spans[first : first + self._words]
            passages.append(text[inside[0][0] : inside[-1][1]])
            if first + self._words >= len(spans) or len(passages) == PASSAGES_MAX:
                break
        return passages
