"""What every precision shares: sorting, padding, micro-batches, and two lanes of unequal priority."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.encoder_choice import EncoderReport
from jetmem.adapters.tokens import Tokens

#: Token ids and mask, both (texts, tokens), to L2-normalised vectors.
Forward = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
#: Batches give way to questions and to the other stages on the same cores; 10 is about a tenth of the time.
BATCH_NICE: Final = 10
#: Padded tokens in one micro-batch: 16 chat turns never reach it; 16 full windows would take twice the memory.
BATCH_TOKENS_MAX: Final = 2_048


class BatchedEncoder:
    """An encoder over a forward function.

    Two instances of the model exist: one runs interactive texts in the caller's thread at normal priority,
    the other runs batches in a thread of its own at nice `BATCH_NICE`. On Linux niceness belongs to a thread
    and is inherited by the threads it creates: so the batch lane is also built in that thread.

    Guarantees:
        Thread-safe: calls of one lane queue, the two lanes run at the same time.
    """

    def __init__(
        self, *, report: EncoderReport, dimensions: int, window_tokens: int, tokens: Tokens,
        open_forward: Callable[[int], Forward], batch_texts: int,
    ) -> None:  # fmt: skip
        self.model: str = report.model
        self.precision: str = report.precision
        self.report = report
        self.dimensions = dimensions
        self.window_tokens = window_tokens
        self._tokens = tokens
        self._batch_texts = batch_texts
        self._interactive_lock = threading.Lock()
        # one thread: one short text takes as long as with two, and half the processor time
        self._interactive = open_forward(1)
        self._lane = ThreadPoolExecutor(1, thread_name_prefix="encode-batches", initializer=_give_way)
        try:
            self._batches = self._lane.submit(open_forward, report.threads).result()
        except BaseException:
            self._lane.shutdown(wait=False)
            raise

    def encode(self, texts: Sequence[str], *, interactive: bool = False) -> NDArray[np.float32]:
        """Encode texts; see `jetmem.embed.ports.Encoder`."""
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        if interactive:
            with self._interactive_lock:
                return self._run(self._interactive, texts)
        return self._lane.submit(self._run, self._batches, texts).result()

    def close(self) -> None:
        """Finish the batch at work and end its thread."""
        self._lane.shutdown()

    def _run(self, forward: Forward, texts: Sequence[str]) -> NDArray[np.float32]:
        ids = self._tokens.ids(texts)
        vectors = np.empty((len(ids), self.dimensions), np.float32)
        for rows in micro_batches([len(each) for each in ids], self._batch_texts):
            vectors[rows] = forward(*padded([ids[row] for row in rows], self._tokens.pad_id))
        return vectors


def micro_batches(lengths: Sequence[int], texts_max: int) -> list[list[int]]:
    """Group row numbers by length, longest first, within both bounds and at most half padding.

    Beside wasting time, a short text among long ones loses exactness in int8: activations share one scale per
    batch ("ok" beside longer texts: cosine 0.938 to fp32, alone 0.973).
    """
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        full = not batches or len(batches[-1]) >= texts_max
        if full or (len(batches[-1]) + 1) * longest > BATCH_TOKENS_MAX or lengths[row] * 2 < longest:
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    return batches


def padded(ids: Sequence[Sequence[int]], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lay token ids out as a rectangle with its mask."""
    width = max(len(each) for each in ids)
    tokens = np.full((len(ids), width), pad_id, np.int64)
    mask = np.zeros((len(ids), width), np.int64)
    for row, each in enumerate(ids):
        tokens[row, : len(each)] = each
        mask[row, : len(each)] = 1
    return tokens, mask


def _give_way() -> None:
    # Lowering is always allowed; where a thread has no priority of its own, batches merely do not give way.
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BATCH_NICE)
